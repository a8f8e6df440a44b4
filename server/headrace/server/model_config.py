"""Triton's ModelConfig as we honour it: from a config.pbtxt or a load request's JSON to values.

Read through the protobuf message, so that every field has its type; fields we do not know are
warned of and left out.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format, text_format

from headrace.server.errors import ModelLoadError
from headrace.server.grpc.messages import message_class
from headrace.server.placement import Group, Kind
from headrace.server.tensor import Datatype, TensorSpec

log = logging.getLogger(__name__)

MESSAGE = "inference.ModelConfig"
# Triton's words for what our predictors are; others are found by the files.
FRAMEWORKS = {
    "onnxruntime": "onnx",
    "onnxruntime_onnx": "onnx",
    "pytorch": "pytorch",
    "pytorch_libtorch": "pytorch",
}
# Parts of an instance_group that are read and not honoured, and what to use instead.
IGNORED = {
    "rate_limiter": "instances run as they are free; bound them by count, requests by "
    "--max_concurrency",
    "profile": "profiles are TensorRT's, which is not served",
    "host_policy": "bind the server to CPUs and memory with numactl or taskset",
}
MAX_COUNT = 1024  # instances of one group


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """keys: the config as JSON, for the model-configuration call. 0 batch size: no batching."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    framework: str | None = None
    max_batch_size: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    groups: tuple[Group, ...] = ()  # empty: not said
    file_name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def versions(self, found: Sequence[str]) -> list[str]:
        """Which of the numbered folders found (oldest first) are served: version_policy."""
        policy = self.keys.get("version_policy", {})
        if "all" in policy:
            return list(found)
        if "specific" in policy:
            wanted = {str(each) for each in policy["specific"].get("versions", [])}
            return [each for each in found if each in wanted]
        count = int(policy.get("latest", {}).get("num_versions", 1))
        return list(found[-count:]) if count > 0 else []


def from_text(text: str, at: str) -> ModelConfig:
    """A config.pbtxt. at: its path. Raises ModelLoadError naming the line."""
    try:
        message = text_format.Parse(text, message_class(MESSAGE)())
    except text_format.ParseError as strict:
        try:
            message = text_format.Parse(text, message_class(MESSAGE)(), allow_unknown_field=True)
        except text_format.ParseError as err:
            raise ModelLoadError(f"{at}: {err}") from err
        log.warning("model config has unknown fields", extra={"at": at, "first": str(strict)})
    return _from_message(message, at)


def from_json(text: str, at: str) -> ModelConfig:
    """The `config` parameter of a load request. Raises ModelLoadError saying what is wrong."""
    try:
        message = json_format.Parse(text, message_class(MESSAGE)(), ignore_unknown_fields=True)
    except json_format.ParseError as err:
        raise ModelLoadError(f"{at}: {err}") from err
    return _from_message(message, at)


def _from_message(message: Any, at: str) -> ModelConfig:
    keys = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if message.max_batch_size < 0:
        raise ModelLoadError(f"{at}: max_batch_size {message.max_batch_size} is negative")
    is_batched = message.max_batch_size > 0
    known = (FRAMEWORKS.get(word) for word in (message.backend, message.platform))
    for each in message.input:
        if each.allow_ragged_batch:
            log.warning(
                "allow_ragged_batch ignored",
                extra={
                    "at": f"{at}: input {each.name!r}",
                    "instead": "requests whose shapes differ beyond the first dimension run in "
                    "batches of their own, unpadded; pad them in the client, or in a custom "
                    "Model's Batching(batch=…, unbatch=…)",
                },
            )
    return ModelConfig(
        keys,
        next((each for each in known if each), None),
        message.max_batch_size,
        tuple(_spec(each, is_batched, f"{at}: input") for each in message.input),
        tuple(_spec(each, is_batched, f"{at}: output") for each in message.output),
        tuple(_group(each, at) for each in message.instance_group),
        message.default_model_filename,
        {name: each.string_value for name, each in message.parameters.items()},
    )


def _group(message: Any, at: str) -> Group:
    """Raises ModelLoadError; what a group says and we do not honour is a warning."""
    where = f"{at}: instance_group {message.name!r}"
    if message.secondary_devices:
        raise ModelLoadError(
            f"{where}: secondary_devices (NVDLA cores) are not served; leave them out"
        )
    if not 0 <= message.count <= MAX_COUNT:
        raise ModelLoadError(f"{where}: count {message.count}: expected 1 to {MAX_COUNT}")
    for name, instead in IGNORED.items():
        if any(field.name == name for field, _ in message.ListFields()):
            log.warning(
                "instance_group setting ignored",
                extra={"at": where, "setting": name, "instead": instead},
            )
    kinds = type(message).DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number
    if message.kind not in kinds:
        raise ModelLoadError(f"{where}: kind {message.kind}: expected one of {', '.join(Kind)}")
    kind = Kind(kinds[message.kind].name)
    gpus = tuple(int(each) for each in message.gpus)
    return Group(message.name, message.count or 1, kind, gpus, message.passive)


def _spec(tensor: Any, is_batched: bool, at: str) -> TensorSpec:
    """dims leave the batch dimension out where there is one."""
    name = (
        type(tensor)
        .DESCRIPTOR.fields_by_name["data_type"]
        .enum_type.values_by_number[tensor.data_type]
        .name
    )
    word = name.removeprefix("TYPE_")
    try:
        datatype = Datatype.BYTES if word == "STRING" else Datatype(word)
    except ValueError as err:
        raise ModelLoadError(f"{at} {tensor.name!r}: data_type {name} is not served") from err
    dims = tuple(int(dim) for dim in tensor.dims)
    return TensorSpec(
        tensor.name,
        datatype,
        (-1, *dims) if is_batched else dims,
        bool(getattr(tensor, "optional", False)),
    )
