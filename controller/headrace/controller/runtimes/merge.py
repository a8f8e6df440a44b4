"""Runtime and predictor become one pod (contract §4.4)."""

from dataclasses import dataclass
from typing import Any, cast

from msgspec.structs import replace

from headrace.controller.annotations import INFERENCE_SERVICE_NAME
from headrace.controller.api.inference_service import InferenceService, Model
from headrace.controller.api.pod import (
    PREDICTOR_CONTAINER,
    TRANSFORMER_CONTAINER,
    Container,
    EnvVar,
    PodSpec,
    named,
)
from headrace.controller.api.serving_runtime import ServingRuntime
from headrace.controller.errors import Failure, InvalidPredictor
from headrace.controller.runtimes.images import tagged
from headrace.controller.runtimes.server_types import adapted, server_type
from headrace.controller.runtimes.strategic_merge import merged
from headrace.controller.runtimes.templates import expanded

# What a runtime gives its pod beside containers; KServe forgets hostIPC.
POD_FIELDS = (
    *("nodeSelector", "affinity", "tolerations", "volumes", "imagePullSecrets"),
    *("schedulerName", "resourceClaims", "hostIPC"),
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What serves a model: the pod, the protocol it speaks, the labels its objects carry."""

    pod: PodSpec
    protocol: str
    labels: dict[str, str]


def merge(isvc: InferenceService, runtime: ServingRuntime) -> ServedModel:
    """The pod of a defaulted isvc's model predictor. Raises InvalidPredictor."""
    predictor = isvc.spec.predictor
    if predictor.model is None:
        raise ValueError(f"{isvc.metadata.name}: the predictor has no model")
    fitted = adapted(
        predictor.model,
        isvc.metadata.name,
        runtime,
        has_storage=_has_storage(predictor.model) or bool(predictor.storage_uris),
    )
    metadata = replace(isvc.metadata, labels={**isvc.metadata.labels, **fitted.labels})
    base = named(runtime.spec.containers, PREDICTOR_CONTAINER)
    if base is None:
        raise InvalidPredictor(
            Failure.INVALID_PREDICTOR_SPEC,
            f"failed to find {PREDICTOR_CONTAINER} in ServingRuntime containers",
        )
    main = expanded(overlaid(base, fitted.model.container), metadata)
    main["image"] = tagged(main, server_type(runtime), fitted.model.runtime_version)
    containers = [main, *_others(runtime.spec.containers, predictor.containers, metadata)]
    runtime_pod = {key: value for key, value in runtime.spec.pod.items() if key in POD_FIELDS}
    pod = cast(PodSpec, merged(runtime_pod, predictor.pod))
    pod["containers"] = [with_service_name(each, isvc.metadata.name) for each in containers]
    return ServedModel(pod, fitted.model.protocol_version or "v1", fitted.labels)


def overlaid(base: Container, overlay: Container) -> Container:
    """overlay over base; args are those of both, base's first; the name is base's."""
    rest = {key: value for key, value in overlay.items() if key not in ("args", "name")}
    found = cast(Container, merged(base, rest))
    args = [*base.get("args", []), *overlay.get("args", [])]
    if args:
        found["args"] = args
    return found


def with_service_name(container: Container, name: str) -> Container:
    """container told the service it belongs to, once."""
    found = Container(**container)
    others = [each for each in found.get("env", []) if each.get("name") != INFERENCE_SERVICE_NAME]
    found["env"] = [*others, EnvVar(name=INFERENCE_SERVICE_NAME, value=name)]
    return found


def _others(base: list[Container], own: list[Container], metadata: Any) -> list[Container]:
    """A collocated transformer, then the runtime's helpers, then the service's."""
    taken = (PREDICTOR_CONTAINER, TRANSFORMER_CONTAINER)
    found: list[Container] = []
    below, above = named(base, TRANSFORMER_CONTAINER), named(own, TRANSFORMER_CONTAINER)
    if below is not None or above is not None:
        both = overlaid(below or Container(), above or Container())
        both["name"] = TRANSFORMER_CONTAINER
        found.append(expanded(both, metadata))
    found += [each for each in base if each.get("name") not in taken]
    found += [each for each in own if each.get("name") not in taken]
    return found


def _has_storage(model: Model) -> bool:
    return model.storage_uri is not None or model.storage is not None
