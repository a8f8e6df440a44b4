"""The pictures of a run: throughput against latency, and batching goodput against load."""

from pathlib import Path
from statistics import median

from loadtests import batching
from loadtests.batching import Study
from loadtests.report import OURS
from loadtests.rounds import Results


def draw(results: Results, study: Study | None, folder: Path) -> list[Path]:
    """Writes them into folder; [] without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    made = [throughput(results, folder / "throughput.png")] if results.runs else []
    return [*made, *([goodput(study, folder / "goodput.png")] if study and study.goodput else [])]


def throughput(results: Results, file: Path) -> Path:
    """One point per work and server: answers per second across, median latency up."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    peers = dict.fromkeys(peer for found in results.runs.values() for peer in found)
    for peer in peers:
        runs = [found[peer] for found in results.runs.values() if peer in found]
        points = [
            (median(r.rate_per_s for r in each), median(r.latency_ms["p50"] for r in each))
            for each in runs
            if all("p50" in run.latency_ms for run in each)
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), label=peer)
    axes.set(xscale="log", yscale="log", xlabel="answers per second", ylabel="p50 latency, ms")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return file


def goodput(study: Study, file: Path) -> Path:
    """One panel per case: goodput of headrace, the best fixed policy and the peers over load."""
    from matplotlib import pyplot

    columns = 3
    rows = -(-len(study.goodput) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(12, 3 * rows), squeeze=False)
    for axes, (case, by_policy) in zip(grid.flat, study.goodput.items(), strict=False):
        best = batching.best_fixed(by_policy, study.swept)
        for name, found in by_policy.items():
            if name in study.swept and name != best:
                continue
            label = f"best fixed: {name}" if name == best else name
            loads = study.loads[: len(found)]
            axes.plot(loads, found, marker="o", label=label, linewidth=2 if name == OURS else 1)
        axes.set_title(", ".join(case), fontsize=8)
        axes.legend(fontsize=6)
    figure.supxlabel("offered load, of what full batches could answer")
    figure.supylabel("answers per second within the limit")
    figure.savefig(file, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return file
