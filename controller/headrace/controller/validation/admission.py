"""validate(): every rule in KServe's order; the first that is broken refuses the object."""

import re

from headrace.controller.annotations import AUTOSCALER_CLASS
from headrace.controller.api.inference_service import InferenceService
from headrace.controller.config import Config
from headrace.controller.defaulting import effective_mode
from headrace.controller.errors import Denied
from headrace.controller.validation import (
    canary,
    components,
    multi_node,
    pods,
    scaling,
    schema,
    sources,
    updates,
)

NAME = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
AUTOSCALER_CLASSES = ("hpa", "external", "keda", "none")


def validate(
    isvc: InferenceService, config: Config, old: InferenceService | None = None
) -> list[str]:
    """Warnings for a defaulted isvc that is accepted. old: what an update replaces.

    Raises Denied with KServe's sentence. An object that is being deleted is not looked at.
    """
    schema.check(isvc)
    if isvc.metadata.deletion_timestamp:
        return []
    mode = effective_mode(isvc, config)
    if old is not None:
        updates.check(old, isvc)
    _check_name(isvc.metadata.name)
    _check_autoscaler_class(isvc)
    pods.check_python_path(isvc)
    multi_node.check(isvc, config)
    pods.check_collocation(isvc.spec.predictor)
    components.check_no_name(isvc.spec.predictor)
    warnings = sources.check(isvc)
    for key, component in components.in_order(isvc.spec).items():
        components.check(key, component)
        scaling.check(component, isvc.metadata.annotations, mode)
    canary.check(isvc, mode)
    return [*warnings, *_forecasts(isvc)]


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise Denied(
            f'the InferenceService "{name}" is invalid: a InferenceService name must consist of '
            "lower case alphanumeric characters or '-', and must start with alphabetical "
            'character. (e.g. "my-name" or "abc-123", regex used for validation is '
            f"'{NAME.pattern}')"
        )


def _check_autoscaler_class(isvc: InferenceService) -> None:
    name = isvc.metadata.annotations.get(AUTOSCALER_CLASS)
    if name is not None and name not in AUTOSCALER_CLASSES:
        raise Denied(f"[{name}] is not a supported autoscaler class type")


def _forecasts(isvc: InferenceService) -> list[str]:
    """Warnings for what KServe accepts and what can only fail later (errata's decision)."""
    found = []
    model = isvc.spec.predictor.model
    if model is not None and not model.model_format.name:
        found.append(
            "spec.predictor.model.modelFormat.name is empty: no serving runtime will match it"
        )
    if len(isvc.metadata.name) > 63:
        found.append(
            "metadata.name has more than 63 characters: no valid host name can be made of it"
        )
    for key, component in isvc.spec.components().items():
        if component.scale_target is not None and component.scale_target < 1:
            found.append(
                f"spec.{key}.scaleTarget is {component.scale_target}: an autoscaler refuses a "
                "target below 1"
            )
        uris = [each.uri for each in component.storage_uris or [] if each.uri.startswith("oci")]
        if len(uris) > 10:
            found.append(
                f"spec.{key}.storageUris has {len(uris)} OCI sources: a pod can have at most 10"
            )
    return found
