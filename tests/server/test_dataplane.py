"""The data plane: what is counted when, what does not run, how few modules a request crosses."""

import asyncio
import contextlib
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from headrace.server.dataplane import DataPlane
from headrace.server.errors import InferenceError, ModelNotReady, Unsupported
from headrace.server.execution import Executor, Mode
from headrace.server.memory import Usage
from headrace.server.metrics import InferenceMetrics
from headrace.server.repository import Repository, ServedModel
from headrace.server.request import Context, Request, RequestedOutput, Response
from headrace.server.servable import TensorServable
from headrace.server.tensor import Tensor, TensorSpec
from tests.server.grpc.client import connected, fp32
from tests.server.rest.client import ask, request
from tests.serving import running, served


class Streams:
    """A servable whose answer to [n] are 0, 1, … n-1; below zero it fails after so many."""

    platform = "test"
    memory = Usage()
    pending_requests = 0
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self) -> None:
        self.closed = 0

    async def is_ready(self) -> bool:
        return True

    async def infer(self, request: Request, context: Context) -> AsyncIterator[Response]:
        return Answers(self, int(request.inputs[0].array[0]), request.model_name)

    async def predict(self, payload: Any, context: Context) -> Any:
        return Answers(self, len(payload["instances"]), "m")

    async def explain(self, payload: Any, context: Context) -> Any:
        raise NotImplementedError("no explainer")

    async def stop(self) -> None: ...


class Answers:
    def __init__(self, servable: Streams, n: int, name: str) -> None:
        self.servable, self.n, self.name, self.sent = servable, n, name, 0

    def __aiter__(self) -> AsyncIterator[Response]:
        return self

    async def __anext__(self) -> Response:
        if self.sent == abs(self.n):
            if self.n < 0:
                raise InferenceError("cannot count below zero")
            raise StopAsyncIteration
        self.sent += 1
        outputs = [Tensor("i", np.array([self.sent - 1])), Tensor("other", np.array([0]))]
        return Response(self.name, outputs)

    async def aclose(self) -> None:
        self.servable.closed += 1


@dataclass
class Served:
    servable: Streams = field(default_factory=Streams)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        repository = Repository()
        self.model = ServedModel("m", self.servable)
        repository.add(self.model)
        self.plane = DataPlane(repository, InferenceMetrics(self.registry))

    async def infer(self, n: int) -> AsyncIterator[Response]:
        answer = await self.plane.infer(self.model, counting(n), Context(body_bytes=10))
        assert not isinstance(answer, Response)
        return answer

    def counts(self) -> tuple[int, int, dict[str, int], int]:
        """Successes, failures, reasons that occurred, requests in flight."""
        figures = self.model.statistics
        reasons = {reason: count for reason, count in figures.failures.items() if count}
        return figures.success.count, figures.fail.count, reasons, self.model.in_flight

    def observed_bytes(self) -> float | None:
        labels = {"model_name": "m"}
        return self.registry.get_sample_value("headrace_request_body_bytes_total", labels)


def counting(n: int) -> Request:
    inputs = [Tensor("n", np.array([n]))]
    return Request("m", inputs, id="7", outputs=[RequestedOutput("i")])


def test_a_stream_is_counted_where_it_ends() -> None:
    async def main() -> None:
        served_ = Served()
        answers = await served_.infer(3)
        assert served_.counts() == (0, 0, {}, 1)  # in flight before its first answer
        first = await anext(answers)
        assert (first.id, first.model_version) == ("7", "1")
        assert [tensor.name for tensor in first.outputs] == ["i"]  # as asked for
        assert served_.counts() == (0, 0, {}, 1)
        assert served_.observed_bytes() is None
        assert [int(each.outputs[0].array[0]) async for each in answers] == [1, 2]
        assert served_.counts() == (1, 0, {}, 0)
        assert served_.observed_bytes() == 10

    asyncio.run(main())


def test_a_stream_that_fails_is_a_failure_of_the_model() -> None:
    async def main() -> None:
        served_ = Served()
        answers = await served_.infer(-1)
        await anext(answers)
        with pytest.raises(InferenceError, match=r"^cannot count below zero$"):
            await anext(answers)
        assert served_.counts() == (0, 1, {"BACKEND": 1}, 0)
        assert served_.servable.closed == 1

    asyncio.run(main())


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_whose_caller_hangs_up_is_cancelled_and_its_model_told(read: int) -> None:
    async def main() -> None:
        served_ = Served()
        async with aclosing(await served_.infer(3)) as answers:  # type: ignore[type-var]
            for _ in range(read):
                await anext(answers)
        assert served_.counts() == (0, 1, {"CANCELED": 1}, 0)
        assert served_.servable.closed == 1

    asyncio.run(main())


def test_a_stream_that_nobody_reads_or_closes_does_not_hold_up_a_drain() -> None:
    async def main() -> None:
        served_ = Served()
        await served_.infer(3)
        gc.collect()
        assert served_.counts() == (0, 1, {"CANCELED": 1}, 0)
        await served_.model.drained()

    asyncio.run(main())


