"""What a runtime's server type adds to the model and to its labels (contract §4.3)."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from headrace.controller.annotations import MODEL_MOUNT, SERVER_TYPE
from headrace.controller.api.inference_service import Model
from headrace.controller.api.pod import Container, EnvVar, env_value
from headrace.controller.api.serving_runtime import ServingRuntime
from headrace.controller.runtimes.selection import protocol_of

BY_RUNTIME_NAME = {
    "kserve-mlserver": "mlserver",
    "kserve-torchserve": "torchserve",
    "kserve-tritonserver": "tritonserver",
    "kserve-tensorflow-serving": "tensorflow-serving",
    "kserve-huggingfaceserver": "huggingfaceserver",
    "kserve-vllmserver": "vllmserver",
}
MLSERVER_CLASSES = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "mlflow": "mlserver_mlflow.MLflowRuntime",
}


@dataclass(frozen=True, slots=True)
class Adapted:
    """model: with what the server needs. labels: for templates, and on every object made."""

    model: Model
    labels: dict[str, str]


def server_type(runtime: ServingRuntime) -> str:
    annotated = runtime.metadata.annotations.get(SERVER_TYPE)
    return annotated or BY_RUNTIME_NAME.get(runtime.metadata.name, "")


def adapted(model: Model, name: str, runtime: ServingRuntime, *, has_storage: bool) -> Adapted:
    """name: the InferenceService's. Protocol None becomes the server's or the runtime's own."""
    kind = server_type(runtime)
    adapt = ADAPTERS.get(kind)
    if adapt is not None:
        return adapt(model, name, has_storage)
    return Adapted(replace(model, protocol_version=protocol_of(model, runtime)), {})


def _mlserver(model: Model, name: str, has_storage: bool) -> Adapted:
    if has_storage:
        model = _with_env(model, {"MLSERVER_MODEL_NAME": name, "MLSERVER_MODEL_URI": MODEL_MOUNT})
    else:
        model = _with_env(model, {"MLSERVER_LOAD_MODELS_AT_STARTUP": "false"})
    model = replace(model, protocol_version=model.protocol_version or "v2")
    found = MLSERVER_CLASSES.get(model.model_format.name)
    return Adapted(model, {"modelClass": found} if found else {})


def _torchserve(model: Model, name: str, has_storage: bool) -> Adapted:
    protocol = model.protocol_version or "v1"
    model = replace(_with_env(model, {"PROTOCOL_VERSION": protocol}), protocol_version=protocol)
    return Adapted(model, {"serviceEnvelope": "kserve" if protocol == "v1" else "kservev2"})


def _triton(model: Model, name: str, has_storage: bool) -> Adapted:
    model = replace(model, protocol_version=model.protocol_version or "v2")
    if not has_storage:
        container = Container(**model.container)
        container["args"] = [*container.get("args", []), "--model-control-mode=explicit"]
        model = replace(model, container=container)
    return Adapted(model, {})


def _with_env(model: Model, added: dict[str, str]) -> Model:
    """added, where the model does not set them itself."""
    container = Container(**model.container)
    missing = [
        EnvVar(name=key, value=value)
        for key, value in added.items()
        if env_value(container, key) is None
    ]
    container["env"] = [*container.get("env", []), *missing]
    return replace(model, container=container)


ADAPTERS: dict[str, Callable[[Model, str, bool], Adapted]] = {
    "mlserver": _mlserver,
    "torchserve": _torchserve,
    "tritonserver": _triton,
}
