"""Rules about autoscaling (17-20); which apply depends on the mode and the autoscaler's class."""

import re
from collections.abc import Mapping

from headrace.controller.annotations import (
    AUTOSCALER_CLASS,
    KNATIVE_AUTOSCALING_CLASS,
    KNATIVE_HPA,
)
from headrace.controller.api.inference_service import Component, MetricSpec, MetricTarget
from headrace.controller.config import Mode
from headrace.controller.errors import Denied

PERCENTAGE = "the target utilization percentage should be a [1-100] integer"
TINY_MEMORY = "the target memory should be greater than 1 MiB"
KNATIVE_KPA = "kpa.autoscaling.knative.dev"
MEBIBYTE = 1 << 20
SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1,
    **{letter: 1000 ** (i + 1) for i, letter in enumerate("kMGTPE")},
    **{f"{letter}i": 1024 ** (i + 1) for i, letter in enumerate("KMGTPE")},
}


def check(component: Component, annotations: Mapping[str, str], mode: Mode) -> None:
    """Without the class annotation Standard mode checks nothing (errata 24)."""
    if mode is Mode.STANDARD:
        match annotations.get(AUTOSCALER_CLASS):
            case "hpa":
                _check_hpa(component)
            case "keda":
                _check_keda(component)
    elif mode is Mode.KNATIVE:
        if component.deployment_strategy is not None:
            raise Denied("customizing deploymentStrategy is only supported for raw deployment mode")
        match annotations.get(KNATIVE_AUTOSCALING_CLASS, KNATIVE_KPA):
            case name if name == KNATIVE_HPA:
                _check_hpa(component)
            case name if name == KNATIVE_KPA:
                _check_kpa(component)


def metrics_of(component: Component) -> list[MetricSpec]:
    return (component.auto_scaling.metrics if component.auto_scaling else None) or []


def _check_hpa(component: Component) -> None:
    metric = component.scale_metric
    if metric not in (None, "cpu", "memory"):
        raise Denied(f"[{metric}] is not a supported metric")
    target = component.scale_target
    if target is not None:
        if target > 100 or (target < 1 and metric != "memory"):
            raise Denied(PERCENTAGE)
        if target < 1:
            raise Denied(TINY_MEMORY)
    for each in metrics_of(component):
        if each.type != "Resource":
            raise Denied(
                f"invalid HPA metric source type with value [{each.type}],valid metric source "
                "types are Resource"
            )
        if each.resource is None:
            raise Denied("metricSpec.Resource is not set for resource metric source type")


def _check_keda(component: Component) -> None:
    if component.scale_metric is not None:
        raise Denied("ScaleMetric is not supported for KEDA")
    for each in metrics_of(component):
        match each.type:
            case "Resource":
                _check_keda_resource(each)
            case "External":
                if each.external is None:
                    raise Denied("metricSpec.External is not set for external metric source type")
                _check_query(each.external.metric.get("query"), each.external.target)
            case "PodMetric":
                if each.podmetric is None:
                    raise Denied("metricSpec.PodMetric is not set for pod metric source type")
                _check_query(each.podmetric.metric.get("query"), each.podmetric.target)


def _check_keda_resource(metric: MetricSpec) -> None:
    resource = metric.resource
    if resource is None:
        raise Denied("metricSpec.Resource is not set for resource metric source type")
    target = resource.target
    if resource.name == "cpu" and target.type != "Utilization":
        raise Denied("the cpu target value type should be Utilization")
    if resource.name == "memory":
        if target.type not in ("AverageValue", "Utilization"):
            raise Denied("the memory target value type should be AverageValue or Utilization")
        least = target.average_value
        if target.type == "AverageValue" and least is not None and quantity(least) < MEBIBYTE:
            raise Denied("the memory target value should be greater than 1 MiB")
    percent = target.average_utilization
    if target.type == "Utilization" and percent is not None and not 1 <= percent <= 100:
        raise Denied(PERCENTAGE)


def _check_query(query: str | None, target: MetricTarget) -> None:
    if not query:
        raise Denied("the query should not be empty")
    if target.value is None:
        raise Denied("the target threshold value should not be empty")


def _check_kpa(component: Component) -> None:
    metric = component.scale_metric
    if metric not in (None, "concurrency", "rps"):
        raise Denied(f"[{metric}] is not a supported metric")
    if metric == "rps" and component.scale_target is not None and component.scale_target < 1:
        raise Denied("the target for rps should be greater than 1")


def quantity(text: str | int) -> float:
    """The number a Kubernetes quantity stands for. Raises Denied for what is none."""
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkKMGTPE]?i?)", str(text))
    if found is None or found[2] not in SUFFIXES:
        raise Denied(f"{text!r} is not a quantity such as 500m, 2 or 1Gi")
    return float(found[1]) * SUFFIXES[found[2]]
