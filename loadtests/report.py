"""Results as text: the Markdown tables of a run. Pure."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from loadtests import batching
from loadtests.batching import Study
from loadtests.figures import Figures, human, ratios, spread
from loadtests.rounds import Results

OURS = "headrace"


def markdown(results: Results, study: Study | None, machine: Mapping[str, Any]) -> str:
    generators = ", ".join(f"{k} ({v})" for k, v in machine["generators"].items())
    lines = [
        "# Benchmark",
        "",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, Linux "
        f"{machine['kernel']}, Python {machine['python']}; {generators}. "
        f"Server on core {machine['server_cores']}, load on core {machine['load_cores']}; "
        f"{machine['rounds']} alternating rounds of {machine['seconds']:g} s. Medians, lowest and "
        "highest in brackets; a ratio is headrace's rate over the peer's in the same round.",
        "",
        *table(results),
        *failures(results),
    ]
    return "\n".join([*lines, *(batches(study) if study else []), ""])


def table(results: Results) -> list[str]:
    lines = [
        "| work | server | answers/s | p50 ms | p99 ms | lost | headrace is | more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, by_peer in results.runs.items():
        ours = by_peer.get(OURS, [])
        for peer, runs in by_peer.items():
            lines.append(row(title, peer, runs, ours))
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
        str(sum(run.lost for run in runs)),
        compared,
        more,
    ]
    return f"| {' | '.join(cells)} |"


def latency(runs: Sequence[Figures], percentile: str) -> str:
    found = [run.latency_ms[percentile] for run in runs if percentile in run.latency_ms]
    return str(spread(found)) if found else ""


def failures(results: Results) -> list[str]:
    """One line per peer and reason, whatever the number of works."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for title, notes in results.notes.items():
        for peer, why in notes.items():
            by_reason.setdefault((peer, why), []).append(title)
    if not by_reason:
        return []
    lines = [f"- {peer}: {why} ({'; '.join(t)})" for (peer, why), t in by_reason.items()]
    return ["", "Not measured:", "", *lines]


def batches(study: Study) -> list[str]:
    """Goodput, the mean over the offered loads; the best fixed policy is the sweep's."""
    others = [
        name
        for name in dict.fromkeys(name for found in study.goodput.values() for name in found)
        if name not in study.swept and name != OURS
    ]
    heads = ["cost", "arrivals", "limit", "headrace", "best fixed", "ratio", *others]
    lines = ["", "## Batching: goodput, answers/s within the limit", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case, by_policy in study.goodput.items():
        ours = mean(by_policy.get(OURS))
        best = batching.best_fixed(by_policy, study.swept)
        fixed = mean(by_policy[best]) if best else None
        cells = [*case, cell(ours), f"{cell(fixed)} ({best})" if best else "-"]
        cells.append(f"{ours / fixed:.2f}" if ours is not None and fixed else "-")
        cells += [cell(mean(by_policy.get(name))) for name in others]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- {name}: {why}" for name, why in study.notes.items()]
    return [*lines, *(["", "Not measured:", "", *notes] if notes else [])]


def mean(values: Sequence[float] | None) -> float | None:
    return fmean(values) if values else None


def cell(value: float | None) -> str:
    return "-" if value is None else human(value)
