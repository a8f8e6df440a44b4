"""Alternating runs A B A B of scenarios on several servers; what fails is noted.

Who answers wrongly before the runs is not measured; who does so after them has none.
"""

import contextlib
from collections.abc import Iterable, Sequence
from itertools import groupby

from loadtests import scenarios, servers
from loadtests.progress import Progress, say
from loadtests.recording import Results
from loadtests.scenarios import Conditions, Scenario
from loadtests.servers import CannotRun, Peer, Running

START_S, WARM_S = 2.0, 1.6  # to start, ask and stop a server; to warm it up


def measure(
    todo: Sequence[Scenario],
    peers: Sequence[Peer],
    rounds: int,
    under: Conditions,
    workers: int,
    results: Results,
    progress: Progress,
) -> None:
    """Scenarios on the same model share their servers. workers: of each server, at least."""
    for each in todo:
        results.forget(each.title)
    for block in blocks(todo):
        wanted = [peer for peer in peers if any(each.has(peer) for each in block)]
        with contextlib.ExitStack() as stack:
            running = []
            for peer in wanted:
                progress.step(f"starting {peer.name} for {block[0].work}", START_S)
                try:
                    server = servers.started(
                        peer, block[0].spec, under.server_cores, max(workers, block[0].workers)
                    )
                    running.append(stack.enter_context(server))
                except CannotRun as error:
                    for each in filter(lambda each: each.has(peer), block):
                        note(results, each.title, peer.name, str(error))
            for each in block:
                _rounds(each, running, rounds, under, results, progress)


def blocks(todo: Iterable[Scenario]) -> list[list[Scenario]]:
    """Neighbours on the same model with as many workers."""
    return [list(group) for _, group in groupby(todo, key=lambda each: (each.spec, each.workers))]


def expected_s(
    todo: Sequence[Scenario], peers: Sequence[Peer], rounds: int, seconds: float
) -> float:
    """What measure() will take, about, where every server is able."""
    starts = sum(any(each.has(peer) for each in block) for block in blocks(todo) for peer in peers)
    runs = sum(
        WARM_S + min(rounds, each.rounds) * each.expected_s(seconds)
        for each in todo
        for peer in peers
        if each.has(peer) and each.wire in peer.wires
    )
    return starts * START_S + runs


def _rounds(
    each: Scenario,
    running: Sequence[Running],
    rounds: int,
    under: Conditions,
    results: Results,
    progress: Progress,
) -> None:
    able = [
        server for server in running if each.has(server.peer) and _is_able(each, server, results)
    ]
    expected = each.expected_s(under.seconds)
    for server in () if under.is_tiny else able:  # caches, latency models, the generator's start
        progress.step(f"{each.title}: {server.peer.name}: warm-up", WARM_S)
        scenarios.warm(each, server, under)
    count = min(rounds, each.rounds)
    for number in range(count):
        for server in able:
            name = server.peer.name
            if name in results.notes.get(each.title, {}) or (number and progress.is_over):
                progress.skip(expected)
                continue
            progress.step(f"{each.title}: {name}: round {number + 1} of {count}", expected)
            try:
                found = each.run(each, server, under)
                if not found.rate_per_s and not found.extra:
                    raise RuntimeError(f"no good answer in time, {found.lost} lost")
                results.add(each.title, name, found)
            except (CannotRun, RuntimeError, OSError, ValueError) as error:
                note(results, each.title, name, f"failed: {error}")
    for server in able:  # under load it may have begun to answer otherwise
        name = server.peer.name
        if results.of(each.title, name) and not _check(each, server, results):
            results.drop(each.title, name)


def _is_able(each: Scenario, server: Running, results: Results) -> bool:
    name = server.peer.name
    if each.wire not in server.peer.wires:
        note(results, each.title, name, f"does not speak {each.wire}")
        return False
    if each.rate_per_s and (top := saturated_at(each, name, results)):
        note(results, each.title, name, f"saturated at {top:,.0f}/s")
        return False
    return _check(each, server, results)


def _check(each: Scenario, server: Running, results: Results) -> bool:
    try:
        scenarios.check(each, server)
    except Exception as error:  # whatever a peer's answer breaks, the others go on
        note(results, each.title, server.peer.name, f"wrong answer: {error}"[:300])
        return False
    return True


def saturated_at(each: Scenario, peer: str, results: Results) -> float | None:
    """The lower rate of the same ladder with which peer did not keep up."""
    for rate in scenarios.RATES_PER_S:
        found = results.of(scenarios.ladder_title(rate), peer)
        if rate < each.rate_per_s and found:
            best = max(run.rate_per_s for run in found)
            if best < scenarios.KEPT * rate:
                return best
    return None


def note(results: Results, title: str, peer: str, why: str) -> None:
    results.note(title, peer, why)
    say(f"{title}: {peer}: {why}")
