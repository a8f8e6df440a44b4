"""The arithmetic of the benchmark: percentiles, spreads, arrivals, bytes, shapes."""

import json
import statistics
from itertools import pairwise

import numpy as np
import pytest

from loadtests import batching, figures, goodput, report, shapes, wires
from loadtests.arrivals import BURST_CV, Arrivals, times_s
from loadtests.figures import Figures, Spread
from loadtests.goodput import Run
from loadtests.recording import Results
from loadtests.wires import Wire


@pytest.mark.parametrize(
    ("latencies_ms", "percent", "expected_ms"),
    [
        pytest.param([5.0], 50, 5.0, id="one value is every percentile"),
        pytest.param(range(1, 101), 50, 50.0, id="the middle of a hundred"),
        pytest.param(range(1, 101), 99, 99.0, id="the last but one of a hundred"),
        pytest.param([1.0] * 999 + [500.0], 99.9, 1.0, id="one in a thousand is beyond p99.9"),
        pytest.param([0.0001], 50, 0.001, id="below a microsecond counts as one"),
    ],
)
def test_percentiles(latencies_ms: list[float], percent: float, expected_ms: float) -> None:
    made = figures.histogram(each / 1e3 for each in latencies_ms)
    assert made.percentile_ms(percent) == pytest.approx(expected_ms, rel=0.011)


def test_a_histogram_counts_what_came_within_a_limit() -> None:
    made = figures.histogram([0.001] * 3 + [0.1] * 2)
    assert [made.within(limit_s) for limit_s in (0.0005, 0.01, 1.0)] == [0, 3, 5]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        pytest.param([20, 30], [10, 10], Spread(2.5, 2, 3), id="round against round"),
        pytest.param([20, 30, 40], [10], Spread(2, 2, 2), id="only rounds that both made"),
    ],
)
def test_ratios(ours: list[float], theirs: list[float], expected: Spread) -> None:
    assert figures.ratios(ours, theirs) == expected


def test_no_values_have_no_spread() -> None:
    with pytest.raises(ValueError) as raised:
        figures.spread([])
    assert str(raised.value) == "no values to summarise"


@pytest.mark.parametrize(
    ("process", "variation"),
    [
        pytest.param(Arrivals.CONSTANT, 0.0, id="constant: every gap the same"),
        pytest.param(Arrivals.POISSON, 1.0, id="poisson: the gaps vary as much as they last"),
        pytest.param(Arrivals.BURSTY, BURST_CV, id="bursty: four times as much"),
    ],
)
def test_arrivals(process: Arrivals, variation: float) -> None:
    times = times_s(process, rate_per_s=1000, seconds=200, seed=5)
    gaps = [b - a for a, b in pairwise(times)]
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(1e-3, rel=0.05)
    assert statistics.pstdev(gaps) / mean == pytest.approx(variation, rel=0.05, abs=1e-6)
    assert times == times_s(process, rate_per_s=1000, seconds=200, seed=5)


@pytest.mark.parametrize(
    ("shape", "users_by_share"),
    [
        pytest.param("step", {0.0: 10, 0.3: 20, 0.99: 50, 1.0: None}, id="step: five of a size"),
        pytest.param("spike", {0.0: 5, 0.5: 50, 0.7: 5, 1.0: None}, id="spike: in the middle"),
        pytest.param("soak", {0.0: 1, 0.05: 25, 0.5: 50, 1.0: None}, id="soak: up, and stays"),
    ],
)
def test_shapes(shape: str, users_by_share: dict[float, int | None]) -> None:
    found = {share: shapes.users(shape, share, peak=50) for share in users_by_share}
    assert found == users_by_share


def test_a_message_by_hand_is_what_protobuf_makes() -> None:
    from headrace.server.grpc.codec import ModelInferRequest

    x = wires.sample("image")
    found = ModelInferRequest.FromString(wires.encode(Wire.GRPC, "bench", x).body)
    (tensor,) = found.inputs
    assert (found.model_name, tensor.name, tensor.datatype) == ("bench", "x", "FP32")
    assert list(tensor.shape) == list(x.shape)
    assert list(found.raw_input_contents) == [x.tobytes()]


