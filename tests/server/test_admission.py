"""Which loads fit, which make others go, and which are refused before memory runs out."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headrace.server import memory, start_up
from headrace.server.admission import Held, Room, Verdict, admit, estimate, last_used_ms
from headrace.server.control import LocalControl
from headrace.server.errors import Code, NoMemory
from headrace.server.folders import FolderLoader
from headrace.server.headroom import Headroom
from headrace.server.loading import ModelSource
from headrace.server.memory import Usage
from headrace.server.placement import Group, Kind
from headrace.server.repository import Repository, ServedModel
from tests.serving import served, settings

OLD, NEW, BUSY = Held("old", 30, 1), Held("new", 30, 2), Held("busy", 90, 0, is_idle=False)
SAID = (
    "model m needs about {} bytes, and 20 are free of the 100 this process may use "
    "(--memory_limit_bytes, shared by the workers)"
)


@pytest.mark.parametrize(
    ("need", "room", "held", "can_evict", "verdict"),
    [
        pytest.param(500, Room(0, 80), [], False, Verdict(), id="no limit"),
        pytest.param(20, Room(100, 80), [], False, Verdict(), id="it just fits"),
        pytest.param(0, Room(100, 120), [], False, Verdict(), id="nothing is known of it"),
        pytest.param(
            21,
            Room(100, 80),
            [OLD],
            False,
            Verdict(refusal=f"{SAID.format(21)}; unload a model, or raise the limit"),
            id="it does not fit, and nobody is evicted unasked",
        ),
        pytest.param(50, Room(100, 80), [NEW, OLD], True, Verdict(("old",)), id="the oldest goes"),
        pytest.param(
            51, Room(100, 80), [NEW, OLD], True, Verdict(("old", "new")), id="as many as it takes"
        ),
        pytest.param(
            81,
            Room(100, 80),
            [NEW, OLD, BUSY],
            True,
            Verdict(
                refusal=f"{SAID.format(81)}; idle models hold 60 of it, which is not enough: "
                "unload a busy one, or raise the limit"
            ),
            id="busy ones stay, and nobody goes in vain",
        ),
        pytest.param(
            50,
            Room(100, 80),
            [Held("m", 40, 0), NEW],
            True,
            Verdict(("new",)),
            id="not the model itself, which serves until it is reloaded",
        ),
        pytest.param(
            50,
            Room(100, 80),
            [Held("unknown", 0, 0), NEW],
            True,
            Verdict(("new",)),
            id="not one whose size is unknown",
        ),
    ],
)
def test_admit(need: int, room: Room, held: list[Held], can_evict: bool, verdict: Verdict) -> None:
    assert admit("m", need, room, held, can_evict) == verdict


def test_an_estimate_holds_the_file_and_each_instance() -> None:
    assert [estimate(100, instances) for instances in (0, 1, 3)] == [200, 200, 400]


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({"memory.max": "1073741824\n"}, 1 << 30, id="v2"),
        pytest.param({"memory.max": "max\n"}, 0, id="v2 without a limit"),
        pytest.param({"memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20, id="v1"),
        pytest.param(
            {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0, id="v1 without a limit"
        ),
        pytest.param({}, 0, id="no cgroup"),
    ],
)
def test_the_containers_limit(files: dict[str, str], limit: int, tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert memory.container_limit_bytes(tmp_path) == limit


def test_workers_share_the_limit_and_only_folders_evict() -> None:
    given = settings(memory_limit_bytes=900, workers=3, evict_models=True)
    assert (start_up.headroom(given).limit_bytes, start_up.headroom(given).can_evict) == (
        300,
        False,
    )
    folder = settings(memory_limit_bytes=0, model_repository="m", evict_models=True)
    assert (start_up.headroom(folder).limit_bytes, start_up.headroom(folder).can_evict) == (0, True)


def test_the_last_use_of_a_model_is_its_newest_versions() -> None:
    rows = [{"name": "a", "last_inference": 3}, {"name": "a", "last_inference": 5}]
    assert last_used_ms([*rows, {"name": "b", "last_inference": 0}]) == {"a": 5, "b": 0}


class Nothing:
    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()

    def predict(self, inputs: Sequence[Any]) -> Sequence[Any]:
        return inputs


@dataclass
class Shelf:
    """Models of given sizes; `used` is what all that is loaded holds, and 10 for the server."""

    sizes: Mapping[str, int]
    loaded: list[str] = field(default_factory=list)
    repository: Repository | None = None

    def names(self) -> Sequence[str]:
        return list(self.sizes)

    def estimated_bytes(self, name: str, parameters: Mapping[str, Any]) -> int:
        return self.sizes[name]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        self.loaded.append(name)
        model = served(name, Nothing())
        model.servable.memory = Usage(self.sizes[name])
        model.statistics.last_inference_ms = len(self.loaded)
        return [model]

    def used(self) -> int:
        assert self.repository is not None
        return 10 + sum(each.servable.memory.cpu_bytes for each in self.repository.all())


def shelf(limit: int, can_evict: bool, **sizes: int) -> tuple[Shelf, LocalControl]:
    made = Shelf(sizes)
    headroom = Headroom(limit, can_evict, made.used)
    made.repository = Repository(made, headroom=headroom)
    return made, LocalControl(made.repository)


def serving(control: LocalControl) -> list[str]:
    return control.repository.names()


def test_a_load_over_the_limit_is_refused_and_nothing_changes() -> None:
    made, control = shelf(100, False, a=50, b=60)

    async def run() -> None:
        await control.load("a", {})
        with pytest.raises(NoMemory) as refused:
            await control.load("b", {})
        assert refused.value.code is Code.NO_MEMORY
        assert str(refused.value).startswith("model b needs about 60 bytes, and 40 are free of ")
        assert (serving(control), made.loaded) == (["a"], ["a"])
        assert not control.repository.failed()  # a refusal takes no server out of rotation

    asyncio.run(run())


def test_a_start_up_model_that_does_not_fit_is_an_error_of_the_start() -> None:
    _, control = shelf(100, True, a=200)

    async def run() -> None:
        with pytest.raises(NoMemory):
            await control.repository.load("a")
        assert control.repository.failed()["a"].startswith("model a needs about 200 bytes")

    asyncio.run(run())


def test_the_idle_model_longest_unused_makes_room() -> None:
    _, control = shelf(100, True, a=30, b=30, c=40)

    async def run() -> None:
        for name in ("a", "b"):
            await control.load(name, {})
        control.repository.find("a").statistics.last_inference_ms = 99
        await control.load("c", {})
        assert serving(control) == ["a", "c"]
        control.repository.find("a").enter()
        control.repository.find("c").enter()
        with pytest.raises(NoMemory):
            await control.load("b", {})
        assert serving(control) == ["a", "c"]

    asyncio.run(run())


def test_a_reload_needs_both_for_a_while_and_names_what_it_measured() -> None:
    _, control = shelf(100, True, a=50)

    async def run() -> None:
        await control.load("a", {})
        control.repository.find("a").servable.memory = Usage(50)
        with pytest.raises(NoMemory) as refused:
            await control.load("a", {})
        assert "needs about 50 bytes, and 40 are free" in str(refused.value)
        assert serving(control) == ["a"]

    asyncio.run(run())


def test_what_a_model_needed_is_remembered_with_its_peak() -> None:
    _, control = shelf(100, False, a=20)

    async def run() -> None:
        prepared = await control.repository.prepare("a")
        prepared.models[0].servable.memory = Usage(20, 95)
        control.repository.commit(prepared)
        await control.unload("a")
        with pytest.raises(NoMemory) as refused:
            await control.load("a", {})
        assert "needs about 95 bytes, and 90 are free" in str(refused.value)

    asyncio.run(run())


def test_files_are_weighed_with_the_instances_of_their_config(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(bytes(1000))
    (tmp_path / "m" / "config.pbtxt").write_text("instance_group { count: 3 kind: KIND_CPU }")
    loader = FolderLoader(tmp_path, ModelSource(Path(), "onnx"))
    assert loader.names() == ["m"]
    assert loader.estimated_bytes("m", {}) == 4000
    assert loader.estimated_bytes("m", {"file:1/model.onnx": bytes(50)}) == 100
    assert loader.estimated_bytes("absent", {}) == 0
    assert ModelSource(Path(), groups=(Group(kind=Kind.CPU),)).wanted == (Group(kind=Kind.CPU),)
