"""Server reflection over our descriptor pool, v1 and v1alpha: what `grpcurl list` asks.

grpcio-reflection has v1alpha only and brings its own generated code (and protobuf ≥ 7.35); the two
services differ in nothing but the package of their messages.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf import descriptor_pb2

from headrace.server.grpc.codec import parse
from headrace.server.grpc.errors import StatusCode
from headrace.server.grpc.messages import POOL, message_class
from headrace.server.grpc.rpc import Method, Rpc
from headrace.server.tensor import Buffer

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
NAME = "ServerReflection"


class Reflection:
    """services: full names to list. package: which of the two this is."""

    def __init__(self, package: str, services: tuple[str, ...]) -> None:
        self._request = message_class(f"{package}.ServerReflectionRequest")
        self._response = message_class(f"{package}.ServerReflectionResponse")
        self._services = services

    def methods(self) -> dict[str, Method]:
        return {"ServerReflectionInfo": Method(self.info, streams_requests=True)}

    async def info(self, requests: AsyncIterator[Buffer], rpc: Rpc) -> None:
        async for message in requests:
            await rpc.write(self.answer(parse(self._request, message)).SerializeToString())

    def answer(self, request: Any) -> Any:
        """The response to one question; what is unknown is an answer too."""
        reply = self._response(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    reply.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                _add_file(reply, POOL.FindFileByName, request.file_by_filename)
            elif kind == "file_containing_symbol":
                _add_file(reply, _file_with, request.file_containing_symbol)
            elif kind == "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                POOL.FindMessageTypeByName(name)
                reply.all_extension_numbers_response.base_type_name = name
            elif kind == "file_containing_extension":
                raise KeyError("our proto3 messages have no extensions")
            else:
                reply.error_response.error_code = StatusCode.UNIMPLEMENTED
                reply.error_response.error_message = "expected one of the message_request fields"
        except KeyError:
            reply.error_response.error_code = StatusCode.NOT_FOUND
            reply.error_response.error_message = f"{getattr(request, kind)!s} is not known here"
        return reply


def _file_with(symbol: str) -> Any:
    """The file that defines symbol; protobuf's pool finds everything but methods."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        service, _, method = symbol.rpartition(".")
        found = POOL.FindServiceByName(service)
        if method not in found.methods_by_name:
            raise
        return found.file


def _add_file(reply: Any, find: Callable[[str], Any], name: str) -> None:
    """The found file's descriptor; none of our files imports another."""
    proto = descriptor_pb2.FileDescriptorProto()
    find(name).CopyToProto(proto)
    reply.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
