"""What the CRD's schema refuses before any webhook validates (contract §1.3, errata 1-4).

The API server answers 422 with the path in the sentence; here that is a Denied like the others.
"""

import re
from collections.abc import Collection

from headrace.controller.api.inference_service import (
    Component,
    InferenceService,
    Predictor,
    StorageUri,
)
from headrace.controller.errors import Denied
from headrace.controller.validation.scaling import metrics_of

VARIANT = re.compile("^[a-z]([-a-z0-9]*[a-z0-9])?$")
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
SCALE_METRICS = ("cpu", "memory", "concurrency", "rps")
TARGET_TYPES = ("Utilization", "Value", "AverageValue")


def check(isvc: InferenceService) -> None:
    """Raises Denied for the first broken rule."""
    name = isvc.metadata.name
    try:
        _check_name(name)
        for key, component in isvc.spec.components().items():
            _check_component(component, f"spec.{key}")
        for i, canary in enumerate(isvc.spec.canary):
            _check_component(canary.predictor, f"spec.canary[{i}].predictor")
            _check_percent(canary.traffic_percent, f"spec.canary[{i}].trafficPercent")
    except _Broken as err:
        raise Denied(f'InferenceService.serving.kserve.io "{name}" is invalid: {err}') from None


class _Broken(Exception):
    pass


def _check_name(name: str) -> None:
    if not re.fullmatch(SUBDOMAIN, name):
        raise _Broken(
            f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist '
            "of lower case alphanumeric characters, '-' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'example.com', regex used for validation is "
            f"'{SUBDOMAIN}')"
        )


def _check_percent(percent: int, at: str) -> None:
    if percent > 100:
        raise _Broken(
            f"{at}: Invalid value: {percent}: {at} in body should be less than or equal to 100"
        )
    if percent < 0:
        raise _Broken(
            f"{at}: Invalid value: {percent}: {at} in body should be greater than or equal to 0"
        )


def _check_component(component: Component, at: str) -> None:
    if isinstance(component, Predictor) and component.name:
        _check_pattern(component.name, VARIANT, f"{at}.name")
    _check_choice(component.scale_metric, SCALE_METRICS, f"{at}.scaleMetric")
    _check_choice(component.scale_metric_type, TARGET_TYPES, f"{at}.scaleMetricType")
    _check_metrics(component, f"{at}.autoScaling.metrics")
    if component.logger is not None:
        modes = ("all", "request", "response")
        _check_choice(component.logger.mode or None, modes, f"{at}.logger.mode")
    if component.storage_uris is not None:
        _check_storage_uris(component.storage_uris, f"{at}.storageUris")
    percent = component.canary_traffic_percent
    if percent is not None:  # KServe lets it through to Knative, which refuses it (errata 11)
        _check_percent(percent, f"{at}.canaryTrafficPercent")


def _check_metrics(component: Component, at: str) -> None:
    for i, metric in enumerate(metrics_of(component)):
        path = f"{at}[{i}]"
        _check_choice(metric.type, ("Resource", "External", "PodMetric"), f"{path}.type")
        for key, source in (
            ("resource", metric.resource),
            ("external", metric.external),
            ("podmetric", metric.podmetric),
        ):
            if source is not None:
                kind = source.target.type or None
                _check_choice(kind, TARGET_TYPES, f"{path}.{key}.target.type")
        if metric.resource is not None:
            _check_choice(metric.resource.name, ("cpu", "memory"), f"{path}.resource.name")
        if metric.external is not None:
            backend = metric.external.metric.get("backend")
            backends = ("prometheus", "graphite")
            _check_choice(backend, backends, f"{path}.external.metric.backend")
        if metric.podmetric is not None:
            backend = metric.podmetric.metric.get("backend")
            _check_choice(backend, ("opentelemetry",), f"{path}.podmetric.metric.backend")


def _check_storage_uris(uris: list[StorageUri], at: str) -> None:
    if not uris:
        raise _Broken(f"{at}: Invalid value: 0: {at} in body should have at least 1 items")
    for i, each in enumerate(uris):
        if not each.uri:
            path = f"{at}[{i}].uri"
            raise _Broken(
                f'{path}: Invalid value: "": {path} in body should be at least 1 chars long'
            )
        if len(each.mount_path) > 255:
            raise _Broken(f"{at}[{i}].mountPath: Too long: may not be more than 255 bytes")
        _check_pattern(each.mount_path, re.compile("^/.*"), f"{at}[{i}].mountPath")


def _check_choice(value: str | None, choices: Collection[str], at: str) -> None:
    if value is not None and value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise _Broken(f'{at}: Unsupported value: "{value}": supported values: {listed}')


def _check_pattern(value: str, pattern: re.Pattern[str], at: str) -> None:
    if not pattern.search(value):
        raise _Broken(
            f"{at}: Invalid value: \"{value}\": {at} in body should match '{pattern.pattern}'"
        )
