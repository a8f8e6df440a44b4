"""The repository: what is visible when, under loads, reloads and unloads that go well or do not."""

import asyncio
import contextlib
import json
import logging
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from headrace.server.errors import (
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    ModelVersionNotFound,
    ServingError,
)
from headrace.server.execution import Executor, Mode
from headrace.server.memory import Usage
from headrace.server.repository import IndexEntry, Repository, ServedModel
from headrace.server.request import Context, Request
from headrace.server.servable import TensorServable
from headrace.server.statistics import ModelStatistics
from headrace.server.tensor import Tensor, TensorSpec
from tests.serving import running


@dataclass
class Made:
    """A predictor that says which load made it; `held` calls wait until `go`."""

    number: int
    go: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    used: threading.Event = field(default_factory=threading.Event)
    is_closed: bool = False
    close_error: Exception | None = None
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        assert not self.is_closed
        self.used.set()
        if inputs[0].name == "held":
            self.started.set()
            assert self.go.wait(10)
        return [Tensor("load", np.array([self.number]))]

    def close(self) -> None:
        self.is_closed = True
        if self.close_error:
            raise self.close_error


@dataclass
class Shelf:
    """A loader of "a" and "b" under the test's hand."""

    versions: tuple[str, ...] = ("1",)
    error: BaseException | None = None
    hangs: dict[str, asyncio.Event] = field(default_factory=dict)  # by name
    made: list[Made] = field(default_factory=list)
    given: list[Mapping[str, Any]] = field(default_factory=list)

    def names(self) -> Sequence[str]:
        return ["a", "b"]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        self.given.append(parameters)
        if name in self.hangs:
            await self.hangs[name].wait()
        if self.error:
            raise self.error
        predictors = [Made(len(self.made)) for _ in self.versions]
        self.made += predictors
        return [
            ServedModel(
                name, TensorServable(Executor(name, [each], mode=Mode.THREAD), "t"), version
            )
            for each, version in zip(predictors, self.versions, strict=True)
        ]


def states(repository: Repository) -> list[tuple[str, str, str, str]]:
    return [(row.name, row.version, row.state, row.reason) for row in repository.index()]


async def ask(model: ServedModel, name: str = "x") -> int:
    request = Request(model.name, [Tensor(name, np.array([0]))])
    model.enter()
    try:
        answer = await model.servable.infer(request, Context())
    finally:
        model.leave()
    assert hasattr(answer, "outputs")
    return int(answer.outputs[0].array[0])


async def turns(until: Any) -> None:
    """Lets the loop go round until the claim holds."""
    for _ in range(200):
        if until():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


def test_the_life_of_a_model() -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf)
        assert states(repository) == [("a", "", "", ""), ("b", "", "", "")]
        with pytest.raises(ModelNotReady, match=r"^Model with name a is not ready\.$"):
            repository.find("a")
        shelf.hangs["a"] = asyncio.Event()
        loading = asyncio.create_task(repository.load("a", {"config": "{}"}))
        await turns(lambda: shelf.given)
        assert states(repository) == [("a", "1", "LOADING", ""), ("b", "", "", "")]
        shelf.hangs["a"].set()
        await loading
        assert shelf.given == [{"config": "{}"}]
        assert states(repository) == [("a", "1", "READY", ""), ("b", "", "", "")]
        assert repository.index(ready_only=True) == [IndexEntry("a", "1", "READY")]
        model = repository.find("a")
        busy = asyncio.create_task(ask(model, "held"))
        assert await asyncio.to_thread(shelf.made[0].started.wait, 10)
        unloading = asyncio.create_task(repository.unload("a"))
        await turns(lambda: model.is_retired)
        assert states(repository) == [("a", "1", "UNLOADING", "unloaded"), ("b", "", "", "")]
        with pytest.raises(ModelNotReady, match=r"^Model with name a is not ready. unloaded$"):
            repository.find("a")
        assert not shelf.made[0].is_closed  # it drains first
        shelf.made[0].go.set()
        assert await busy == 0
        await unloading
        assert shelf.made[0].is_closed
        assert states(repository) == [("a", "1", "UNAVAILABLE", "unloaded"), ("b", "", "", "")]
        assert repository.failed() == {}  # it is not meant to serve
        await repository.load("a")
        assert await ask(repository.find("a")) == 1
        await repository.close()
        assert shelf.made[1].is_closed

    asyncio.run(main())


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_name_that_nobody_knows(verb: str) -> None:
    repository = Repository(Shelf())
    with pytest.raises(ModelNotFound, match=r"^Model with name zz does not exist\.$"):
        asyncio.run(getattr(repository, verb)("zz"))
    assert "zz" not in repository._locks  # names are the client's: nothing is kept of them


