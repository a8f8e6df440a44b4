"""A user's Model whose requests share calls: which hook sees what, and what each caller gets."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.server import (
    Batching,
    InferenceError,
    InferOutput,
    InferRequest,
    InferResponse,
    Model,
    ModelRepository,
    RowErrors,
    Tensor,
    batch_settings,
    model_config,
)
from headrace.server.batch_settings import BatchWishes
from headrace.server.batching import ONE_BY_ONE, BatchPolicy
from headrace.server.errors import ModelNotReady, QueueTimeout
from headrace.server.loading import ModelSource, load_servable
from headrace.server.model_repository import RepositoryLoader
from headrace.server.model_servable import ModelServable
from headrace.server.repository import ServedModel
from headrace.server.request import Context, Request, Response
from headrace.server.servable import batcher_of
from tests.server.grpc.client import connected
from tests.server.rest.client import ask
from tests.serving import running

GATHER_S = 5.0  # long enough that a batch is sent because it is full, and for nothing else


class Held(Model):
    """Doubles rows once it is let go. Remembers the payload and headers of each call."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True
        self.started, self.go = threading.Event(), threading.Event()
        self.calls: list[Any] = []
        self.headers: list[Any] = []

    def note(self, payload: Any, headers: Any) -> None:
        self.calls.append(payload)
        self.headers.append(headers)
        self.started.set()
        assert self.go.wait(10)


def doubled(payload: Any) -> Any:
    """KServe's idiom: dicts and InferRequests alike."""
    if isinstance(payload, InferRequest):
        array = payload.inputs[0].as_numpy()
        if (array < 0).any():
            raise ValueError("negative")
        output = InferOutput("y", list(array.shape), "FP32", array * 2)
        return InferResponse(payload.id, "m", [output])
    rows = np.array(payload["instances"])
    if (rows < 0).any():
        raise ValueError("negative")
    return {"predictions": (rows * 2).tolist()}


class Doubling(Held):
    batching = Batching(max_batch_size=16)

    def predict(self, payload: Any, headers: Any = None) -> Any:
        self.note(payload, headers)
        return doubled(payload)


class Together(Doubling):
    """V1 callers are shown to it in V2."""

    batching = Batching(max_batch_size=16, protocol="v2")

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]


class TogetherInV1(Doubling):
    batching = Batching(max_batch_size=16, protocol="v1")


class Awaiting(Together):
    async def predict(self, payload: Any, headers: Any = None) -> Any:
        self.calls.append(payload)
        self.started.set()
        while not self.go.is_set():  # noqa: ASYNC110  # let go from a test's thread
            await asyncio.sleep(0.001)
        return doubled(payload)


def serve(model: Model, policy: BatchPolicy | None = None) -> ModelServable:
    policy = policy or batch_settings.of_model(model, BatchWishes(), {})
    return ModelServable(model, policy=policy)


def v2(*rows: float, **more: Any) -> Request:
    return Request("m", [Tensor("x", np.array(rows, "<f4")[:, None])], **more)


def v1(*rows: float) -> dict[str, Any]:
    return {"instances": [[row] for row in rows]}


async def v2_answer(servable: ModelServable, *rows: float, **more: Any) -> list[float]:
    answer = await servable.infer(v2(*rows, **more), Context())
    assert isinstance(answer, Response)
    found: list[float] = answer.outputs[0].array.ravel().tolist()
    return found


async def waiting(servable: ModelServable, count: int) -> None:
    async with asyncio.timeout(10):
        while servable.pending_requests < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # hooks' threads say nothing to the loop


async def behind_one(
    model: Held, servable: ModelServable, *asks: Callable[[], Awaitable[Any]]
) -> list[Any]:
    """The answers of asks, which gather while the model is busy with a first request."""
    first = asyncio.create_task(v2_answer(servable, 0))
    assert await asyncio.to_thread(model.started.wait, 10)
    tasks = [asyncio.ensure_future(each()) for each in asks]
    await waiting(servable, len(asks))
    model.go.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("kind", [Together, TogetherInV1, Awaiting])
