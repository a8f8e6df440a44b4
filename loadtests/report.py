"""Results as text: the Markdown tables of a benchmark. Pure."""

from collections.abc import Sequence
from statistics import median

from loadtests import goals, goodput
from loadtests.figures import Figures, human, ratios, spread
from loadtests.goodput import OURS
from loadtests.recording import Results


def markdown(results: Results) -> str:
    return "\n".join(
        [
            "# Benchmark",
            "",
            "Medians of alternating rounds, lowest and highest in brackets; a ratio is headrace's",
            "over the peer's in the same round. How it is measured: loadtests/README.md.",
            "",
            "## Goals",
            "",
            *goals.table(results),
            "",
            "## Servers",
            "",
            *table(results),
            *(goodput_table(results) if results.goodput else []),
            "",
            "## Conditions",
            "",
            *conditions(results),
            "",
        ]
    )


def conditions(results: Results) -> list[str]:
    """A line per work: when, on what, and how busy the machine was."""
    return [
        f"- {work}: {at['date']}, {at['cpu']}, {at['cores']} cores, Linux {at['kernel']}, Python "
        f"{at['python']}; server on core {at['server_cores']}, load on core {at['load_cores']}; "
        f"{at['rounds']} rounds of {at['seconds']:g} s; load average {at['load_average']:.2f}; "
        f"a core beside a busy one computes {at['beside_a_busy_core']:.0%} of what it does alone; "
        + ", ".join(f"{name} {version}" for name, version in at["generators"].items())
        for work, at in results.conditions.items()
    ]


def table(results: Results) -> list[str]:
    lines = [
        "| work | server | answers/s | p50 ms | p99 ms | p99.9 ms | lost | headrace is | more |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title in dict.fromkeys([*results.runs, *results.notes]):
        by_peer = results.runs.get(title, {})
        ours = by_peer.get(OURS, [])
        lines += [row(title, peer, runs, ours) for peer, runs in by_peer.items()]
        lines += [
            f"| {title} | {peer} | n/a: {why.replace('|', '/')} | | | | | | |"
            for peer, why in results.notes.get(title, {}).items()
        ]
    return lines


def row(title: str, peer: str, runs: Sequence[Figures], ours: Sequence[Figures]) -> str:
    rates = [run.rate_per_s for run in runs]
    compared = ""
    if peer != OURS and ours and any(rates):
        of = ratios([run.rate_per_s for run in ours], rates)
        compared = f"{human(of.median)} x ({human(of.low)}-{human(of.high)})"
    extra = {name for run in runs for name in run.extra}
    more = ", ".join(
        f"{name} {spread([run.extra[name] for run in runs])}" for name in sorted(extra)
    )
    cells = [
        title,
        peer,
        str(spread(rates)) if any(rates) else "",
        latency(runs, "p50"),
        latency(runs, "p99"),
        latency(runs, "p99.9"),
        str(sum(run.lost for run in runs)),
        compared,
        more,
    ]
    return f"| {' | '.join(cells)} |"


def latency(runs: Sequence[Figures], percentile: str) -> str:
    found = [run.latency_ms[percentile] for run in runs if percentile in run.latency_ms]
    return str(spread(found)) if found else ""


def goodput_table(results: Results) -> list[str]:
    """Per case the goodput, summed over the loads, and our ratio to each."""
    runs = results.goodput
    others = [name for name in goodput.policies(runs) if goals.is_peer(name)]
    heads = ["cost", "arrivals", "limit", OURS, "best fixed", *others]
    lines = ["", "## Batching: answers/s within the limit, summed over the loads", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in goodput.cases(runs):
        best = goodput.best_fixed(runs, case)
        fixed = f"{compared(results, case, best)} ({best})" if best else "-"
        cells = [*case, cell(results, case, OURS), fixed]
        cells += [compared(results, case, name) for name in others]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cell(results: Results, case: goodput.Case, policy: str) -> str:
    found = goodput.measured(results.goodput, case, policy)
    return human(median(found)) if found else "-"


def compared(results: Results, case: goodput.Case, policy: str) -> str:
    of = goodput.ratio(results.goodput, case, policy)
    return cell(results, case, policy) + (f", {human(of.median)} x" if of else "")
