"""The simulator: figures that can be worked out by hand, and a measured run within its forecast."""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from headrace.server.batcher import Batcher
from headrace.server.batching import BatchPolicy
from headrace.server.execution import Executor
from headrace.server.request import Context
from headrace.server.simulator import Load, Outcome, best_fixed, linear, main, simulate
from headrace.server.tensor import Tensor, TensorSpec

COST = linear(0.010, 0.001)


def test_a_lone_request_takes_what_a_batch_of_one_costs() -> None:
    outcome = simulate(Load(rate=1.0, seconds=60.0), COST, BatchPolicy(8))
    assert outcome.quantile(0.5) == pytest.approx(0.011)
    assert set(outcome.batches) <= {1, 2}


def test_load_beyond_one_by_one_is_carried_by_batches() -> None:
    load = Load(rate=400.0, seconds=10.0)  # one by one: 91 per second
    alone, together = (simulate(load, COST, BatchPolicy(size)) for size in (1, 64))
    assert alone.quantile(0.5) > 1.0
    assert together.quantile(0.99) < 0.05


def test_gaps_have_the_mean_and_the_variation_asked_for() -> None:
    for cv in (1.0, 4.0):
        times = list(Load(rate=100.0, seconds=500.0, cv=cv).arrivals())
        gaps = np.diff(times)
        assert np.mean(gaps) == pytest.approx(0.01, rel=0.1)
        assert np.std(gaps) / np.mean(gaps) == pytest.approx(cv, rel=0.15)


def test_with_a_target_every_answer_that_leaves_is_in_time_however_high_the_load() -> None:
    load = Load(rate=2000.0, seconds=5.0)  # twice what any batch can carry
    policy = BatchPolicy(64, is_learned=True, target_latency_s=0.1)
    outcome = simulate(load, COST, policy)
    assert outcome.dropped > 1000
    assert outcome.goodput(0.1) > 700  # of 865 per second in full batches


@pytest.mark.parametrize("cv", [1.0, 4.0])
def test_with_its_limit_as_target_it_is_as_good_as_the_best_fixed_policy(cv: float) -> None:
    limit_s = 0.05
    load = Load(rate=500.0, seconds=4.0, cv=cv)
    best, _ = best_fixed(load, COST, limit_s)
    policy = BatchPolicy(128, is_learned=True, target_latency_s=limit_s)
    assert simulate(load, COST, policy).goodput(limit_s) >= 0.95 * best


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("base_ms", "per_row_ms", "rate", "cv", "limit_s"),
    [
        pytest.param(10, 0.5, 369.0, 4.0, 0.03, id="bursts, and a limit of two batches"),
        pytest.param(4, 1.0, 800.0, 1.0, 0.12, id="nearly all that full batches carry"),
    ],
)
def test_with_no_knobs_it_is_nearly_as_good_as_the_best_fixed_policy(
    base_ms: float, per_row_ms: float, rate: float, cv: float, limit_s: float, seed: int
) -> None:
    load, cost = Load(rate, 5.0, cv, seed=seed), linear(base_ms / 1e3, per_row_ms / 1e3)
    best, _ = best_fixed(load, cost, limit_s)
    assert simulate(load, cost, BatchPolicy(128, is_learned=True)).goodput(limit_s) >= 0.92 * best


def test_at_low_load_waiting_for_company_costs_next_to_nothing() -> None:
    load = Load(rate=5.0, seconds=120.0)
    learned, never = (
        simulate(load, COST, BatchPolicy(128, is_learned=is_learned)).latencies_s
        for is_learned in (True, False)
    )
    assert np.mean(learned) - np.mean(never) <= 0.0002
    assert np.median(learned) == pytest.approx(np.median(never))


def test_batches_of_two_instances_may_end_at_the_same_time() -> None:
    load = Load(rate=400.0, seconds=5.0, cv=8.0)  # bursts of requests at one time
    outcome = simulate(load, COST, BatchPolicy(2), instances=2)
    assert len(outcome.latencies_s) == len(list(load.arrivals()))


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "1", "--rate", "100"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["policy", "off", "no", "target", "batch"]


class Sleeping:
    """Takes COST."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        time.sleep(COST(inputs[0].array.shape[0]))
        return inputs


def measured(load: Load, policy: BatchPolicy) -> Outcome:
    async def run() -> Outcome:
        outcome = Outcome(load.seconds)
        executor: Executor[Any] = Executor("m", [Sleeping()])
        batcher = Batcher(executor, policy)
        loop = asyncio.get_running_loop()
        start_s = loop.time()

        async def ask(at_s: float) -> None:
            await asyncio.sleep(start_s + at_s - loop.time())
            arrived_s = loop.time()
            await batcher.run([Tensor("x", np.ones((1, 4), np.float32))], Context())
            outcome.latencies_s.append(loop.time() - arrived_s)

        await asyncio.gather(*(ask(at_s) for at_s in load.arrivals()))
        batcher.close()
        return outcome

    return asyncio.run(run())


@pytest.mark.soak
@pytest.mark.skipif("HEADRACE_SOAK" not in os.environ, reason="its figures need a quiet machine")
@pytest.mark.parametrize("rate", [50.0, 300.0])
def test_the_forecast_is_within_15_per_cent_of_a_measured_run(rate: float) -> None:
    load, policy = Load(rate=rate, seconds=20.0), BatchPolicy(64)
    real, forecast = measured(load, policy), simulate(load, COST, policy)
    for share in (0.5, 0.99):
        assert real.quantile(share) == pytest.approx(forecast.quantile(share), rel=0.15)