def test_v1_v2_and_grpc_requests_of_a_model_meet_in_one_call_of_predict(
    kind: Callable[[], Held],
) -> None:
    async def main() -> None:
        model = kind()
        servable = serve(model)
        async with running(ServedModel("m", servable)) as server, connected(server) as client:
            port = server.ports.http
            first = asyncio.create_task(ask(port, "POST", "/v2/models/m/infer", v2_body(1)))
            assert await asyncio.to_thread(model.started.wait, 10)
            one = asyncio.create_task(
                ask(port, "POST", "/v1/models/m:predict", b'{"instances": [[2.0], [3.0]]}')
            )
            two = asyncio.create_task(ask(port, "POST", "/v2/models/m/infer", v2_body(4, 5)))
            grpc = asyncio.create_task(client.infer(v2(6)))
            await waiting(servable, 3)
            model.go.set()
            assert json.loads((await one).body) == {"predictions": [[4], [6]]}
            assert json.loads((await two).body)["outputs"][0]["data"] == [8, 10]
            assert (await grpc).outputs[0].array.tolist() == [[12]]
            await first
            assert len(model.calls) == 2
            (row,) = await server.control.statistics("m")
            assert (row["inference_count"], row["execution_count"]) == (6, 2)
            sizes = {each["batch_size"] for each in row["batch_stats"]}
            assert sizes == {1, 5}
            told = json.loads((await ask(port, "GET", "/v2/models/m/batching")).body)
            assert [batch["rows"] for batch in told["recent"]] == [1, 5]
            metrics = (await ask(port, "GET", "/metrics")).body.decode()
            assert 'headrace_batch_rows_sum{model="m",version="1"} 6.0' in metrics

    asyncio.run(main())


def v2_body(*rows: float) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 1], "data": list(rows)}
    return json.dumps({"inputs": [tensor]}).encode()


def test_without_a_protocol_each_kind_of_body_has_batches_of_its_own() -> None:
    async def main() -> None:
        model = Doubling()
        servable = serve(model)
        found = await behind_one(
            model,
            servable,
            lambda: servable.predict(v1(1), Context()),
            lambda: v2_answer(servable, 2),
            lambda: servable.predict(v1(3, 4), Context()),
        )
        assert found == [{"predictions": [[2]]}, [4], {"predictions": [[6], [8]]}]
        assert [type(each) for each in model.calls[1:]] == [dict, InferRequest]
        assert model.calls[1] == v1(1, 3, 4)

    asyncio.run(main())


def test_preprocess_and_postprocess_see_their_own_request_and_predict_the_batch() -> None:
    class Hooked(Held):
        batching = Batching(max_batch_size=16)

        def __init__(self) -> None:
            super().__init__()
            self.own: list[Any] = []

        def preprocess(self, payload: Any, headers: Any = None) -> Any:
            headers["tag"] = str(payload["instances"])
            return np.array(payload["instances"], np.float32)

        def predict(self, payload: Any, headers: Any = None) -> Any:
            self.note(payload, headers)
            return payload * 2

        async def postprocess(self, result: Any, headers: Any = None) -> Any:
            self.own.append((headers["tag"], result.ravel().tolist()))
            return {"predictions": result.tolist()}

    async def main() -> None:
        model = Hooked()
        servable = serve(model)
        first = asyncio.create_task(servable.predict(v1(0), Context()))
        assert await asyncio.to_thread(model.started.wait, 10)
        contexts = [Context(headers={"who": "a", "for": "all"}), Context(headers={"for": "all"})]
        tasks = [
            asyncio.create_task(servable.predict(v1(*rows), context))
            for rows, context in zip([(1,), (2, 3)], contexts, strict=True)
        ]
        await waiting(servable, 2)
        model.go.set()
        assert await asyncio.gather(*tasks) == [
            {"predictions": [[2]]},
            {"predictions": [[4], [6]]},
        ]
        await first
        assert model.calls[1].ravel().tolist() == [1, 2, 3]
        assert sorted(model.own[1:]) == [("[[1]]", [2]), ("[[2], [3]]", [4, 6])]
        headers = model.headers[1]
        assert dict(headers) == {"for": "all"}  # what is not everybody's is nobody's
        assert headers.rows == (1, 2)
        assert [each.get("who") for each in headers.of_requests] == ["a", None]
        assert contexts[0].stages.executions + contexts[1].stages.executions == 1

    asyncio.run(main())


