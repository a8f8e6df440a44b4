"""The protobuf messages of this edge, in a descriptor pool of our own.

kserve, tritonclient and mlserver register `inference.*` in protobuf's default pool; user code may
import any of them beside us because we do not. The `.binpb` files are compiled FileDescriptorSets
(README.md says how they are made).
"""

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

DESCRIPTOR_SETS = ("open_inference.binpb", "health.binpb", "reflection.binpb")


def _private_pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    folder = files("headrace.server.grpc")
    for name in DESCRIPTOR_SETS:
        content = (folder / name).read_bytes()
        for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
            pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _private_pool()


@cache
def message_class(full_name: str) -> Any:
    """The class of a message by its full name, e.g. "inference.ModelInferRequest"."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def from_json(full_name: str, content: dict[str, Any]) -> Any:
    """The message that content says; keys the message does not have are left out."""
    return json_format.ParseDict(content, message_class(full_name)(), ignore_unknown_fields=True)
