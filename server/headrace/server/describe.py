"""What the server says of itself and of its models: pure, the JSON of both edges.

rest/ sends these objects as they are, grpc/ as the messages of the same keys. Source: data-plane
contract §2.1 (metadata) and §4.3 (Triton's model configuration).
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from headrace.server.repository import ServedModel
from headrace.server.tensor import Datatype, TensorSpec

SERVER_NAME = "headrace"
EXTENSIONS = (  # only what is real; KServe's spelling of the repository beside Triton's
    "model_repository_extension",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "classification",
    "logging",
    "trace",
)


def server_metadata() -> dict[str, Any]:
    return {"name": SERVER_NAME, "version": version("headrace"), "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """versions: every loaded version of the model."""
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": model.servable.platform,
        "inputs": [_tensor_metadata(spec) for spec in model.servable.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.servable.outputs],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """Triton's ModelConfig: what the model was configured with over what its servable declares."""
    given = dict(model.config)
    rows = int(given.get("max_batch_size", 0))
    config: dict[str, Any] = {
        "name": model.name,
        "platform": model.servable.platform,
        "backend": model.servable.platform.partition("_")[0],
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": rows,
        "input": [_config_input(spec, rows) for spec in model.servable.inputs],
        "output": [_config_output(spec, rows) for spec in model.servable.outputs],
        "instance_group": [
            {"name": model.name, "kind": "KIND_CPU", "count": _instances(model), "gpus": []}
        ],
        "default_model_filename": "",
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
    }
    return {**config, **{key: value for key, value in given.items() if value is not None}}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _config_output(spec: TensorSpec, rows: int) -> dict[str, Any]:
    """rows: max_batch_size; above 0 the dims leave the batch dimension out."""
    kind = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
    dims = list(spec.shape[1:] if rows else spec.shape)
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims}


def _config_input(spec: TensorSpec, rows: int) -> dict[str, Any]:
    return {**_config_output(spec, rows), "optional": spec.is_optional}


def _instances(model: ServedModel) -> int:
    executor = getattr(model.servable, "executor", None)
    return 1 if executor is None else len(executor.instances)