def test_all_hooks_may_see_the_batch() -> None:
    class Whole(Held):
        batching = Batching(max_batch_size=16, hooks=("preprocess", "predict", "postprocess"))

        async def preprocess(self, payload: Any, headers: Any = None) -> Any:
            return np.array(payload["instances"], np.float32)

        def predict(self, payload: Any, headers: Any = None) -> Any:  # in a thread, among others
            assert threading.current_thread() is not threading.main_thread()
            self.note(payload, headers)
            return payload * 2

        def postprocess(self, result: Any, headers: Any = None) -> Any:
            return {"predictions": result.tolist()}

    async def main() -> None:
        model = Whole()
        servable = serve(model)
        first = asyncio.create_task(servable.predict(v1(0), Context()))
        assert await asyncio.to_thread(model.started.wait, 10)
        others = [asyncio.create_task(servable.predict(v1(n), Context())) for n in (1, 2)]
        await waiting(servable, 2)
        model.go.set()
        assert await asyncio.gather(first, *others) == [
            {"predictions": [[2 * n]]} for n in range(3)
        ]
        assert len(model.calls) == 2

    asyncio.run(main())


def test_batch_and_unbatch_take_the_place_of_joining_by_rows() -> None:
    class Own(Held):
        batching = Batching(
            max_batch_size=16,
            batch=lambda payloads: [each["text"] for each in payloads],
            unbatch=lambda result, rows: result,
        )

        def predict(self, payload: Any, headers: Any = None) -> Any:
            self.note(payload, headers)
            return [{"length": len(text)} for text in payload]

    async def main() -> None:
        model = Own()
        servable = serve(model)
        first = asyncio.create_task(servable.predict({"text": ""}, Context()))
        assert await asyncio.to_thread(model.started.wait, 10)
        others = [
            asyncio.create_task(servable.predict({"text": text}, Context())) for text in ("a", "bc")
        ]
        await waiting(servable, 2)
        model.go.set()
        assert await asyncio.gather(first, *others) == [{"length": n} for n in range(3)]
        assert model.calls == [[""], ["a", "bc"]]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Doubling, Awaiting], ids=["synchronous", "asynchronous"])
def test_only_the_culprit_of_a_batch_fails(kind: Callable[[], Held]) -> None:
    async def main() -> None:
        model = kind()
        servable = serve(model)
        good, bad = await behind_one(
            model, servable, lambda: v2_answer(servable, 1), lambda: v2_answer(servable, -1)
        )
        assert good == [2]
        assert str(bad) == "negative"

    asyncio.run(main())


def test_a_hook_may_fail_single_rows() -> None:
    class Strict(Held):
        batching = Batching(max_batch_size=16)

        def predict(self, payload: Any, headers: Any = None) -> Any:
            self.note(payload, headers)
            rows = payload.inputs[0].as_numpy()
            failed = {i: KeyError(i) for i, row in enumerate(rows) if row < 0}
            answer = InferResponse(None, "m", [InferOutput("y", list(rows.shape), "FP32", rows)])
            if failed:
                raise RowErrors(failed, answer)
            return answer

    async def main() -> None:
        model = Strict()
        servable = serve(model)
        good, bad = await behind_one(
            model, servable, lambda: v2_answer(servable, 1), lambda: v2_answer(servable, -1, 2)
        )
        assert good == [1]
        assert isinstance(bad, KeyError)
        assert len(model.calls) == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        pytest.param(
            {"predictions": [7]},
            "model 'm' got a batch of 2 rows but its predict returned 1; return one for each, "
            "in order, or switch its batching off (max_batch_size 0)",
            id="a V1 answer",
        ),
        pytest.param(
            InferResponse(None, "m", [InferOutput("y", [3], "INT32", [1, 2, 3])]),
            "model 'm' got a batch of 2 rows but its output 'y' has 3; return one for each, "
            "in order, or switch its batching off (max_batch_size 0)",
            id="a V2 answer",
        ),
        pytest.param(
            None,
            "model 'm' answered a batch of 2 rows with a NoneType, which has no rows; return an "
            "InferResponse, a dict with 'predictions', a list or an array with one row for each, "
            "or switch its batching off (max_batch_size 0)",
            id="nothing",
        ),
    ],
)
def test_another_number_of_rows_is_the_models_mistake(result: Any, message: str) -> None:
    class Wrong(Model):
        ready = True
        batching = Batching(max_batch_size=16)

        def predict(self, payload: Any, headers: Any = None) -> Any:
            return result

    with pytest.raises(InferenceError) as caught:
        asyncio.run(serve(Wrong("m")).predict(v1(1, 2), Context()))
    assert str(caught.value) == message