def test_versions() -> None:
    async def main() -> None:
        repository = Repository(Shelf(versions=("2", "10", "1")))
        await repository.load("a")
        assert repository.versions("a") == ["1", "2", "10"]
        assert repository.find("a").version == "10"
        assert repository.find("a", "2").version == "2"
        with pytest.raises(ModelVersionNotFound) as caught:
            repository.find("a", "3")
        assert str(caught.value) == "Model with name a has no version '3' (versions: 1, 2, 10)."

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(ModelLoadError("bad file"), "bad file", id="its text"),
        pytest.param(KeyError(), "KeyError", id="an error without a text: its class"),
        pytest.param(
            asyncio.CancelledError(), "the load was broken off", id="the caller gave it up"
        ),
    ],
)
def test_a_first_load_that_fails_leaves_the_reason(error: BaseException, reason: str) -> None:
    async def main() -> None:
        shelf = Shelf(error=error)
        repository = Repository(shelf)
        with pytest.raises(type(error)):
            await repository.load("a")
        assert states(repository)[0] == ("a", "1", "UNAVAILABLE", reason)
        assert repository.failed() == {"a": reason}
        with pytest.raises(ModelNotReady) as caught:
            repository.find("a")
        assert str(caught.value) == f"Model with name a is not ready. {reason}"
        shelf.error = None
        await repository.load("a")  # the lock is free, the reason gone
        assert states(repository)[0] == ("a", "1", "READY", "")

    asyncio.run(main())


def test_unloading_what_failed_to_load_says_that_it_need_not_serve() -> None:
    async def main() -> None:
        repository = Repository(Shelf(error=ModelLoadError("bad file")))
        with pytest.raises(ModelLoadError, match=r"^bad file$"):
            await repository.load("a")
        await repository.unload("a")
        assert states(repository)[0] == ("a", "1", "UNAVAILABLE", "unloaded")
        assert repository.failed() == {}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(
            ModelLoadError("bad file"),
            "bad file; what was loaded before goes on serving",
            id="a load that fails",
        ),
        pytest.param(InvalidInput("bad path"), "bad path", id="a request that is wrong"),
    ],
)
def test_a_reload_that_fails_keeps_the_old_model_and_says_so(
    error: ServingError, message: str
) -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf)
        await repository.load("a")
        shelf.error = error
        with pytest.raises(type(error)) as caught:
            await repository.load("a")
        assert str(caught.value) == message
        assert states(repository)[0] == ("a", "1", "READY", "")
        assert await ask(repository.find("a")) == 0

    asyncio.run(main())


def test_a_prepared_load_is_seen_when_it_is_committed_and_never_when_aborted() -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf)
        await repository.load("a")
        prepared = await repository.prepare("a")
        assert await ask(repository.find("a")) == 0
        await repository.abort(prepared)
        assert shelf.made[1].is_closed
        assert await ask(repository.find("a")) == 0
        prepared = await repository.prepare("a")
        repository.commit(prepared)
        assert await ask(repository.find("a")) == 2
        await turns(lambda: shelf.made[0].is_closed)
        first = await repository.prepare("b")
        assert states(repository)[-1] == ("b", "1", "LOADING", "")
        await repository.abort(first)
        assert states(repository)[-1] == ("b", "1", "UNAVAILABLE", "another worker could not load")

    asyncio.run(main())


def test_loads_of_one_name_stay_in_order_and_others_do_not_wait() -> None:
    async def main() -> None:
        shelf = Shelf(hangs={"a": asyncio.Event()})
        repository = Repository(shelf)
        first = asyncio.create_task(repository.load("a", {"n": 1}))
        second = asyncio.create_task(repository.load("a", {"n": 2}))
        await turns(lambda: shelf.given)
        await repository.load("b", {"n": 3})  # though "a" hangs
        assert shelf.given == [{"n": 1}, {"n": 3}]
        assert repository.find("b").name == "b"
        shelf.hangs["a"].set()
        await asyncio.gather(first, second)
        assert shelf.given == [{"n": 1}, {"n": 3}, {"n": 2}]

    asyncio.run(main())


