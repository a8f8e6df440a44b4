"""When a batch is sent, as a table: the decision alone, with no queue running and no clock."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest

from headrace.server.batch_queue import BatchQueue, Entry
from headrace.server.batching import (
    BatchPolicy,
    Company,
    Drop,
    QueuePolicy,
    Reason,
    Refusal,
    Send,
    Sleep,
    decide,
    dropped,
    sent,
    set_limits,
)
from headrace.server.latency_model import LatencyModels

NOW_S = 100.0


@dataclass
class Waiting:
    """A queue at NOW_S, of a model whose batches take 10 ms + 1 ms per row."""

    policy: BatchPolicy
    free: int = 1
    company: Company = field(default_factory=Company)

    def __post_init__(self) -> None:
        self.queue = BatchQueue(self.policy.ageing_s)
        self.models = LatencyModels()

    def add(self, name: str, age_s: float = 0.0, key: Any = "k", **given: Any) -> Entry:
        latency = self.models.of(key)
        for rows in () if latency.count else (1, 2, 4, 8, 16, 32) * 4:
            latency.observe(rows, 0.010 + 0.001 * rows)
        fields = {"rows": 1, "size_bytes": 0, **given}
        entry = Entry(name, arrived_s=NOW_S - age_s, key=key, **fields)
        set_limits(entry, self.policy, latency)
        self.queue.add(entry)
        return entry

    def decide(self, now_s: float = NOW_S) -> Send | Sleep | Drop:
        return decide(self.queue, self.policy, self.models, self.company, self.free, now_s)

    def sent(self, now_s: float = NOW_S) -> tuple[str, list[str]]:
        """Why the next batch is sent, and what is in it."""
        step = self.decide(now_s)
        assert isinstance(step, Send), step
        return step.reason, [e.item for e in sent(self.queue, step, self.policy, self.company)]


def test_without_a_target_an_idle_instance_never_waits_and_takes_all_that_fit() -> None:
    waiting = Waiting(BatchPolicy(4))
    for name in "abcdef":
        waiting.add(name)
    assert waiting.sent() == (Reason.FULL, ["a", "b", "c", "d"])
    assert waiting.sent() == (Reason.IDLE, ["e", "f"])
    assert waiting.decide() == Sleep(inf)


def test_while_all_are_busy_requests_gather() -> None:
    waiting = Waiting(BatchPolicy(4), free=0)
    waiting.add("a")
    assert waiting.decide() == Sleep(inf)


def test_a_fixed_delay_is_waited_until_it_is_over_or_the_batch_is_full() -> None:
    waiting = Waiting(BatchPolicy(3, max_delay_s=0.005))
    waiting.add("a", age_s=0.002)
    assert waiting.decide() == Sleep(NOW_S + 0.003)
    assert waiting.sent(NOW_S + 0.003) == (Reason.DELAY, ["a"])
    for name in "bcd":
        waiting.add(name)
    assert waiting.sent() == (Reason.FULL, ["b", "c", "d"])


def test_a_deadline_of_its_own_shortens_the_wait() -> None:
    waiting = Waiting(BatchPolicy(8, max_delay_s=1.0))
    waiting.add("a", expires_s=NOW_S + 0.1)
    step = waiting.decide()
    assert isinstance(step, Sleep)
    assert NOW_S + 0.07 < step.until_s < NOW_S + 0.09  # 11 ms of work and a margin before it
    assert waiting.sent(step.until_s) == (Reason.DEADLINE, ["a"])


def test_waiting_that_never_brings_company_is_given_up_and_tried_again_now_and_then() -> None:
    waiting = Waiting(BatchPolicy(8, max_delay_s=0.01))
    sleeps = []
    for number in range(40):
        waiting.add(str(number), age_s=0)
        step = waiting.decide()
        sleeps.append(isinstance(step, Sleep))
        if isinstance(step, Sleep):
            assert waiting.sent(step.until_s)[0] == Reason.DELAY
        else:
            assert isinstance(step, Send)
            sent(waiting.queue, step, waiting.policy, waiting.company)
    assert all(sleeps[:5])
    assert 1 <= sum(sleeps[10:]) <= 3


def test_with_a_target_a_batch_leaves_as_late_as_is_safe() -> None:
    waiting = Waiting(BatchPolicy(32, target_latency_s=0.1))
    waiting.add("a")
    waiting.add("b")
    step = waiting.decide()
    assert isinstance(step, Sleep)
    assert NOW_S + 0.07 < step.until_s < NOW_S + 0.088  # 12 ms of work before 100 ms are over
    assert waiting.sent(step.until_s) == (Reason.DEADLINE, ["a", "b"])


def test_with_a_target_what_cannot_make_it_is_refused_and_the_rest_is_sent() -> None:
    waiting = Waiting(BatchPolicy(32, target_latency_s=0.05), free=0)
    waiting.add("late", age_s=0.045)
    waiting.add("in time", age_s=0.03)
    step = waiting.decide()
    assert step == Drop(Refusal.EXPIRED)  # busy or not: nobody waits for a refusal
    assert [entry.item for entry in dropped(waiting.queue, step, NOW_S)] == ["late"]
    waiting.free = 1
    step = waiting.decide()
    assert isinstance(step, Sleep)
    assert waiting.sent(step.until_s)[1] == ["in time"]


def test_overloaded_it_drops_the_oldest_rather_than_send_small_batches() -> None:
    waiting = Waiting(BatchPolicy(32, target_latency_s=0.05))
    waiting.add("old", age_s=0.037)  # 13 ms left: a batch of 3
    for number in range(32):
        waiting.add(str(number))
    step = waiting.decide()
    assert isinstance(step, Drop)
    assert [entry.item for entry in dropped(waiting.queue, step, NOW_S)] == ["old"]
    assert len(waiting.sent()[1]) == 32


def test_preferred_sizes_are_sent_at_once_as_the_largest_prefix() -> None:
    waiting = Waiting(BatchPolicy(8, preferred=(2, 4), max_delay_s=1.0))
    waiting.add("a")
    assert isinstance(waiting.decide(), Sleep)
    for name in "bcde":
        waiting.add(name)
    assert waiting.sent() == (Reason.PREFERRED, ["a", "b", "c", "d"])


def test_a_misfit_neither_joins_nor_blocks_the_others_and_the_oldest_group_goes_first() -> None:
    waiting = Waiting(BatchPolicy(8))
    waiting.add("a", age_s=0.3, key="k")
    waiting.add("odd", age_s=0.2, key="other")
    waiting.add("b", age_s=0.1, key="k")
    waiting.add("alone", age_s=0.05, key=None)
    assert waiting.sent() == (Reason.IDLE, ["a", "b"])
    assert waiting.sent() == (Reason.IDLE, ["odd"])
    assert waiting.sent() == (Reason.ALONE, ["alone"])


def test_rows_are_counted_not_requests_and_bytes_too() -> None:
    waiting = Waiting(BatchPolicy(8, max_batch_bytes=100))
    waiting.add("a", rows=5, size_bytes=10)
    waiting.add("b", rows=4, size_bytes=10)
    waiting.add("c", rows=1, size_bytes=95)
    assert waiting.sent()[1] == ["a"]
    assert waiting.sent()[1] == ["b"]
    assert waiting.sent()[1] == ["c"]


def test_a_higher_priority_goes_first_until_the_lower_has_aged() -> None:
    policy = BatchPolicy(1, levels=3, ageing_s=1.0)
    waiting = Waiting(policy)
    waiting.add("aged", age_s=2.5, level=3)
    waiting.add("low", age_s=0.5, level=3)
    waiting.add("high", age_s=0.0, level=1)
    assert [waiting.sent()[1] for _ in range(3)] == [["aged"], ["high"], ["low"]]


@pytest.mark.parametrize(
    ("priority", "level"), [(0, 2), (1, 1), (3, 3), (9, 3)], ids=["default", "1", "3", "beyond"]
)
def test_a_priority_is_a_level(priority: int, level: int) -> None:
    assert BatchPolicy(levels=3, default_level=2).level(priority) == level
    assert BatchPolicy().level(priority) == 0


def test_the_queues_own_limit_refuses_or_lets_run_late() -> None:
    for may_run_late in (False, True):
        policy = BatchPolicy(1, queue=QueuePolicy(timeout_s=0.01, may_run_late=may_run_late))
        waiting = Waiting(policy, free=0)
        waiting.add("over", age_s=0.02)
        waiting.add("young")
        step = waiting.decide()
        assert step == Drop(Refusal.EXPIRED)
        over = [entry.item for entry in dropped(waiting.queue, step, NOW_S)]
        waiting.free = 1
        ran = [waiting.sent()[1] for _ in range(waiting.queue.count)]
        assert (over, ran) == (
            ([], [["young"], ["over"]]) if may_run_late else (["over"], [["young"]])
        )


def test_a_learned_size_stops_where_more_rows_gain_nothing() -> None:
    waiting = Waiting(BatchPolicy(128, is_learned=True))
    latency = waiting.models.of("k")
    for rows in (1, 2, 4, 8, 16, 32) * 4:
        latency.observe(rows, 0.0001 + 0.005 * rows)  # the rows are all that costs
    for number in range(10):
        waiting.add(str(number))
    assert len(waiting.sent()[1]) == 1


def test_where_requests_pile_up_a_learned_size_goes_further() -> None:
    waiting = Waiting(BatchPolicy(128, is_learned=True))
    latency = waiting.models.of("k")
    for rows in (1, 2, 4, 8, 16, 32, 64) * 4:
        latency.observe(rows, 0.004 + 0.001 * rows)
    for number in range(200):
        waiting.add(str(number), age_s=0.1)
    assert len(waiting.sent()[1]) == 128  # of 64 rows that would nearly do
    assert len(waiting.sent()[1]) == 64


@pytest.mark.parametrize(
    ("policy", "keys", "gain", "until_s"),
    [
        pytest.param(
            BatchPolicy(128, is_learned=True), "k", 1.0, NOW_S + 0.0015, id="the rest of a burst"
        ),
        pytest.param(BatchPolicy(128, is_learned=True), "k", 0.1, None, id="nobody came of late"),
        pytest.param(BatchPolicy(128), "k", 1.0, None, id="a size that somebody gave"),
        pytest.param(BatchPolicy(128, is_learned=True), "kj", 1.0, None, id="others wait too"),
        pytest.param(BatchPolicy(128, is_learned=True), [None], 1.0, None, id="it runs alone"),
    ],
)
def test_an_idle_instance_waits_for_the_rest_of_a_burst_where_it_pays(
    policy: BatchPolicy, keys: Any, gain: float, until_s: float | None
) -> None:
    waiting = Waiting(policy, company=Company(gain))
    for key in keys:
        waiting.add("a", key=key)
    if until_s is None:
        assert isinstance(waiting.decide(), Send)
        return
    assert waiting.decide() == Sleep(until_s)
    waiting.add("b")
    assert waiting.decide(NOW_S + 0.001) == Sleep(until_s)
    assert waiting.sent(until_s) == (Reason.IDLE, ["a", "b"])
    assert waiting.company.gain == gain  # one came: waiting goes on paying
    waiting.add("c", age_s=0.002)  # it has waited as long while all were busy
    assert waiting.sent() == (Reason.IDLE, ["c"])


def test_a_cheap_model_waits_for_no_burst() -> None:
    waiting = Waiting(BatchPolicy(128, is_learned=True))
    latency = waiting.models.of("k")
    for rows in (1, 2, 4, 8) * 4:
        latency.observe(rows, 0.0005 + 0.0001 * rows)
    waiting.add("a")
    assert waiting.sent() == (Reason.IDLE, ["a"])


def test_a_thousand_that_come_and_go_leave_nothing_behind() -> None:
    waiting = Waiting(BatchPolicy(8, target_latency_s=1.0), free=0)
    for number in range(1000):
        waiting.queue.remove(waiting.add(str(number), key=number % 7))
    assert (waiting.queue.count, waiting.queue.groups) == (0, {})
    assert len(waiting.queue._limits) <= 65
