"""The benchmark beside the peers, all in one run on one machine.

    python -m loadtests.compare --peers kserve,triton --work tiny
    python -m loadtests.compare --peers kserve,mlserver,triton,litserve,bentoml --work all
    python -m loadtests.compare --peers '' --work all --quick    each work once, tiny

headrace runs always, as a plain predictor and (not with --quick) as the KServe model with only its
import changed.
Progress goes to standard error, the table to standard output; JSON, Markdown and plots to --out.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtests import batching, machine, networks, plots, report, rounds, scenarios, servers
from loadtests.batching import Study
from loadtests.rounds import Results
from loadtests.scenarios import Conditions, Scenario
from loadtests.servers import KNOWN, CannotRun, Peer

OURS = ("headrace", "headrace_model")
WORKS = ("tiny", "image", "scaling", "idle", "latency", "real", "memory", "batch")
RESULTS = servers.ROOT / "loadtests" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    works = WORKS if given.work == "all" else tuple(given.work.split(","))
    names = [
        *(OURS[:1] if given.quick else OURS),
        *(name for name in given.peers.split(",") if name),
    ]
    unknown = [each for each in works if each not in WORKS]
    unknown += [each for each in names if each not in KNOWN]
    if unknown:
        known = f"works {', '.join(WORKS)}; peers {', '.join(KNOWN)}"
        raise SystemExit(f"compare: {', '.join(unknown)}: not known; {known}")
    if shutil.which("taskset") is None:
        rounds.say("taskset is absent: server and load share all cores")
    seconds, count = (0.3, 1) if given.quick else (given.seconds, given.rounds)
    cores = ("0,1", "0,1") if given.both_cores else ("0", "1")
    under = Conditions(seconds, cores[1], cores[0], idle=50 if given.quick else 10_000)
    results, study = Results(), None
    peers = ready(names, results)
    with tempfile.TemporaryDirectory() as folder:
        todo = chosen(works, Path(folder))
        workers = 2 if given.both_cores else 1
        rounds.measure(todo, peers, count, under, cores[0], workers, results)
        if "batch" in works:
            study = batched(peers, seconds, cores, given.quick)
    described = {
        **machine.described(),
        "server_cores": cores[0],
        "load_cores": cores[1],
        "rounds": count,
        "seconds": seconds,
    }
    text = report.markdown(results, study, described)
    write(given.out or RESULTS / described["date"][:10], text, results, study, described, peers)
    print(text)
    return 0 if results.runs or (study and study.goodput) else 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        "loadtests.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--peers", default="kserve,mlserver,triton,litserve,bentoml")
    options.add_argument("--work", default="tiny,image,batch", help=f"all, or {','.join(WORKS)}")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=4.0, help="of each run")
    options.add_argument("--out", type=Path, help="folder (default: loadtests/results/DATE)")
    options.add_argument("--both-cores", action="store_true", help="pin neither; two workers")
    options.add_argument("--quick", action="store_true", help="each work once, 0.3 s")
    return options


def ready(names: Sequence[str], results: Results) -> list[Peer]:
    """The peers whose environments could be made."""
    found = []
    for name in dict.fromkeys(names):
        try:
            servers.install(KNOWN[name])
            found.append(KNOWN[name])
        except CannotRun as error:
            results.note("all", name, str(error))
    return found


def chosen(works: Sequence[str], folder: Path) -> list[Scenario]:
    """Scenarios of works. Writes the networks into folder if one needs them."""
    files: dict[str, Path] = {}
    if {"real", "memory"} & set(works):
        files = networks.write(folder)
    by_work: dict[str, Callable[[], list[Scenario]]] = {
        "tiny": scenarios.tiny,
        "image": scenarios.image,
        "scaling": scenarios.scaling,
        "idle": scenarios.idling,
        "latency": scenarios.latency,
        "real": lambda: scenarios.real(files),
        "memory": lambda: scenarios.memories(files),
    }
    return [each for work in works if work in by_work for each in by_work[work]()]


def batched(peers: Sequence[Peer], seconds: float, cores: tuple[str, str], is_quick: bool) -> Study:
    if is_quick:
        tried = batching.policies(peers[:1], (8,), (2.0,))
        return batching.study(tried, seconds, cores, batching.COSTS[:1], (0.3,))
    return batching.study(
        batching.policies(peers, batching.SIZES, batching.DELAYS_MS), seconds, cores
    )


def write(
    folder: Path,
    text: str,
    results: Results,
    study: Study | None,
    described: dict[str, object],
    peers: Sequence[Peer],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    runs = {
        title: {peer: [each.as_dict() for each in found] for peer, found in by_peer.items()}
        for title, by_peer in results.runs.items()
    }
    whole = {
        "machine": described,
        "versions": {peer.name: servers.versions(peer) for peer in peers},
        "runs": runs,
        "not_measured": results.notes,
        "batching": study.as_dict() if study else None,
    }
    (folder / "results.json").write_text(json.dumps(whole, indent=1))
    (folder / "README.md").write_text(text)
    plots.draw(results, study, folder)


if __name__ == "__main__":
    sys.exit(main())
