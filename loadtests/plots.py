"""The pictures of a benchmark: latency over throughput, and batching goodput over load."""

from pathlib import Path
from statistics import median

from loadtests import goals, goodput
from loadtests.goodput import FIXED, OURS
from loadtests.recording import Results
from loadtests.scenarios import RATES_PER_S, ladder_title


def draw(results: Results, folder: Path) -> None:
    """Writes them into folder; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    if any(ladder_title(rate) in results.runs for rate in RATES_PER_S):
        throughput(results, folder / "throughput.png")
    if results.goodput:
        batching(results, folder / "goodput.png")


def throughput(results: Results, file: Path) -> None:
    """The open-loop ladder: answers per second across, p99 from the due time up."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    ladder = [results.runs.get(ladder_title(rate), {}) for rate in RATES_PER_S]
    for peer in dict.fromkeys(peer for by_peer in ladder for peer in by_peer):
        points = [
            (median(r.rate_per_s for r in runs), median(r.latency_ms["p99"] for r in runs))
            for by_peer in ladder
            if (runs := [run for run in by_peer.get(peer, []) if run.latency_ms])
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=peer)
    axes.set(xscale="log", yscale="log", xlabel="answers per second", ylabel="p99 latency, ms")
    axes.legend()
    figure.savefig(file, dpi=100, bbox_inches="tight")
    pyplot.close(figure)


def batching(results: Results, file: Path) -> None:
    """One panel per case: headrace, the best fixed policy and the peers over the offered load."""
    from matplotlib import pyplot

    runs = results.goodput
    cases = goodput.cases(runs)
    figure, grid = pyplot.subplots(-(-len(cases) // 3), 3, figsize=(12, len(cases)), squeeze=False)
    peers = [name for name in goodput.policies(runs) if goals.is_peer(name)]
    for axes, case in zip(grid.flat, cases, strict=False):
        best = goodput.best_fixed(runs, case)
        for name in [OURS, *([best] if best else []), *peers]:
            points = goodput.by_load(runs, case, name)
            label = name.replace(FIXED, "best fixed: ")
            width = 2 if name == OURS else 1
            axes.plot(list(points), list(points.values()), marker="o", label=label, linewidth=width)
        axes.set_title(", ".join(case), fontsize=8)
        axes.legend(fontsize=5)
    figure.supxlabel("offered load, of what full batches could answer")
    figure.supylabel("answers per second within the limit")
    figure.savefig(file, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
