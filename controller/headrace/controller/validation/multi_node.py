"""Rule 4: what a predictor with `workerSpec` may be."""

from collections.abc import Iterable

import msgspec

from headrace.controller.annotations import AUTOSCALER_CLASS, DEPLOYMENT_MODE, GPU_RESOURCE_TYPES
from headrace.controller.api.inference_service import InferenceService, Predictor
from headrace.controller.api.pod import Container, env_value
from headrace.controller.config import Config, Mode
from headrace.controller.errors import Denied

PARALLEL_SIZES = ("PIPELINE_PARALLEL_SIZE", "TENSOR_PARALLEL_SIZE")
GPU_TYPES = ("nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu", "habana.ai/gaudi")
ORDINARY = ("cpu", "memory", "storage", "ephemeral-storage", "pods")


def check(isvc: InferenceService, config: Config) -> None:
    worker = isvc.spec.predictor.worker_spec
    if worker is None:
        return
    containers = worker.pod.get("containers", [])
    if len(containers) > 1:
        raise _denied(isvc, "setting multiple containers in workerSpec is not allowed")
    predictor = isvc.spec.predictor
    blocks = [block.container for block in predictor.frameworks().values()]
    is_standard = isvc.metadata.annotations.get(DEPLOYMENT_MODE) == Mode.STANDARD
    guarded = [*blocks, *containers] if is_standard else blocks  # errata 19
    for name in PARALLEL_SIZES:
        if any(env_value(container, name) is not None for container in guarded):
            raise _denied(isvc, f"setting {name} in environment variables is not allowed")
    _check_gpu_types(isvc, [*blocks, *containers], config)
    if predictor.model is not None:
        _check_model(isvc, predictor)
    for name, size in (
        ("PipelineParallelSize", worker.pipeline_parallel_size),
        ("TensorParallelSize", worker.tensor_parallel_size),
    ):
        if size is not None and size < 1:
            raise _denied(isvc, f"WorkerSpec.{name} cannot be less than 1({size})")


def _check_model(isvc: InferenceService, predictor: Predictor) -> None:
    model = predictor.model
    uri = model.storage_uri if model is not None else None
    if uri is None:
        raise _denied(isvc, "StorageURI must be set for multinode enabled")
    scheme = uri.partition("://")[0]
    if scheme not in ("pvc", "oci"):
        raise _denied(isvc, f"Multinode only supports 'pvc' and 'oci' Storage Protocol({scheme})")
    autoscaler = isvc.metadata.annotations.get(AUTOSCALER_CLASS)
    if autoscaler not in (None, "none"):
        raise _denied(isvc, f"Multinode only supports 'none' autoscaler({autoscaler})")


def _check_gpu_types(
    isvc: InferenceService, containers: Iterable[Container], config: Config
) -> None:
    known = {*GPU_TYPES, *config.gpu_resource_types, *ORDINARY, *_annotated_types(isvc)}
    for container in containers:
        resources = container.get("resources", {})
        names = {*resources.get("limits", {}), *resources.get("requests", {})}
        if not names <= known:
            raise _denied(
                isvc,
                "Unknown GPU resource type. Set 'serving.kserve.io/gpu-resource-types' annotation "
                "to use custom gpu resource type",
            )


def _annotated_types(isvc: InferenceService) -> list[str]:
    text = isvc.metadata.annotations.get(GPU_RESOURCE_TYPES)
    if text is None:
        return []
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as err:
        raise _denied(
            isvc, f"annotation {GPU_RESOURCE_TYPES} is not a JSON array of strings: {err}"
        ) from err


def _denied(isvc: InferenceService, why: str) -> Denied:
    return Denied(f'the InferenceService "{isvc.metadata.name}" is invalid: {why}')