def test_a_json_body_holds_the_tensor_in_single_precision() -> None:
    x = wires.sample("image")
    (tensor,) = json.loads(wires.encode(Wire.V2, "bench", x).body)["inputs"]
    found = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    assert np.abs(found - x).max() < 1e-8


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        pytest.param([2.0, 4.0], True, id="the same numbers"),
        pytest.param([[2.0], [4.0]], True, id="nested otherwise"),
        pytest.param(np.array([2, 4], np.float32).tobytes(), True, id="as bytes"),
        pytest.param([2.0, 5.0], False, id="another number"),
        pytest.param([2.0], False, id="too few"),
        pytest.param(b"", False, id="no bytes"),
    ],
)
def test_answers_are_checked(answer: object, is_right: bool) -> None:
    assert wires.is_close(answer, np.array([2, 4], np.float32)) is is_right


def test_the_table_shows_medians_spread_ratio_and_what_a_peer_cannot_do() -> None:
    results = Results()
    for name, rates in (("headrace", [3000, 4000]), ("kserve", [1000, 1000])):
        for rate in rates:
            results.add("tiny", name, Figures(rate, {"p50": 1.5, "p99": 3.0, "p99.9": 4.0}))
    results.note("tiny", "bentoml", "does not speak gRPC")
    waits = "1.5 (1.5-1.5) | 3 (3-3) | 4 (4-4) | 0"
    assert report.table(results)[2:] == [
        f"| tiny | headrace | 3,500 (3,000-4,000) | {waits} |  |  |",
        f"| tiny | kserve | 1,000 (1,000-1,000) | {waits} | 3.5 x (3-4) |  |",
        "| tiny | bentoml | n/a: does not speak gRPC | | | | | | |",
    ]


CASE = ("5 + 1 rows ms", "poisson", "30 ms")


def goodput_runs(by_policy: dict[str, list[float]]) -> list[Run]:
    """Goodput by number of the round, the sweep first."""
    return [
        Run(*CASE[:2], load, policy, number, {CASE[2]: good / 2})
        for policy, found in by_policy.items()
        for number, good in enumerate(found)
        for load in (0.3, 0.9)
    ]


def test_goodput_is_held_against_the_best_fixed_policy_measured_again() -> None:
    runs = goodput_runs(
        {
            "fixed 8 rows, 0 ms": [200, 190, 210],
            "fixed 32 rows, 0 ms": [199, 210, 230],  # second in the sweep, first in the end
            "fixed 32 rows, 10 ms": [500],  # not measured again
        }
    ) + [run for run in goodput_runs({"headrace": [0, 220, 220], "kserve": [0, 44]}) if run.number]
    assert goodput.swept_best(runs, CASE) == "fixed 32 rows, 10 ms"
    assert goodput.best_fixed(runs, CASE) == "fixed 32 rows, 0 ms"
    assert goodput.ratio(runs, CASE, "kserve") == Spread(5, 5, 5)
    (row,) = report.goodput_table(Results(goodput=runs))[5:]
    assert row == (
        "| 5 + 1 rows ms | poisson | 30 ms | 220 | 220, 1 x (fixed 32 rows, 0 ms) | 44, 5 x |"
    )


def test_a_round_that_lacks_a_load_has_no_goodput() -> None:
    whole = goodput_runs({"headrace": [0, 100, 120, 400], "fixed 8 rows, 0 ms": [0, 100, 60, 100]})
    failed = [("headrace", 1), ("fixed 8 rows, 0 ms", 2)]
    runs = [run for run in whole if run.load == 0.3 or (run.policy, run.number) not in failed]
    assert goodput.measured(runs, CASE, "headrace") == [120, 400]
    assert goodput.measured(runs, CASE, "fixed 8 rows, 0 ms") == [100, 100]
    assert goodput.ratio(runs, CASE, "fixed 8 rows, 0 ms") == Spread(4, 4, 4)  # of the third


def test_the_sweep_sends_its_winners_on() -> None:
    runs = goodput_runs({"fixed 8 rows, 0 ms": [200], "fixed 32 rows, 0 ms": [300]})
    assert batching.finalists(runs, CASE[0]) == ["fixed 32 rows, 0 ms"]
    assert batching.finalists(runs, "another cost") == []
