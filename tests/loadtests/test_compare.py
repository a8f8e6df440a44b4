"""How the benchmark names what it cannot do, and what each peer brings."""

from pathlib import Path

import pytest

from loadtests import compare, scenarios, servers
from loadtests.rounds import Results
from loadtests.servers import KNOWN, CannotRun, Peer

ROOT = Path(__file__).parents[2]


def test_an_unknown_peer_or_work_is_named() -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main(["--peers", "tritn", "--work", "tiny,bach"])
    assert str(raised.value) == (
        "compare: bach, tritn: not known; works tiny, image, scaling, idle, latency, real, memory, "
        "batch; peers headrace, headrace_model, kserve, mlserver, triton, litserve, bentoml"
    )


def test_a_peer_that_cannot_be_installed_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(peer: Peer) -> None:
        raise CannotRun("cannot be installed: no wheel")

    monkeypatch.setattr(servers, "install", fail)
    results = Results()
    assert compare.ready(["kserve"], results) == []
    assert results.notes == {"all": {"kserve": "cannot be installed: no wheel"}}


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


def test_titles_are_told_apart() -> None:
    files = {"onnx": Path("a"), "torch": Path("b")}
    made = [
        *scenarios.tiny(),
        *scenarios.image(),
        *scenarios.scaling(),
        *scenarios.real(files),
        *scenarios.memories(files),
    ]
    assert len({each.title for each in made}) == len(made)
