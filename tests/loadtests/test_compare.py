"""How the benchmark names what it cannot do, and what each peer brings."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from loadtests import compare, goals, rounds, scenarios, servers
from loadtests.figures import Figures, Spread
from loadtests.goodput import Run
from loadtests.progress import Progress
from loadtests.recording import Results
from loadtests.scenarios import Conditions, Scenario
from loadtests.servers import KNOWN, CannotRun, Peer, Running
from loadtests.wires import Wire

ROOT = Path(__file__).parents[2]


def test_an_unknown_peer_or_work_is_named() -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main(["--peers", "tritn", "--work", "tiny,bach"])
    assert str(raised.value) == (
        "compare: bach, tritn: not known; works tiny, image, scaling, idle, low_load, memory, "
        "batch, real, latency; peers kserve, mlserver, triton, litserve, bentoml"
    )


def test_a_peer_that_cannot_be_installed_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(peer: Peer) -> None:
        raise CannotRun("cannot be installed: no wheel")

    monkeypatch.setattr(servers, "install", fail)
    results = Results()
    assert compare.ready(["kserve"], results) == []
    assert results.notes["all"]["kserve"] == "cannot be installed: no wheel"


def test_a_server_that_does_not_start_says_its_last_words() -> None:
    with pytest.raises(CannotRun) as raised, servers.started(KNOWN["headrace"], "nonsense", "0"):
        pass
    assert "'nonsense': no such model" in str(raised.value)


def test_every_peer_has_its_pinned_requirements_and_its_server() -> None:
    for peer in KNOWN.values():
        assert (peer.folder / "serve.py").is_file(), peer.name
        if not peer.is_ours:
            lines = (peer.folder / "requirements.txt").read_text().splitlines()
            assert lines, peer.name
            assert all("==" in line for line in lines), peer.name


def every_scenario() -> list[Scenario]:
    files = {"onnx": Path("a"), "torch": Path("b")}
    return [
        *scenarios.tiny(),
        *scenarios.image(),
        *scenarios.scaling(),
        *scenarios.idling(),
        *scenarios.latency(),
        *scenarios.low_load(),
        *scenarios.real(files),
        *scenarios.memories(files),
    ]


def test_titles_are_told_apart() -> None:
    titles = [each.title for each in every_scenario()]
    assert len(set(titles)) == len(titles)


def test_every_goal_is_measured_where_every_scenario_has_run() -> None:
    results = Results(goodput=runs_of({"headrace": 1, "fixed 8 rows, 0 ms": 1, "kserve": 1}))
    found = Figures(10, {"p50": 1.0}, extra={"pss_mb": 1, "idle_kib_each": 1, "rate_of_alone": 1})
    for each in every_scenario():
        for peer in KNOWN.values():
            if each.has(peer) and each.wire in peer.wires:
                results.add(each.title, peer.name, found)
    missed = [goal for goal in goals.GOALS if goal.cells(results)[-1] == "not measured"]
    assert missed == []


def runs_of(good_per_s: dict[str, float]) -> list[Run]:
    return [Run("a", "poisson", 0.5, name, 1, {"30 ms": good}) for name, good in good_per_s.items()]


@pytest.mark.parametrize(
    ("ours", "theirs", "measured", "verdict"),
    [
        pytest.param([30, 33], [3, 3], ["10.5 x", "10-11"], "yes", id="met by the median"),
        pytest.param([27, 30], [3, 3], ["9.5 x", "9-10"], "within the spread", id="met at times"),
        pytest.param([9, 9], [3, 3], ["3 x", "3-3"], "no", id="missed"),
        pytest.param([], [3, 3], ["0 x", "0-0"], "no", id="no runs of ours"),
        pytest.param([9, 9], [], ["-", ""], "not measured", id="no runs of theirs"),
    ],
)
def test_a_goal_is_held_against_the_rounds(
    ours: list[float], theirs: list[float], measured: list[str], verdict: str
) -> None:
    results = Results()
    for name, rates in (("headrace", ours), ("kserve", theirs)):
        for rate in rates:
            results.add("tiny V2 JSON, 16 connections", name, Figures(rate, {}))
    goal = goals.GOALS[0]
    assert goal.cells(results) == [goal.work, goal.wanted, *measured, verdict]


def test_a_scenario_in_which_only_a_peer_has_runs_counts_as_0() -> None:
    results = Results()
    results.add("onnx network, 1 connection", "headrace", Figures(30, {}))
    for title in ("onnx network, 1 connection", "onnx network, 32 connections"):
        results.add(title, "kserve", Figures(10, {}))
        results.add(title, "headrace_unbatched", Figures(10, {}))
    assert goals.against_best_peer("onnx network, ")(results) == (
        Spread(0, 0, 0),
        "kserve, onnx network, 32 connections",
    )
    assert goals.unbatched(results) == (Spread(0, 0, 0), "onnx network, 32 connections")
    assert goals.p50s("onnx network, 32 connections", "kserve")(results) == (Spread(0, 0, 0), "")


@pytest.mark.parametrize(
    ("second", "fixed", "defaults"),
    [
        pytest.param(
            {"headrace": 4, "fixed 8": 1, "kserve": 1},
            (2, "a, poisson, 30 ms: fixed 8"),
            (3, "a, poisson, 30 ms: kserve"),
            id="the lowest of both",
        ),
        pytest.param(
            {"fixed 8": 1, "kserve": 1},
            (0, "b, poisson, 30 ms: fixed 8"),
            (0, "b, poisson, 30 ms: kserve"),
            id="none of ours",
        ),
        pytest.param(
            {"headrace": 4},
            (0, "b, poisson, 30 ms: no fixed policy was measured"),
            (3, "a, poisson, 30 ms: kserve"),
            id="none of the others",
        ),
        pytest.param(
            {"headrace": 4, "fixed 8": 1, "kserve": 0},
            (2, "a, poisson, 30 ms: fixed 8"),
            (3, "a, poisson, 30 ms: kserve"),
            id="a peer that never answers in time",
        ),
    ],
)
def test_no_case_of_batching_is_left_out(
    second: dict[str, float], fixed: tuple[float, str], defaults: tuple[float, str]
) -> None:
    first = runs_of({"headrace": 6, "fixed 8": 3, "kserve": 2})
    results = Results(goodput=[*(replace(run, cost="b") for run in runs_of(second)), *first])
    for goal, (ratio, of) in ((goals.against_fixed, fixed), (goals.against_defaults, defaults)):
        assert goal(results) == (Spread(ratio, ratio, ratio), of)


def test_a_server_leaves_the_ladder_of_rates_where_it_cannot_keep_up() -> None:
    results = Results()
    results.add("open loop, 500/s", "kserve", Figures(499, {}))
    results.add("open loop, 1,000/s", "kserve", Figures(820, {}))
    steps = scenarios.latency()
    assert [rounds.saturated_at(each, "kserve", results) for each in steps[:3]] == [None, None, 820]


def test_runs_of_a_server_that_ends_up_wrong_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    servers_up = [_pretended("headrace"), _pretended("kserve")]
    has_run: list[str] = []

    def run(each: Scenario, running: Running, under: Conditions) -> Figures:
        has_run.append(running.peer.name)
        return Figures(10, {})

    def check(each: Scenario, running: Running) -> None:
        if running.peer.name == "kserve" and "kserve" in has_run:
            raise scenarios.WrongAnswer("V2 JSON answered 200 nothing")

    @contextlib.contextmanager
    def started(peer: Peer, *_: object) -> Iterator[Running]:
        yield next(each for each in servers_up if each.peer is peer)

    monkeypatch.setattr(scenarios, "check", check)
    monkeypatch.setattr(servers, "started", started)
    each = Scenario("tiny", "tiny", Wire.V2, run)
    results = Results()
    peers = [server.peer for server in servers_up]
    under = Conditions(1.0, is_tiny=True)
    rounds.measure([each], peers, 2, under, 1, results, Progress(1, 1e6))
    assert has_run == ["headrace", "kserve"] * 2
    assert results.runs == {"tiny": {"headrace": [Figures(10, {})] * 2}}
    assert results.notes == {"tiny": {"kserve": "wrong answer: V2 JSON answered 200 nothing"}}


def _pretended(name: str) -> Running:
    return Running(KNOWN[name], 1, 2, cast("subprocess.Popen[bytes]", None))


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = Results(goodput=runs_of({"headrace": 2.5}), conditions={"tiny": {"rounds": 5}})
    results.add("tiny", "headrace", Figures(10.5, {"p50": 1.25}, 3, {"pss_mb": 60.5}))
    results.note("tiny", "bentoml", "does not speak gRPC")
    written = json.dumps(results.as_dict())
    assert Results.from_dict(json.loads(written)) == results


def test_time_left_follows_the_pace_so_far() -> None:
    now = [0.0]
    progress = Progress(600, budget_s=250, clock=lambda: now[0])
    assert progress.left() == "10:00"
    progress.step("the first of five", 120)
    now[0] = 240
    assert progress.left() == "16:00"
    assert not progress.is_over
    now[0] = 251
    assert progress.is_over


def test_what_was_measured_is_rendered_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results()
    results.add("tiny V2 JSON, 16 connections", "headrace", Figures(30, {}))
    results.note("all", "triton", "cannot be installed: no wheel")
    compare.write(tmp_path, results)
    before = (tmp_path / "results.json").read_bytes()
    (tmp_path / "README.md").write_text("as goals were once computed\n")
    assert compare.main(["--render", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "| tiny V2 JSON, 16 connections | headrace | 30 (30-30) |" in text
    assert "cannot be installed: no wheel" in text
    assert capsys.readouterr().out == text + "\n"
    assert (tmp_path / "results.json").read_bytes() == before


def test_nothing_is_rendered_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main(["--render", "--out", str(tmp_path)])
    assert str(raised.value) == f"compare: {tmp_path}: no results.json to render"