def test_a_v1_stream_is_counted_where_it_ends() -> None:
    async def main() -> None:
        served_ = Served()
        payload = {"instances": [[1], [2]]}
        answers = await served_.plane.predict(served_.model, payload, Context())
        assert served_.counts() == (0, 0, {}, 1)
        assert len([each async for each in answers]) == 2
        assert served_.counts() == (1, 0, {}, 0)
        assert served_.model.statistics.inference_count == 2  # rows

    asyncio.run(main())


def test_a_stream_where_one_answer_is_wanted_is_refused_closed_and_counted() -> None:
    async def main() -> None:
        served_ = Served()
        with pytest.raises(Unsupported) as caught:
            await served_.plane.infer_once(served_.model, counting(3), Context())
        assert str(caught.value) == (
            "model m streams its answers: call generate_stream or ModelStreamInfer"
        )
        assert served_.counts() == (0, 1, {"OTHER": 1}, 0)
        assert served_.servable.closed == 1

    asyncio.run(main())


class Held:
    """Runs until it is let go; remembers what it saw. `waiting` is set by a queued request."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.started, self.go = threading.Event(), threading.Event()

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self.seen.append(float(inputs[0].array.ravel()[0]))
        self.started.set()
        assert self.go.wait(10)
        return list(inputs)


class Told(Executor[Held]):
    """An executor that tells when a request joins its queue and when one leaves it."""

    def __init__(self, held: Held) -> None:
        self.joined, self.left = asyncio.Event(), asyncio.Event()
        super().__init__("m", [held], mode=Mode.THREAD)

    @property
    def pending_requests(self) -> int:
        return self._pending

    @pending_requests.setter
    def pending_requests(self, number: int) -> None:
        was, self._pending = getattr(self, "_pending", 0), number
        if getattr(self, "running", 0) and number != was:
            (self.joined if number > was else self.left).set()


def rest_body(value: float) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize("edge", ["REST", "gRPC"])
def test_a_queued_request_whose_client_has_gone_does_not_run(edge: str) -> None:
    """Contract §8 and §11 row 25: both edges cancel it, and the model never sees it."""

    async def main() -> None:
        held = Held()
        executor = Told(held)
        model = ServedModel("m", TensorServable(executor, "test"))  # type: ignore[arg-type]
        async with running(model) as server, connected(server) as client:
            port = server.ports.http
            first = asyncio.create_task(ask(port, "POST", "/v2/models/m/infer", rest_body(1)))
            assert await asyncio.to_thread(held.started.wait, 10)
            if edge == "REST":
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request("POST", "/v2/models/m/infer", rest_body(2)))
                await executor.joined.wait()
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            else:
                call = asyncio.create_task(client.infer(Request("m", [fp32([2.0])])))
                await executor.joined.wait()
                call.cancel()
            await asyncio.wait_for(executor.left.wait(), 10)
            held.go.set()
            assert (await first).status == 200
            answer = await ask(port, "POST", "/v2/models/m/infer", rest_body(3))
            assert answer.status == 200
            assert held.seen == [1, 3]
            assert executor.pending_bytes == 0
            figures = model.statistics
            assert (figures.success.count, figures.fail.count) == (2, 1)
            assert figures.failures["CANCELED"] == 1

    asyncio.run(main())


def test_a_model_that_is_replaced_while_it_is_asked_is_asked_again() -> None:
    async def main() -> None:
        repository = Repository()
        old, new = Streams(), Streams()
        model = ServedModel("m", old)
        repository.add(model)

        async def reload_meanwhile() -> bool:
            model.is_retired = True
            repository.add(ServedModel("m", new))
            return False  # stopped by now

        old.is_ready = reload_meanwhile  # type: ignore[method-assign]
        plane = DataPlane(repository, InferenceMetrics(CollectorRegistry()))
        assert (await plane.ready_model("m")).servable is new

        async def is_not() -> bool:
            return False

        new.is_ready = is_not  # type: ignore[method-assign]
        with pytest.raises(ModelNotReady, match=r"^Model with name m is not ready\.$"):
            await plane.ready_model("m")

    asyncio.run(main())


class Looks:
    """Notes which modules of ours are on the stack below its call, outermost first."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self) -> None:
        self.modules: list[str] = []

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        found: list[str] = []
        frame = sys._getframe(1)
        while frame is not None:
            name = str(frame.f_globals.get("__name__", ""))
            if name.startswith("headrace.server") and found[-1:] != [name]:
                found.append(name)
            frame = frame.f_back  # type: ignore[assignment]  # None ends it
        self.modules = found[::-1]
        return list(inputs)


def test_the_data_path_is_short() -> None:
    """Six of the server's below the predictor, each once; codecs have returned by then."""

    async def main() -> None:
        looks = Looks()
        async with running(served("m", looks, Mode.INLINE)) as server, connected(server) as client:
            port = server.ports.http
            reply = await ask(port, "POST", "/v2/models/m/infer", rest_body(1))
            assert reply.status == 200
            assert looks.modules == [
                "headrace.server.rest.application",
                "headrace.server.rest.exchange",
                "headrace.server.rest.v2",
                "headrace.server.dataplane",
                "headrace.server.servable",
                "headrace.server.batcher",
            ]
            await client.infer(Request("m", [fp32([2.0])]))
            assert looks.modules == [
                "headrace.server.grpc.rpc",
                "headrace.server.grpc.inference",
                "headrace.server.dataplane",
                "headrace.server.servable",
                "headrace.server.batcher",
            ]

    asyncio.run(main())
