"""Rules about one component: its implementation and its extension fields (6, 10-16)."""

from headrace.controller.api.inference_service import (
    Component,
    Explainer,
    InferenceServiceSpec,
    Logger,
    Predictor,
)
from headrace.controller.api.pod import PREDICTOR_CONTAINER, env_value, named
from headrace.controller.defaulting import is_custom
from headrace.controller.errors import Denied

EXACTLY_ONE = {
    "predictor": "exactly one of [Name, SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, "
    "HuggingFace, PMML, LightGBM, Paddle, Model, StorageUris, StorageContainerName, WorkerSpec, "
    "PodSpec] must be specified in PredictorSpec",
    "transformer": "exactly one of [PodSpec, ComponentExtensionSpec] must be specified in "
    "TransformerSpec",
    "explainer": "exactly one of [ART, PodSpec, ComponentExtensionSpec] must be specified in "
    "ExplainerSpec",
}
PROTOCOLS = ("v1", "v2")


def in_order(spec: InferenceServiceSpec) -> dict[str, Component]:
    """The components present, in the order in which KServe checks them."""
    found = spec.components()
    return {key: found[key] for key in ("predictor", "transformer", "explainer") if key in found}


def check_no_name(predictor: Predictor) -> None:
    for block in predictor.frameworks().values():
        if block.container.get("name"):
            raise Denied("the 'name' field is not allowed in standard predictor")


def check(key: str, component: Component) -> None:
    if implementations(component) != 1:
        raise Denied(EXACTLY_ONE[key])
    if isinstance(component, Predictor) and is_custom(component):
        protocol = env_value(component.containers[0], "PROTOCOL")
        if protocol is not None and protocol not in PROTOCOLS:
            # KServe's sentence has its two values swapped (errata 23)
            raise Denied(f"invalid protocol {protocol}. Must be one of [{', '.join(PROTOCOLS)}]")
    if component.container_concurrency is not None and component.container_concurrency < 0:
        raise Denied("parallelism cannot be less than 0")
    _check_replicas(component)
    if component.logger is not None:
        _check_logger(component.logger)


def implementations(component: Component) -> int:
    """How many ways of running the component are given; one is right."""
    has_containers = bool(component.containers)
    if isinstance(component, Predictor):
        blocks = len(component.frameworks())
        if blocks == 0:
            return int(has_containers)
        # containers beside a model are helpers, unless one claims the model's place
        return blocks + (named(component.containers, PREDICTOR_CONTAINER) is not None)
    if isinstance(component, Explainer):
        return int(has_containers) + (component.art is not None)
    return int(has_containers)


def _check_replicas(component: Component) -> None:
    least = component.min_replicas
    if least is not None and least < 0:
        raise Denied("'MinReplicas' cannot be less than 0")
    most = component.max_replicas or 0
    if most < 0:
        raise Denied("'MaxReplicas' cannot be less than 0")
    if most and (1 if least is None else least) > most:
        raise Denied("'MinReplicas' cannot be greater than MaxReplicas")


def _check_logger(logger: Logger) -> None:
    if logger.mode not in ("all", "request", "response"):
        raise Denied("invalid logger type")
    storage = logger.storage
    if storage is not None and None in (storage.path, storage.parameters, storage.key):
        raise Denied("invalid logger storage configuration")
