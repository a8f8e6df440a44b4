"""The unary calls over a real port: answers, and which status each mistake gets (contract §3.4)."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import grpc
import numpy as np
import pytest

from headrace.server.errors import (
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ModelNotReady,
    QueueFull,
    UnsupportedProtocol,
)
from headrace.server.grpc import codec
from headrace.server.grpc.messages import message_class
from headrace.server.repository import ServedModel
from headrace.server.request import Request, RequestedOutput
from headrace.server.tensor import Tensor
from tests.server.grpc.client import (
    Client,
    Counts,
    Double,
    Mirror,
    Raises,
    Replies,
    connected,
    fp32,
    status_of,
)
from tests.serving import running, served

GOOD = Request("m", [fp32([1, 2])], id="7")


class Shelf:
    """A loader with one good, one broken model."""

    def __init__(self) -> None:
        self.parameters: Mapping[str, Any] = {}

    def names(self) -> Sequence[str]:
        return ["good", "broken"]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        if name == "broken" and self.parameters:
            raise ModelLoadError("broken: the file is not a model")
        return [served(name, Double())]


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_an_inference_answers_in_the_form_it_came(typed: bool) -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            reply = await client.infer_call(codec.encode_request(GOOD, typed))
            message = codec.ModelInferResponse.FromString(reply)
            assert (message.model_name, message.model_version, message.id) == ("m", "1", "7")
            assert message.outputs[0].HasField("contents") == typed
            assert codec.decode_response(reply).outputs[0].array.tolist() == [[2, 4]]

    asyncio.run(main())


def test_requested_outputs_come_alone_and_in_the_order_asked() -> None:
    inputs = [fp32([1], name=name) for name in "abc"]
    request = Request("m", inputs, outputs=[RequestedOutput("c"), RequestedOutput("a")])

    async def main() -> None:
        async with running(served("m", Mirror())) as server, connected(server) as client:
            answer = await client.infer(request)
            assert [tensor.name for tensor in answer.outputs] == ["c", "a"]

    asyncio.run(main())


REFUSED = [
    pytest.param(
        Request("zz", [fp32([1, 2])]),
        ("NOT_FOUND", "Model with name zz does not exist."),
        id="unknown model",
    ),
    pytest.param(
        Request("m", [fp32([1, 2])], model_version="9"),
        ("NOT_FOUND", "Model with name m has no version '9' (versions: 1)."),
        id="unknown version",
    ),
    pytest.param(
        Request("m", [fp32([1, 2], name="w")]),
        (
            "INVALID_ARGUMENT",
            "unexpected inference input 'w' for model 'm'; expected 'x' (FP32, [-1, 2])",
        ),
        id="unknown input",
    ),
    pytest.param(
        Request("m", [Tensor("x", np.zeros((1, 2), "<i4"))]),
        (
            "INVALID_ARGUMENT",
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        id="another datatype",
    ),
    pytest.param(
        Request("m", [fp32([1, 2, 3])]),
        (
            "INVALID_ARGUMENT",
            "unexpected shape for input 'x' for model 'm'. Expected [-1, 2], got [1, 3].",
        ),
        id="another shape",
    ),
    pytest.param(
        Request("m", [fp32([1, 2])], outputs=[RequestedOutput("zz")]),
        ("INVALID_ARGUMENT", "Unexpected inference output 'zz' for model 'm'; it has y"),
        id="unknown output",
    ),
    pytest.param(
        Request("counts", [fp32([1])]),
        (
            "UNIMPLEMENTED",
            "model counts streams its answers: call generate_stream or ModelStreamInfer",
        ),
        id="unary call of a model that streams",
    ),
]


@pytest.mark.parametrize(("request_", "status"), REFUSED)
def test_a_request_the_model_cannot_take_is_refused(
    request_: Request, status: tuple[str, str]
) -> None:
    async def main() -> None:
        models = (served("m", Double()), ServedModel("counts", Counts()))
        async with running(*models) as server, connected(server) as client:
            assert await status_of(client.infer(request_)) == status

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("no such row"), ("INVALID_ARGUMENT", "no such row")),
        (InferenceError("it broke"), ("INTERNAL", "it broke")),
        (UnsupportedProtocol("v9"), ("UNIMPLEMENTED", "Unsupported protocol v9.")),
        (NotImplementedError("not yet"), ("UNIMPLEMENTED", "not yet")),
        (ModelNotReady("m"), ("UNAVAILABLE", "Model with name m is not ready.")),
        (QueueFull("Exceeds maximum queue size"), ("UNAVAILABLE", "Exceeds maximum queue size")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_a_model_raises_has_its_own_status(error: Exception, status: tuple[str, str]) -> None:
    async def main() -> None:
        async with running(served("m", Raises(error))) as server, connected(server) as client:
            assert await status_of(client.infer(GOOD)) == status

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "details"),
    [
        pytest.param(ValueError("cannot reshape"), "cannot reshape", id="its message"),
        pytest.param(KeyError(), "KeyError", id="its class where it has no message"),
        pytest.param(ValueError("é" * 5000), "é" * 1023 + "…", id="cut where a header ends"),
    ],
)
def test_another_exception_is_internal_and_logged_once(
    error: Exception, details: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running(served("m", Raises(error))) as server, connected(server) as client:
            assert await status_of(client.infer(GOOD)) == ("INTERNAL", details)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    (record,) = caplog.records
    assert record.message == "request failed"
    assert record.exc_info is not None


def test_overload_says_when_to_come_back() -> None:
    async def main() -> None:
        model = served("m", Raises(QueueFull("full", retry_after_s=2.5)))
        async with running(model) as server, connected(server) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.infer(GOOD)
            assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "2500"

    asyncio.run(main())


def test_metadata_reaches_the_model_and_its_headers_come_back_as_trailers() -> None:
    async def main() -> None:
        model = ServedModel("m", Replies())
        async with running(model) as server, connected(server) as client:
            call = client.infer_call(
                codec.encode_request(GOOD),
                metadata=(("x-tenant", "first"), ("x-tenant", "blue"), ("x-bin", b"\0")),
            )
            answer = codec.decode_response(await call)
            assert answer.outputs[0].array.tolist() == [b"blue"]
            trailers = dict(await call.trailing_metadata())
            assert trailers["x-model"] == "replies"
            assert "content-type" not in trailers

    asyncio.run(main())


def test_bytes_that_are_no_message_are_the_callers_mistake() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            assert await status_of(client.infer_call(b"\xff\xff")) == (
                "INVALID_ARGUMENT",
                "2 bytes are not a valid inference.ModelInferRequest",
            )

    asyncio.run(main())


def test_the_model_is_looked_for_before_its_tensors() -> None:
    async def main() -> None:
        message = codec.ModelInferRequest(model_name="zz", inputs=[{"datatype": "FP33"}])
        async with running(served("m", Double())) as server, connected(server) as client:
            assert await status_of(client.infer_call(message.SerializeToString())) == (
                "NOT_FOUND",
                "Model with name zz does not exist.",
            )

    asyncio.run(main())


def test_the_server_and_its_models_describe_themselves() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            assert (await client.call("ServerLive")).live
            assert (await client.call("ServerReady")).ready
            about = await client.call("ServerMetadata")
            assert (about.name, about.version) == ("headrace", version("headrace"))
            assert "model_repository" in about.extensions
            model = await client.call("ModelMetadata", name="m")
            assert (model.name, list(model.versions), model.platform) == ("m", ["1"], "test")
            (x,), (y,) = model.inputs, model.outputs
            assert (x.name, x.datatype, list(x.shape)) == ("x", "FP32", [-1, 2])
            assert (y.name, y.datatype, list(y.shape)) == ("y", "FP32", [-1, 2])
            config = (await client.call("ModelConfig", name="m", version="1")).config
            assert (config.name, config.max_batch_size) == ("m", 0)
            assert config.input[0].data_type == 11
            assert list(config.output[0].dims) == [-1, 2]

    asyncio.run(main())


def test_a_models_own_configuration_is_answered() -> None:
    async def main() -> None:
        model = served("m", Double())
        model.config = {
            "max_batch_size": 8,
            "dynamic_batching": {"max_queue_delay_microseconds": 100},
            "instance_group": [{"name": "m", "kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}],
            "something_newer": 1,
        }
        async with running(model) as server, connected(server) as client:
            config = (await client.call("ModelConfig", name="m")).config
            assert config.max_batch_size == 8
            assert config.dynamic_batching.max_queue_delay_microseconds == 100
            assert (config.instance_group[0].kind, list(config.instance_group[0].gpus)) == (
                1,
                [0, 1],
            )
            assert list(config.input[0].dims) == [2]

    asyncio.run(main())


def test_readiness_of_a_model_that_is_known_unknown_or_not_ready() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            assert (await client.call("ModelReady", name="m")).ready
            assert (await client.call("ModelReady", name="m", version="1")).ready
            assert await status_of(client.call("ModelReady", name="zz")) == (
                "NOT_FOUND",
                "Model with name zz does not exist.",
            )
            await server.repository.unload("m")
            assert not (await client.call("ModelReady", name="m")).ready
            assert (await status_of(client.infer(GOOD)))[0] == "UNAVAILABLE"

    asyncio.run(main())


def test_statistics_count_requests_rows_and_failures() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            await client.infer(Request("m", [fp32([1, 2], [3, 4])]))
            await status_of(client.infer(Request("m", [fp32([1])])))
            (row,) = (await client.call("ModelStatistics", name="m")).model_stats
            assert (row.name, row.version, row.inference_count, row.execution_count) == (
                "m",
                "1",
                2,
                1,
            )
            assert row.inference_stats.success.count == 1
            assert row.inference_stats.fail.count == 1
            assert row.inference_stats.compute_infer.ns > 0
            assert row.batch_stats[0].batch_size == 2
            assert len((await client.call("ModelStatistics")).model_stats) == 1
            assert (await status_of(client.call("ModelStatistics", name="zz")))[0] == "NOT_FOUND"

    asyncio.run(main())


async def index(client: Client) -> dict[str, str]:
    reply = await client.call("RepositoryIndex")
    return {row.name: row.state for row in reply.models}


@pytest.mark.parametrize("field", ["model_name", "repository_name"], ids=["triton's", "kserve's"])
def test_models_are_loaded_and_unloaded_by_either_clients_field(field: str) -> None:
    async def main() -> None:
        async with running(loader=Shelf()) as server, connected(server) as client:
            assert await index(client) == {"good": "READY", "broken": "READY"}
            reply = await client.call("RepositoryModelUnload", **{field: "good"})
            assert (reply.model_name, reply.isUnloaded) == ("good", True)
            assert await index(client) == {"good": "UNAVAILABLE", "broken": "READY"}
            ready = await client.call("RepositoryIndex", ready=True)
            assert [row.name for row in ready.models] == ["broken"]
            reply = await client.call("RepositoryModelLoad", **{field: "good"})
            assert (reply.model_name, reply.isLoaded) == ("good", True)
            assert await index(client) == {"good": "READY", "broken": "READY"}

    asyncio.run(main())


CONFIG = {"config": {"string_param": "{}"}}
UPLOAD = {"file:1/model.onnx": {"bytes_param": b"\0"}, **CONFIG}


@pytest.mark.parametrize(
    ("given", "load", "status"),
    [
        pytest.param(
            {},
            {"model_name": "zz"},
            ("NOT_FOUND", "Model with name zz does not exist."),
            id="unknown model",
        ),
        pytest.param(
            {},
            {"model_name": "broken"},
            (
                "INTERNAL",
                "broken: the file is not a model; what was loaded before goes on serving",
            ),
            id="a load that fails",
        ),
        pytest.param(
            {},
            {},
            ("INVALID_ARGUMENT", "model_name: expected the name of a model, got nothing"),
            id="no name",
        ),
        pytest.param(
            {},
            {"model_name": "good", "parameters": {"colour": {"string_param": "red"}}},
            (
                "INVALID_ARGUMENT",
                "unknown load parameter 'colour'; expected 'config' or 'file:<path>'",
            ),
            id="unknown parameter",
        ),
        pytest.param(
            {},
            {"model_name": "good", "parameters": UPLOAD},
            (
                "PERMISSION_DENIED",
                "'file:1/model.onnx': uploading model files is off; start the server with "
                "--allow_file_upload (it runs what it is sent)",
            ),
            id="files, uploads off",
        ),
        pytest.param(
            {"allow_file_upload": True},
            {"model_name": "good", "parameters": {"file:a": {"bytes_param": b""}}},
            ("INVALID_ARGUMENT", "'file:a': files need a 'config' parameter beside them"),
            id="files without a config",
        ),
        pytest.param(
            {"allow_file_upload": True},
            {"model_name": "good", "parameters": UPLOAD},
            ("OK", ""),
            id="files, uploads on",
        ),
        pytest.param(
            {"allow_repository": False},
            {"model_name": "good"},
            (
                "PERMISSION_DENIED",
                "loading and unloading models over the network is off; start the server with "
                "--allow_repository, or bind it to loopback (--host 127.0.0.1)",
            ),
            id="the door is closed",
        ),
        pytest.param(
            {"host": "0.0.0.0", "allow_repository": True},
            {"model_name": "good"},
            ("OK", ""),
            id="the door is open",
        ),
    ],
)
def test_a_load_request_is_answered_with(
    given: dict[str, Any], load: dict[str, Any], status: tuple[str, str]
) -> None:
    async def main() -> None:
        shelf = Shelf()
        async with running(loader=shelf, **given) as server, connected(server) as client:
            shelf.parameters = {"break": True}
            assert await status_of(client.call("RepositoryModelLoad", **load)) == status

    asyncio.run(main())


def test_a_trace_setting_other_than_off_is_refused() -> None:
    async def main() -> None:
        settings = message_class("inference.TraceSettingRequest")()
        settings.settings["trace_level"].value.append("TIMESTAMPS")
        async with running(served("m", Double())) as server, connected(server) as client:
            call = client.call("TraceSetting", settings=settings.settings)
            assert await status_of(call) == (
                "INVALID_ARGUMENT",
                "trace_level ['TIMESTAMPS']: only [\"OFF\"] is accepted here; "
                "traces are exported over OpenTelemetry",
            )
            reply = await client.call("TraceSetting", model_name="m")
            assert list(reply.settings["trace_level"].value) == ["OFF"]
            assert list(reply.settings["trace_rate"].value) == ["1000"]

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["System", "Cuda"])
@pytest.mark.parametrize("action", ["Status", "Register", "Unregister"])
def test_shared_memory_calls_say_there_is_none(kind: str, action: str) -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            assert await status_of(client.call(f"{kind}SharedMemory{action}", name="r")) == (
                "UNIMPLEMENTED",
                "this server has no shared memory; send tensors in the request",
            )

    asyncio.run(main())
