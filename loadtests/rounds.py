"""Alternating runs A B A B of scenarios on several servers; what fails is noted."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from loadtests import scenarios, servers
from loadtests.figures import Figures
from loadtests.scenarios import Conditions, Scenario
from loadtests.servers import CannotRun, Peer, Running


@dataclass(slots=True)
class Results:
    """runs: by scenario's title, then peer. notes: why a peer has none, by the same keys."""

    runs: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, title: str, peer: str, why: str) -> None:
        self.notes.setdefault(title, {})[peer] = why
        say(f"{title}: {peer}: {why}")


def measure(
    todo: Sequence[Scenario],
    peers: Sequence[Peer],
    rounds: int,
    under: Conditions,
    cores: str,
    workers: int = 1,
    results: Results | None = None,
) -> Results:
    """Scenarios on the same model share their servers. cores: of the servers. workers: at least."""
    results = results if results is not None else Results()
    for (spec, needed), group in groupby(todo, key=lambda each: (each.spec, each.workers)):
        block = list(group)
        with contextlib.ExitStack() as stack:
            running = []
            for peer in peers:
                try:
                    say(f"starting {peer.name} for {spec.partition(':')[0]}")
                    server = servers.started(peer, spec, cores, max(workers, needed))
                    running.append(stack.enter_context(server))
                except CannotRun as error:
                    for each in block:
                        results.note(each.title, peer.name, str(error))
            for each in block:
                _rounds(each, running, rounds, under, results)
    return results


def _rounds(
    each: Scenario, running: Sequence[Running], rounds: int, under: Conditions, results: Results
) -> None:
    able = [server for server in running if _is_able(each, server, results)]
    for server in (
        able if under.seconds >= 1 else ()
    ):  # warm: caches, latency models, the generator's own start
        scenarios.warm(each, server, under)
    for number in range(rounds):
        for server in able:
            name = server.peer.name
            if name in results.notes.get(each.title, {}):
                continue
            say(f"{each.title}: {name}: round {number + 1} of {rounds}")
            try:
                found = each.run(each, server, under)
            except (CannotRun, RuntimeError, OSError, ValueError) as error:
                results.note(each.title, name, f"failed: {error}")
                continue
            results.runs.setdefault(each.title, {}).setdefault(name, []).append(found)


def _is_able(each: Scenario, server: Running, results: Results) -> bool:
    name = server.peer.name
    if each.wire not in server.peer.wires:
        results.note(each.title, name, f"does not speak {each.wire}")
        return False
    try:
        scenarios.check(each, server)
    except Exception as error:  # whatever a peer's answer breaks, the others go on
        results.note(each.title, name, f"wrong answer: {error}"[:300])
        return False
    return True


def say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)