def test_a_reload_goes_on_counting_and_tells_the_new_memory() -> None:
    async def main() -> None:
        repository = Repository(Shelf())
        await repository.load("a")
        was = repository.find("a")
        was.statistics.inference_count, was.statistics.memory = 7, Usage(100)
        prepared = await repository.prepare("a")
        prepared.models[0].servable.memory = Usage(300)
        repository.commit(prepared)
        now = repository.find("a")
        assert now is not was
        assert (now.statistics.inference_count, now.statistics.memory) == (7, Usage(300))

    asyncio.run(main())


def test_what_was_found_before_a_reload_is_exchanged_for_its_successor() -> None:
    async def main() -> None:
        shelf = Shelf(versions=("1", "2"))
        repository = Repository(shelf)
        await repository.load("a")
        one, two = repository.find("a", "1"), repository.find("a", "2")
        assert repository.current(one) is one
        shelf.versions = ("2", "3")
        await repository.load("a")
        await turns(lambda: one.is_retired)
        assert repository.current(two) is repository.find("a", "2")
        assert repository.current(one) is repository.find("a", "3")  # the newest was asked for
        with pytest.raises(ModelVersionNotFound):
            repository.current(one, "1")
        await repository.unload("a")
        with pytest.raises(ModelNotReady):
            repository.current(two)

    asyncio.run(main())


def test_a_model_that_never_ends_is_stopped_after_the_drain_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf, drain_s=0.02)
        await repository.load("a")
        busy = asyncio.create_task(ask(repository.find("a"), "held"))
        assert await asyncio.to_thread(shelf.made[0].started.wait, 10)
        await repository.unload("a")
        assert shelf.made[0].is_closed
        assert "model still busy at unload" in caplog.messages
        shelf.made[0].go.set()
        await busy

    asyncio.run(main())


def test_every_model_is_stopped_though_one_cannot(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        shelf = Shelf(versions=("1", "2"))
        repository = Repository(shelf)
        await repository.load("a")
        shelf.made[0].close_error = RuntimeError("still in use")
        with caplog.at_level(logging.ERROR):
            await repository.close()
        assert [each.is_closed for each in shelf.made] == [True, True]
        assert caplog.messages == ["model did not stop cleanly"]

    asyncio.run(main())


def test_close_stops_what_is_still_retiring() -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf)
        await repository.load("a")
        busy = asyncio.create_task(ask(repository.find("a"), "held"))
        assert await asyncio.to_thread(shelf.made[0].started.wait, 10)
        await repository.load("a")
        await repository.close()
        assert [each.is_closed for each in shelf.made] == [True, True]
        shelf.made[0].go.set()
        await busy

    asyncio.run(main())


@pytest.mark.parametrize("path", ["v2/models/a/infer", "v1/models/a:predict"])
def test_twenty_reloads_under_requests_lose_none(path: str) -> None:
    body: dict[str, Any] = {"instances": [[0.0]]}
    if path.startswith("v2"):
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0]}]}
    data = json.dumps(body).encode()

    async def main() -> None:
        shelf = Shelf()
        async with running(loader=shelf, drain_delay=0.0) as server:
            url = f"http://127.0.0.1:{server.ports.http}/{path}"
            is_over = threading.Event()

            def requests() -> int:
                count = 0
                while not is_over.is_set():
                    with contextlib.closing(urllib.request.urlopen(url, data, timeout=10)) as reply:
                        assert reply.status == 200  # urlopen raises for most others
                        count += 1
                return count

            clients = [asyncio.create_task(asyncio.to_thread(requests)) for _ in range(4)]
            for _ in range(20):
                await server.control.load("a", {})
                assert await asyncio.to_thread(shelf.made[-1].used.wait, 10)
            is_over.set()
            total = sum(await asyncio.gather(*clients))
            figures = server.repository.find("a").statistics
            assert (figures.success.count, figures.fail.count) == (total, 0)
        assert total >= 20
        assert len(shelf.made) == 22  # "a" and "b" at the start, then "a" again
        assert all(each.is_closed for each in shelf.made)

    asyncio.run(main())


def test_statistics_tell_what_memory_a_model_uses_and_where() -> None:
    told = ModelStatistics("m", "1", memory=Usage(5, 9, {1: 7})).to_json()
    assert told["memory_usage"] == [
        {"type": "CPU", "id": 0, "byte_size": 5},
        {"type": "CPU_PEAK", "id": 0, "byte_size": 9},
        {"type": "GPU", "id": 1, "byte_size": 7},
    ]
    assert ModelStatistics("m", "1").to_json()["memory_usage"] == []
