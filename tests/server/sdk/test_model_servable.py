"""A user's Model as the data plane serves it: hooks, threads, streams, limits, readiness."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from headrace.server import (
    InferenceError,
    InferOutput,
    InferRequest,
    InferResponse,
    InvalidInput,
    Model,
    Tensor,
)
from headrace.server.errors import DeadlineExceeded, QueueFull
from headrace.server.execution import QueueLimits
from headrace.server.model_servable import ModelServable
from headrace.server.request import Context, Request, Response

X = Tensor("x", np.array([1, 2], "<f4"))


def request(**more: Any) -> Request:
    return Request("m", [X], id="7", **more)


class Ready(Model):
    def __init__(self, **more: Any) -> None:
        super().__init__("m", **more)
        self.ready = True


def predicting(result: Any) -> ModelServable:
    class Predicts(Ready):
        def predict(self, payload: Any, headers: Any = None) -> Any:
            return result(payload) if callable(result) else result

    return ModelServable(Predicts())


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(
            InferResponse("7", "m", [InferOutput("y", [2], "FP32", [1, 2])]), id="InferResponse"
        ),
        pytest.param(
            {"outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [1, 2]}]},
            id="a dict",
        ),
        pytest.param(
            InferResponse("7", "m", [InferOutput("y", [2], "FP32", [1, 2])]).to_grpc(),
            id="a ModelInferResponse",
        ),
        pytest.param(
            InferResponse("7", "m", [InferOutput("y", [2], "FP32", np.array([1, 2]))]),
            id="an array of another dtype is cast",
        ),
    ],
)
def test_a_v2_result_becomes_tensors(result: Any) -> None:
    response = asyncio.run(predicting(result).infer(request(), Context()))
    assert isinstance(response, Response)
    [tensor] = response.outputs
    assert (tensor.name, tensor.datatype, tensor.array.tolist()) == ("y", "FP32", [1.0, 2.0])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        pytest.param(
            {"predictions": [1]},
            "model m answered a V2 request with a dict with the keys ['predictions']; expected an "
            "InferResponse, a dict with 'outputs' or a ModelInferResponse",
            id="a V1 dict",
        ),
        pytest.param(
            None,
            "model m answered a V2 request with a NoneType; expected an "
            "InferResponse, a dict with 'outputs' or a ModelInferResponse",
            id="nothing",
        ),
        pytest.param(
            InferResponse("7", "m", [InferOutput("y", [3], "FP32", [1])]),
            "model m: tensor 'y': 1 elements do not fit the shape [3]",
            id="a wrong shape",
        ),
        pytest.param(
            InferResponse("7", "m", [InferOutput("y", [1], "INT32", [1.5])]),
            "model m: tensor 'y': 1.5 is no INT32",
            id="a wrong datatype",
        ),
    ],
)
def test_a_v2_result_that_is_no_answer_is_the_models_mistake(result: Any, message: str) -> None:
    with pytest.raises(InferenceError) as caught:
        asyncio.run(predicting(result).infer(request(), Context()))
    assert str(caught.value) == message


def test_hooks_get_the_received_buffer() -> None:
    seen: list[Any] = []

    def predict(payload: InferRequest) -> InferResponse:
        seen.append(payload.inputs[0].as_numpy())
        return InferResponse(payload.id, "m", [])

    asyncio.run(predicting(predict).infer(request(), Context()))
    assert seen[0] is X.array or np.shares_memory(seen[0], X.array)


def test_an_absent_id_is_made_before_the_hooks_see_it() -> None:
    seen: list[str | None] = []

    def predict(payload: InferRequest) -> InferResponse:
        seen.append(payload.id)
        return InferResponse(None, "m", [])

    asked = Request("m", [X])
    asyncio.run(predicting(predict).infer(asked, Context()))
    assert seen == [asked.id]
    assert len(asked.id) == 36


def test_an_infer_response_in_v1_is_its_v2_body() -> None:
    answer = InferResponse("7", "m", [InferOutput("y", [1], "FP32", [1])])
    assert asyncio.run(predicting(answer).predict({}, Context())) == {
        "id": "7",
        "model_name": "m",
        "outputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [1.0]}],
    }


def test_synchronous_hooks_run_in_one_piece_off_the_loop() -> None:
    class Hooked(Ready):
        def __init__(self) -> None:
            super().__init__()
            self.state: Any = None
            self.threads: list[str] = []
            self.mixed: list[Any] = []

        def preprocess(self, payload: Any, headers: Any = None) -> Any:
            self.state = payload
            self.threads.append(threading.current_thread().name)
            return payload

        def predict(self, payload: Any, headers: Any = None) -> Any:
            time.sleep(0.001)  # long enough for another request to cut in, if it could
            return payload

        def postprocess(self, result: Any, headers: Any = None) -> Any:
            if self.state is not result:
                self.mixed.append(result)
            return result

    model = Hooked()

    async def many() -> list[Any]:
        servable = ModelServable(model)
        return await asyncio.gather(*(servable.predict(i, Context()) for i in range(20)))

    assert asyncio.run(many()) == list(range(20))
    assert model.mixed == []
    assert set(model.threads) == {"model-m_0"}


def test_the_loop_answers_while_a_model_runs() -> None:
    started, end = threading.Event(), threading.Event()

    class Slow(Ready):
        def predict(self, payload: Any, headers: Any = None) -> Any:
            started.set()
            end.wait(10)
            return payload

    async def main() -> bool:
        servable = ModelServable(Slow())
        running = asyncio.create_task(servable.predict(1, Context()))
        await asyncio.to_thread(started.wait, 10)
        is_ready = await servable.is_ready()
        end.set()
        return is_ready and await running == 1

    assert asyncio.run(main())


def test_the_time_of_each_hook_is_counted_once() -> None:
    class Timed(Ready):
        def preprocess(self, payload: Any, headers: Any = None) -> Any:
            time.sleep(0.02)
            return payload

        async def predict(self, payload: Any, headers: Any = None) -> Any:
            await asyncio.sleep(0.04)
            return payload

        def postprocess(self, result: Any, headers: Any = None) -> Any:
            time.sleep(0.01)
            return result

    context = Context()
    started_ns = time.perf_counter_ns()
    asyncio.run(ModelServable(Timed()).predict({}, context))
    total_ns = time.perf_counter_ns() - started_ns
    stages = context.stages
    times_ns = (stages.compute_input_ns, stages.compute_infer_ns, stages.compute_output_ns)
    for counted_ns, slept_s in zip(times_ns, (0.02, 0.04, 0.01), strict=True):
        assert counted_ns >= slept_s * 1e9
    assert sum(times_ns) + stages.queue_ns <= total_ns  # no time was counted twice


def test_all_hooks_get_the_same_headers_and_response_headers() -> None:
    class Headed(Ready):
        def preprocess(self, payload: Any, context: Any) -> Any:
            context["seen"] = "pre"
            return payload

        async def predict(self, payload: Any, context: Any, out: Any) -> Any:
            context["seen"] += ",predict"
            out["x-a"] = 1
            return payload

        def postprocess(self, result: Any, context: Any, out: Any) -> Any:
            out["x-b"] = context["seen"]
            return result

    context = Context(headers={"seen": "no"})
    asyncio.run(ModelServable(Headed(return_response_headers=True)).predict({}, context))
    assert context.headers == {"seen": "pre,predict"}
    assert context.response_headers == {"x-a": "1", "x-b": "pre,predict"}


class Words(Ready):
    def predict(self, payload: Any, headers: Any = None) -> Iterator[str]:
        self.thread = threading.current_thread().name
        yield "a"
        yield "b"


class AsyncWords(Ready):
    async def predict(self, payload: Any, headers: Any = None) -> AsyncIterator[str]:
        yield "a"
        yield "b"


class AsyncMadeWords(Ready):
    async def predict(self, payload: Any, headers: Any = None) -> AsyncIterator[str]:
        async def words() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        return words()


@pytest.mark.parametrize("kind", [Words, AsyncWords, AsyncMadeWords])
def test_a_generator_is_a_stream(kind: Callable[[], Model]) -> None:
    async def main() -> list[str]:
        servable = ModelServable(kind())
        stream = await servable.predict({}, Context())
        return [item async for item in stream]

    assert asyncio.run(main()) == ["a", "b"]


def test_a_v2_stream_is_of_responses_and_closes_the_generator() -> None:
    closed: list[bool] = []

    class Answers(Ready):
        async def predict(self, payload: Any, headers: Any = None) -> AsyncIterator[Any]:
            try:
                while True:
                    yield InferResponse(payload.id, "m", [InferOutput("y", [1], "INT32", [1])])
            finally:
                closed.append(True)

    async def main() -> Response:
        stream = await ModelServable(Answers()).infer(request(), Context())
        assert not isinstance(stream, Response)
        first = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]  # a generator of ours
        return first

    first = asyncio.run(main())
    assert [tensor.array.tolist() for tensor in first.outputs] == [[1]]
    assert closed == [True]


@pytest.mark.parametrize("is_async", [False, True], ids=["synchronous hooks", "asynchronous hooks"])
def test_a_full_queue_refuses_at_once(is_async: bool) -> None:
    async def main() -> Any:
        end = asyncio.Event()
        released = threading.Event()

        class Slow(Ready):
            def predict(self, payload: Any, headers: Any = None) -> Any:
                released.wait(10)

        class AsyncSlow(Ready):
            async def predict(self, payload: Any, headers: Any = None) -> Any:
                await end.wait()

        model = AsyncSlow() if is_async else Slow()
        servable = ModelServable(model, QueueLimits(max_requests=1))
        admitted = 1 if is_async else 2  # one runs in a thread, one waits
        tasks = [asyncio.create_task(servable.predict({}, Context())) for _ in range(admitted)]
        await asyncio.sleep(0)
        try:
            with pytest.raises(QueueFull) as caught:
                await servable.predict({}, Context())
            return str(caught.value)
        finally:
            end.set()
            released.set()
            await asyncio.gather(*tasks)

    assert asyncio.run(main()) == (
        "Exceeds maximum queue size: model m has 1 requests waiting (--max_queue_requests 1)"
    )


@pytest.mark.parametrize("is_async", [False, True], ids=["synchronous hooks", "asynchronous hooks"])
def test_what_is_over_its_deadline_does_not_run(is_async: bool) -> None:
    ran: list[bool] = []

    class Sync(Ready):
        def predict(self, payload: Any, headers: Any = None) -> Any:
            ran.append(True)

    class Async(Ready):
        async def predict(self, payload: Any, headers: Any = None) -> Any:
            ran.append(True)

    servable = ModelServable(Async() if is_async else Sync())
    with pytest.raises(DeadlineExceeded):
        asyncio.run(servable.predict({}, Context(deadline_s=time.monotonic() - 1)))
    assert ran == []


def test_readiness_is_what_healthy_says() -> None:
    class Moody(Ready):
        mood = True

        async def healthy(self) -> bool:
            if self.mood is None:
                raise ValueError("no mood")
            return self.mood

    async def main() -> list[bool]:
        model = Moody()
        servable = ModelServable(model)
        found = [await servable.is_ready()]
        model.mood = False
        return [*found, await servable.is_ready()]

    assert asyncio.run(main()) == [True, False]


def test_declared_types_are_read_from_either_kind_of_method() -> None:
    class Declares(Ready):
        def get_input_types(self) -> list[dict[str, Any]]:
            return [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]

        async def get_output_types(self) -> list[dict[str, Any]]:
            return [{"name": "y", "datatype": "int64", "shape": [-1]}]

    async def main() -> tuple[Any, Any]:
        servable = ModelServable(Declares())
        await servable.start()
        return servable.inputs[0], servable.outputs[0]

    one, other = asyncio.run(main())
    assert (one.name, one.datatype, one.shape) == ("x", "FP32", (-1, 2))
    assert (other.name, other.datatype, other.shape) == ("y", "INT64", (-1,))


def test_an_engine_runs_beside_the_server_and_ends_with_it() -> None:
    events: list[str] = []

    class Engine(Ready):
        def __init__(self) -> None:
            super().__init__()
            self.engine = True

        async def start_engine(self) -> None:
            events.append("started")
            await asyncio.Event().wait()

        def stop_engine(self) -> None:
            events.append("engine stopped")

        def stop(self) -> None:
            events.append("stopped")

    async def main() -> None:
        servable = ModelServable(Engine())
        await servable.start()
        await asyncio.sleep(0)
        await servable.stop()

    asyncio.run(main())
    assert events == ["started", "engine stopped", "stopped"]


def test_a_hook_may_call_another_and_super() -> None:
    class Careful(Ready):
        async def preprocess(self, payload: Any, headers: Any = None) -> Any:
            return await super().preprocess(payload, headers)

        async def predict(self, payload: Any, headers: Any = None) -> Any:
            return {"predictions": len(payload["instances"])}

        async def explain(self, payload: Any, headers: Any = None) -> Any:
            return {"explanations": await self.predict(payload)}

    found = asyncio.run(ModelServable(Careful()).explain({"instances": [1, 2]}, Context()))
    assert found == {"explanations": {"predictions": 2}}


def test_rows_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        asyncio.run(predicting({}).predict({"instances": 5}, Context()))
    assert str(caught.value) == 'Expected "instances" to be a list'
