"""What is learned of a batch's cost: figures within a few per cent of the model they came from."""

import random

import pytest

from headrace.server.latency_model import MAX_CLASSES, LatencyModel, LatencyModels


def learned(base_s: float, per_row_s: float, sizes: list[int], noise: float = 0.0) -> LatencyModel:
    draw = random.Random(1)
    latency = LatencyModel()
    for _ in range(60):
        for rows in sizes:
            latency.observe(rows, (base_s + per_row_s * rows) * (1 + noise * draw.random()))
    return latency


@pytest.mark.parametrize(
    ("base_s", "per_row_s"), [(0.01, 0.0001), (0.005, 0.0005), (0.0, 0.002)], ids=str
)
def test_a_line_is_found_and_carries_beyond_what_was_seen(base_s: float, per_row_s: float) -> None:
    latency = learned(base_s, per_row_s, [1, 2, 5, 12, 30], noise=0.02)
    for rows in (1, 5, 20, 64):
        assert latency.predict(rows) == pytest.approx(base_s + per_row_s * rows, rel=0.06)
        assert latency.upper(rows) > latency.predict(rows)


def test_an_outlier_moves_it_little_and_a_lasting_change_moves_it() -> None:
    latency = learned(0.01, 0.001, [1, 4, 16])
    latency.observe(4, 5.0)
    assert latency.predict(4) == pytest.approx(0.014, rel=0.1)
    for _ in range(60):
        latency.observe(4, 0.05)
    assert latency.predict(4) == pytest.approx(0.05, rel=0.1)


def test_how_many_rows_fit_a_time() -> None:
    latency = learned(0.01, 0.001, [1, 2, 4, 8, 16, 32])
    assert latency.rows_within(0.0301, 64) in (18, 19, 20)
    assert latency.rows_within(0.5, 64) == 64
    assert latency.rows_within(0.005, 64) == 0


@pytest.mark.parametrize(
    ("base_s", "per_row_s", "useful"),
    [
        pytest.param(0.0, 0.005, 1, id="rows are all that costs: one at a time"),
        pytest.param(0.05, 0.00001, 128, id="the call is all that costs: as many as may"),
        pytest.param(0.001, 0.001, 32, id="between: what brings 95 % of the best"),
    ],
)
def test_the_useful_size(base_s: float, per_row_s: float, useful: int) -> None:
    assert learned(base_s, per_row_s, [1, 2, 4, 8, 16, 32]).useful_rows(128) == useful


def test_nothing_seen_is_no_reason_to_hold_back() -> None:
    assert (LatencyModel().predict(8), LatencyModel().useful_rows(32)) == (0.0, 32)


def test_classes_of_shapes_are_bounded() -> None:
    models = LatencyModels()
    for number in range(3 * MAX_CLASSES):
        models.of(number).observe(1, 0.1)
    assert len(models.items()) == MAX_CLASSES


def test_it_can_be_read() -> None:
    told = learned(0.01, 0.001, [1, 2]).to_json()
    assert [size["rows"] for size in told["sizes"]] == [1.0, 2.0]
    assert told["base_ms"] == pytest.approx(10, abs=0.5)
