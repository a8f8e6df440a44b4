"""The benchmark beside the peers, all in one run on one machine, work by work.

    python -m loadtests.compare                                  everything; about 40 minutes
    python -m loadtests.compare --work tiny --peers kserve,triton --match 'V2 JSON'
    python -m loadtests.compare --budget-minutes 40              shorter runs so that all fits
    python -m loadtests.compare --render --out DIR               README and plots from results.json

Our own servers (headrace, the KServe model with only its import changed, batching off, the raw
calibration) run where a work calls for them. Progress goes to standard error, tables to standard
output. Results are written after each work and join those already in the folder.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import batching, machine, networks, plots, report, rounds, scenarios, servers
from loadtests.progress import Progress, clock_text, say
from loadtests.recording import Results
from loadtests.scenarios import Conditions, Scenario
from loadtests.servers import KNOWN, CannotRun, Peer

PEERS = ("kserve", "mlserver", "triton", "litserve", "bentoml")
WORKS = ("tiny", "image", "scaling", "idle", "low_load", "memory", "batch", "real", "latency")
FOLDER = servers.ROOT / "loadtests" / "results"
# Seconds of a run and rounds that --budget-minutes chooses from; wrk counts whole seconds.
SCHEDULES = ((4.0, 5), (3.0, 5), (2.0, 5), (2.0, 3), (1.0, 3), (1.0, 1))


@dataclass(frozen=True, slots=True)
class Work:
    """todo: runs server by server; plan: batching's own."""

    name: str
    todo: tuple[Scenario, ...] = ()
    plan: batching.Plan | None = None

    def expected_s(self, peers: Sequence[Peer], count: int, seconds: float) -> float:
        plain = [peer for peer in peers if is_plain(peer)]
        planned = self.plan.expected_s(plain, seconds) if self.plan else 0.0
        return planned + rounds.expected_s(self.todo, peers, count, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    names = [name for name in given.peers.split(",") if name]
    works = [name for name in given.work.split(",") if name]
    unknown = [each for each in works if each not in WORKS]
    unknown += [each for each in names if each not in PEERS]
    if unknown:
        known = f"works {', '.join(WORKS)}; peers {', '.join(PEERS)}"
        raise SystemExit(f"compare: {', '.join(unknown)}: not known; {known}")
    server_cores, load_cores = ("0,1", "0,1") if given.both_cores else ("0", "1")
    if not machine.pinned("0"):
        say("taskset is absent: server and load share all cores")
    folder = given.out or FOLDER / (machine.today() + ("-both-cores" if given.both_cores else ""))
    results = read(folder / "results.json")
    if given.render:
        if not (folder / "results.json").is_file():
            raise SystemExit(f"compare: {folder}: no results.json to render")
        render(folder, results)
        print(report.markdown(results))
        return 0
    with tempfile.TemporaryDirectory() as files:
        made = [made for name in works if (made := work(name, Path(files), given))]
        peers = ready(names, results, given.quick)
        seconds, count = (0.3, 1) if given.quick else (given.seconds, given.rounds)

        def expected_s(seconds: float, count: int) -> float:
            return sum(each.expected_s(peers, count, seconds) for each in made)

        if given.budget_minutes:
            budget_s = given.budget_minutes * 60
            fitting = (each for each in SCHEDULES if expected_s(*each) <= budget_s)
            seconds, count = next(fitting, SCHEDULES[-1])
        total_s = expected_s(seconds, count)
        say(f"about {clock_text(total_s)} minutes, {count} rounds of {seconds:g} s")
        progress = Progress(total_s, (given.budget_minutes or 1e6) * 60)
        under = Conditions(
            seconds,
            load_cores,
            server_cores,
            idle=50 if given.quick else 10_000,
            is_tiny=given.quick,
        )
        described = machine.described(0.02 if given.quick else 0.4)
        for each in made:
            results.conditions[each.name] = {
                **described,
                **machine.moment(),
                "server_cores": server_cores,
                "load_cores": load_cores,
                "rounds": each.plan.rounds if each.plan else count,
                "seconds": seconds,
            }
            workers = 2 if given.both_cores else 1
            rounds.measure(each.todo, peers, count, under, workers, results, progress)
            if each.plan:
                plain = [peer for peer in peers if is_plain(peer)]
                batching.measure(each.plan, plain, under, results, progress)
            write(folder, results)
    write(folder, results)
    print(report.markdown(results))
    return 0 if results.runs or results.goodput else 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        "loadtests.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--peers", default=",".join(PEERS), help="'': ours alone")
    options.add_argument("--work", default=",".join(WORKS))
    options.add_argument("--match", default="", help="only scenarios whose title has this text")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=2.0, help="of each run")
    options.add_argument(
        "--budget-minutes",
        type=float,
        default=0.0,
        help="choose seconds and rounds so that all fits; once over, one round of the rest",
    )
    options.add_argument("--out", type=Path, help="folder (default: loadtests/results/DATE)")
    options.add_argument("--render", action="store_true", help="measure nothing, read what was")
    options.add_argument("--both-cores", action="store_true", help="pin neither; two workers")
    options.add_argument("--quick", action="store_true", help="each work once, tiny, to try it")
    return options


def is_plain(peer: Peer) -> bool:
    return not peer.is_ours and not peer.variant_of


def ready(names: Sequence[str], results: Results, is_quick: bool = False) -> list[Peer]:
    """Our servers, and the peers named whose environments could be made, with their variants."""
    results.notes.pop("all", None)
    found = []
    for peer in KNOWN.values():
        if not peer.is_ours and peer.folder.name not in names:
            continue
        if is_quick and peer.is_ours and peer.name not in ("headrace", "raw"):
            continue
        try:
            servers.install(peer)
            found.append(peer)
        except CannotRun as error:
            rounds.note(results, "all", peer.name, str(error))
    return found


def work(name: str, folder: Path, given: argparse.Namespace) -> Work | None:
    """Writes the networks into folder if the work needs them; None if nothing matches."""
    if name == "batch":
        return Work(name, plan=batching.TINY if given.quick else batching.Plan())
    if name == "real":
        todo = scenarios.real(networks.write(folder, ("onnx", "torch")))
    elif name == "memory":
        todo = scenarios.memories(networks.write(folder, ("onnx",)))
    else:
        todo = {
            "tiny": scenarios.tiny,
            "image": scenarios.image,
            "scaling": scenarios.scaling,
            "idle": scenarios.idling,
            "latency": scenarios.latency,
            "low_load": scenarios.low_load,
        }[name]()
    chosen = tuple(each for each in todo if given.match in each.title)
    if given.quick and name in ("scaling", "latency"):
        chosen = chosen[:2]
    return Work(name, chosen) if chosen else None


def read(file: Path) -> Results:
    return Results.from_dict(json.loads(file.read_text())) if file.is_file() else Results()


def write(folder: Path, results: Results) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results.as_dict(), indent=1) + "\n")
    render(folder, results)


def render(folder: Path, results: Results) -> None:
    """What people read of results.json, as goals and tables are computed now."""
    (folder / "README.md").write_text(report.markdown(results))
    plots.draw(results, folder)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped too
    sys.exit(main())