def test_a_larger_request_than_a_batch_is_split_and_put_together() -> None:
    class Small(Doubling):
        batching = Batching(max_batch_size=2)

    async def main() -> None:
        model = Small()
        model.go.set()
        servable = serve(model)
        assert await v2_answer(servable, 1, 2, 3, 4, 5) == [2, 4, 6, 8, 10]
        assert await servable.predict(v1(1, 2, 3), Context()) == {"predictions": [[2], [4], [6]]}
        assert [
            each.inputs[0].shape[0] if isinstance(each, InferRequest) else len(each["instances"])
            for each in model.calls
        ] == [2, 2, 1, 2, 1]

    asyncio.run(main())


def test_one_that_goes_leaves_its_neighbours_alone() -> None:
    async def main() -> None:
        model = Doubling()
        servable = serve(model)
        first = asyncio.create_task(v2_answer(servable, 0))
        assert await asyncio.to_thread(model.started.wait, 10)
        gone, stays = (asyncio.create_task(v2_answer(servable, n)) for n in (1, 2))
        await waiting(servable, 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        model.go.set()
        assert await stays == [4]
        await first
        assert model.calls[1].inputs[0].as_numpy().tolist() == [[2]]

    asyncio.run(main())


def test_a_deadline_passes_in_the_queue_and_priorities_go_first() -> None:
    async def main() -> None:
        model = Doubling()
        policy = BatchPolicy(1 + 1, levels=2, ageing_s=60.0)
        servable = serve(model, policy)

        async def timed_out() -> None:
            await servable.infer(v2(9), Context(deadline_s=time.monotonic() + 0.02))

        first = asyncio.create_task(v2_answer(servable, 0))
        assert await asyncio.to_thread(model.started.wait, 10)
        late = [
            asyncio.create_task(v2_answer(servable, n, parameters={"priority": 2})) for n in (1, 2)
        ]
        urgent = asyncio.create_task(v2_answer(servable, 3, parameters={"priority": 1}))
        await waiting(servable, 3)
        with pytest.raises(QueueTimeout):
            await timed_out()
        model.go.set()
        await asyncio.gather(first, urgent, *late)
        rows = [each.inputs[0].as_numpy().ravel().tolist() for each in model.calls]
        assert rows == [[0], [3, 1], [2]]

    asyncio.run(main())


def test_stopping_refuses_what_waits_for_a_batch() -> None:
    async def main() -> None:
        model = Doubling()
        servable = serve(model)
        first = asyncio.create_task(v2_answer(servable, 0))
        assert await asyncio.to_thread(model.started.wait, 10)
        waits = asyncio.create_task(v2_answer(servable, 1))
        await waiting(servable, 1)
        await servable.stop()
        with pytest.raises(ModelNotReady, match="being unloaded"):
            await waits
        model.go.set()
        assert await first == [0]

    asyncio.run(main())


def test_explain_sees_its_own_request() -> None:
    class Explained(Doubling):
        def explain(self, payload: Any, headers: Any = None) -> Any:
            return {"explanations": len(payload["instances"])}

    servable = serve(Explained())
    assert asyncio.run(servable.explain(v1(1, 2), Context())) == {"explanations": 2}


def test_headers_that_predict_sets_go_to_all_of_the_batch() -> None:
    class Headed(Model):
        batching = Batching(max_batch_size=16)

        def predict(self, payload: Any, headers: Any, answers: Any) -> Any:
            answers["x-model"] = "headed"
            return payload["instances"]

    context = Context()
    model = Headed("m", return_response_headers=True)
    assert asyncio.run(serve(model).predict(v1(1), context)) == [[1]]
    assert context.response_headers == {"x-model": "headed"}


class Plain(Held):
    def predict(self, payload: Any, headers: Any = None) -> Any:
        return payload


class Off(Plain):
    batching = Batching(max_batch_size=0)


class Streams(Model):
    def predict(self, payload: Any, headers: Any = None) -> Any:
        yield payload


class Mine(Plain):
    batching: Any = 7  # a KServe program's own field


@pytest.mark.parametrize(
    ("model", "wishes", "config", "expected", "warning"),
    [
        pytest.param(Plain(), BatchWishes(), "", ONE_BY_ONE, "", id="unsaid: one by one"),
        pytest.param(Plain(), BatchWishes(8), "", BatchPolicy(8), "", id="a flag asks for it"),
        pytest.param(Off(), BatchWishes(8), "", ONE_BY_ONE, "", id="the class forbids it"),
        pytest.param(
            Doubling(), BatchWishes(8, 0.002), "", BatchPolicy(16, max_delay_s=0.002), "",
            id="the class's size wins over the flag's",
        ),
        pytest.param(
            Doubling(), BatchWishes(), "max_batch_size: 4", BatchPolicy(4), "",
            id="the config's size wins over the class's",
        ),
        pytest.param(
            Doubling(), BatchWishes(), 'backend: "python"', BatchPolicy(16), "",
            id="a config that says nothing of it",
        ),
        pytest.param(
            Streams("m"), BatchWishes(8), "", ONE_BY_ONE, "its predict streams", id="a stream"
        ),
        pytest.param(
            Model("m"), BatchWishes(8), "", ONE_BY_ONE,
            "it forwards each request to its predictor, with that request's headers",
            id="a transformer",
        ),
        pytest.param(
            Mine(), BatchWishes(), "", ONE_BY_ONE, "batching is a int, no Batching", id="its own"
        ),
    ],
)  # fmt: skip
def test_who_says_so(
    model: Model,
    wishes: BatchWishes,
    config: str,
    expected: BatchPolicy,
    warning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys: Any = model_config.from_text(config, "config.pbtxt").keys if config else {}
    with caplog.at_level(logging.WARNING):
        assert batch_settings.of_model(model, wishes, keys) == expected
    whys: Sequence[str] = [vars(each)["why"] for each in caplog.records]
    assert list(whys) == ([warning] if warning else [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_batch_size": -1}, "expected 0 or more"),
        ({"hooks": ("postprocess",)}, "expected 'predict'"),
        ({"protocol": "grpc"}, "expected '', 'v1' or 'v2'"),
        ({"batch": list}, "belong together"),
    ],
    ids=["a negative size", "without predict", "a protocol there is not", "half a pair"],
)
def test_what_batching_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batching(**given)


def test_flags_reach_the_models_of_a_program_and_of_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        models = ModelRepository()
        models.update(Plain())
        (of_program,) = await RepositoryLoader(models, batching=BatchWishes(8)).load("m", {})
        file = tmp_path / "model.py"
        file.write_text(
            "from headrace.server import Model\n"
            "class Mine(Model):\n"
            "    def predict(self, payload, headers=None):\n"
            "        return payload\n"
        )
        of_file = await load_servable("m", ModelSource(file, batching=BatchWishes(8)))
        for servable in (of_program.servable, of_file):
            batcher = batcher_of(servable)
            assert batcher is not None
            assert batcher.policy == BatchPolicy(8)

    asyncio.run(main())


def test_a_model_without_batches_says_how_to_get_them() -> None:
    async def main() -> None:
        async with running(ServedModel("m", ModelServable(Plain()))) as server:
            answer = await ask(server.ports.http, "GET", "/v2/models/m/batching")
            assert answer.status == 501
            assert json.loads(answer.body)["error"] == (
                "model m is a custom Model whose requests run one by one; "
                "give its class `batching = Batching(max_batch_size=…)`, or set --max_batch_size"
            )

    asyncio.run(main())


def test_showing_v1_rows_in_v2_without_declared_inputs_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Undeclared(Plain):
        batching = Batching(protocol="v2")

    with caplog.at_level(logging.WARNING):
        asyncio.run(serve(Undeclared()).start())
    assert [each.getMessage() for each in caplog.records] == ["V1 and V2 bodies may not mix"]
