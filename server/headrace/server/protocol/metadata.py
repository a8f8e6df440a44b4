"""What servers and models say about themselves in JSON (contract §2.1, §4.1-4.3)."""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.server.errors import InvalidInput
from headrace.server.protocol.json_text import loads
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.parameters import json_type
from headrace.server.tensor import Buffer, Datatype, TensorSpec

SERVER_NAME = "headrace"
# Both spellings, KServe's and Triton's, of what is implemented.
EXTENSIONS = (
    "model_repository_extension",
    "model_repository",
    "model_repository(unload_dependents)",
    "binary_tensor_data",
    "classification",
    "generate",
    "logging",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
)


def server_metadata(version: str, extensions: Sequence[str] = EXTENSIONS) -> dict[str, Any]:
    return {"name": SERVER_NAME, "version": version, "extensions": list(extensions)}


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> dict[str, Any]:
    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [_tensor_metadata(spec) for spec in inputs],
        "outputs": [_tensor_metadata(spec) for spec in outputs],
    }


def model_config(
    name: str,
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    config: Mapping[str, Any],
    is_decoupled: bool = False,
    groups: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Triton's ModelConfig. config: the keys this model was given, which win over ours.

    is_decoupled: the model streams its answers. groups: its instances as an instance_group, one on
        the CPU if not said.
    """
    batched = int(config.get("max_batch_size", 0)) > 0
    return {
        "name": name,
        "platform": platform,
        "backend": platform,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [{**_tensor_config(s, batched), "optional": s.is_optional} for s in inputs],
        "output": [_tensor_config(spec, batched) for spec in outputs],
        "instance_group": list(groups)
        or [{"name": f"{name}_0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
        "default_model_filename": "",
        "parameters": {},
        "model_transaction_policy": {"decoupled": is_decoupled},
        **config,
    }


def model_stats(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """rows: of `Control.statistics`."""
    return {"model_stats": list(rows)}


def wants_ready_only(body: Buffer, limits: ParseLimits) -> bool:
    """A repository index body: empty, or `{"ready": true}`. Raises InvalidInput."""
    ready = _object(body, limits).get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidInput(f"request body: 'ready' must be a boolean, got {json_type(ready)}")
    return ready


def repository_parameters(body: Buffer, limits: ParseLimits) -> dict[str, Any]:
    """`parameters` of a load or unload body, which may be empty. Raises InvalidInput."""
    parameters = _object(body, limits).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(
            f"request body: 'parameters' must be an object, got {json_type(parameters)}"
        )
    return parameters


def triton_type(datatype: Datatype) -> str:
    """datatype as a ModelConfig spells it."""
    return "TYPE_STRING" if datatype is Datatype.BYTES else f"TYPE_{datatype}"


def _object(body: Buffer, limits: ParseLimits) -> dict[str, Any]:
    if not bytes(body).strip():
        return {}
    value = loads(body, limits, allow_nan=False, at="request body")
    if not isinstance(value, dict):
        raise InvalidInput(f"request body: expected an object, got {json_type(value)}")
    return value


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec, is_batched: bool) -> dict[str, Any]:
    dims = spec.shape[1:] if is_batched else spec.shape
    return {"name": spec.name, "data_type": triton_type(spec.datatype), "dims": list(dims)}
