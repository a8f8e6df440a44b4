"""When to send which batch: a pure decision. batcher.py acts on it, simulator.py plays it.

    no target   while all instances are busy requests gather; an idle one does not wait, but for
                the rest of a burst where the size is learned (`_burst_end_s`)
    delay       a group waits for company until its oldest is max_delay_s old, or it is full
    target      a group leaves as late as is safe: at the earliest due time, less latency(rows)
                and a margin, or when it is full; what cannot make its due time is refused

Waiting is learned: where nobody came while a group waited, the next ones do not wait, and try it
again now and then. Without a size given, latency(rows) says which sizes pay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from headrace.server.batch_queue import BatchQueue, Entry, Group
from headrace.server.latency_model import GAIN_BEHIND, LatencyModel, LatencyModels

MARGIN_S = 1e-3  # an event loop's timers are no finer than that
MARGIN = 0.03  # … and of the target
LONELY = 0.25  # company per wait, below which waiting does not pay
TRY_AGAIN = 16  # batches sent without a wait, until one waits again
ENOUGH = 0.8  # of the best throughput is no overload yet
BURST = 0.2  # of what a batch costs however small: worth waiting for the rest of a burst
BURST_S = (0.2e-3, 1.5e-3)  # … where that is so much, and no longer; a timer is no finer
BEHIND = 1.5  # useful batches that wait say that batches of that size do not keep up


class Reason(StrEnum):
    """Why a batch was sent."""

    IDLE = "idle_instance"  # an instance is free and there is nothing to wait for
    FULL = "full"
    PREFERRED = "preferred"
    DELAY = "delay"  # the oldest has waited long enough
    DEADLINE = "deadline"  # later, it would not be answered in time
    ALONE = "alone"  # it cannot share a batch, or is as large as one


class Refusal(StrEnum):
    """Why a request was dropped unexecuted."""

    EXPIRED = "expired"  # its own deadline, or the queue's
    UNREACHABLE = "unreachable"  # the target cannot be met any more
    FULL = "queue_full"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Triton's ModelQueuePolicy; zeros: no limit. may_run_late: DELAY instead of REJECT.

    allows_timeout: a request's own `timeout` may shorten timeout_s (allow_timeout_override, which
    is false where a policy is given and does not say it).
    """

    timeout_s: float = 0.0
    may_run_late: bool = False
    max_requests: int = 0
    allows_timeout: bool = True


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How one model is batched. max_batch_size counts rows; 1: requests run one by one.

    is_learned: nobody gave the size, so the latency model may stay below it, and a larger request
    is not split. is_patient: wait the whole delay even where company never comes.
    levels: priorities 1 (highest) to levels; one level counts as ageing_s of waiting.
    """

    max_batch_size: int = 1
    is_learned: bool = False
    max_batch_bytes: int = 64 << 20
    preferred: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    target_latency_s: float | None = None
    is_patient: bool = False
    preserve_ordering: bool = False
    levels: int = 0
    default_level: int = 0
    ageing_s: float = 1.0
    queue: QueuePolicy = QueuePolicy()
    queues: Mapping[int, QueuePolicy] = field(default_factory=dict)
    isolates: bool = (
        True  # run a failed batch's requests one by one, so that only the culprit fails
    )

    @property
    def never_waits(self) -> bool:
        return self.target_latency_s is None and not self.max_delay_s

    def level(self, priority: int) -> int:
        """The level of a request's `priority`; 0 asks for the default."""
        if not self.levels:
            return 0
        return min(self.levels, max(1, priority or self.default_level or (self.levels + 1) // 2))

    def queue_of(self, level: int) -> QueuePolicy:
        return self.queues.get(level, self.queue) if self.queues else self.queue


ONE_BY_ONE = BatchPolicy()


@dataclass(slots=True)
class Company:
    """Whether waiting has paid: how many joined per wait, of late."""

    gain: float = 1.0
    skipped: int = 0

    def waited(self, joined: int) -> None:
        self.gain += 0.2 * (min(joined, 4) - self.gain)
        self.skipped = 0

    def pays(self) -> bool:
        return self.gain >= LONELY or self.skipped >= TRY_AGAIN


@dataclass(frozen=True, slots=True)
class Send:
    """rows: of the batch at most. predicted_s: what it should take."""

    group: Group
    rows: int
    reason: Reason
    predicted_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """until_s: when to decide again if nothing happens before; inf: then never."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """group None: all whose time is over. Else those of group that are due before due_s."""

    reason: Refusal
    group: Group | None = None
    due_s: float = -inf


Decision = Send | Sleep | Drop
NEVER = Sleep(inf)


def set_limits(
    entry: Entry, policy: BatchPolicy, latency: LatencyModel, start_by_s: float = inf
) -> None:
    """Until when entry, which arrives with its own deadline as expires_s, may wait.

    start_by_s: when its own `timeout` passes, if the policy of its queue heeds that.
    """
    if policy.target_latency_s is not None:
        entry.due_s = min(entry.expires_s, entry.arrived_s + policy.target_latency_s)
        entry.expires_s = min(entry.expires_s, entry.due_s - latency.predict(entry.rows))
    elif not policy.never_waits:
        entry.due_s = entry.expires_s
    queue = policy.queue_of(entry.level)
    over_s = entry.arrived_s + queue.timeout_s if queue.timeout_s else inf
    if queue.allows_timeout:
        over_s = min(over_s, start_by_s)
    if queue.may_run_late:
        entry.yields_s = over_s
    else:
        entry.expires_s = min(entry.expires_s, over_s)


def decide(
    queue: BatchQueue,
    policy: BatchPolicy,
    models: LatencyModels,
    company: Company,
    free_slots: int,
    now_s: float,
) -> Decision:
    """What to do next with queue; after a Send or a Drop has been done, decide again."""
    limit_s = queue.next_limit_s()
    if limit_s <= now_s:
        return Drop(Refusal.EXPIRED)
    if not queue.count:
        return NEVER
    if not free_slots:
        return Sleep(limit_s)
    for changed in list(queue.changed):
        _settle(queue, changed, policy, models, now_s)
    group = queue.first_ready()
    if group is None:
        raise AssertionError("every group has been settled")
    burst_end_s = _burst_end_s(queue, group, policy, models.of(group.key), company, now_s)
    if burst_end_s > now_s:
        return Sleep(min(burst_end_s, limit_s))
    if policy.never_waits or group.ready_s <= now_s:
        return _send(queue, group, policy, models.of(group.key), group.reason, now_s)
    if not policy.is_patient and group.waits_from < 0 and not company.pays():
        company.skipped += 1
        return _send(queue, group, policy, models.of(group.key), Reason.IDLE, now_s)
    if group.waits_from < 0:
        group.waits_from = group.count
    return Sleep(min(group.ready_s, limit_s))


def sent(queue: BatchQueue, step: Send, policy: BatchPolicy, company: Company) -> list[Entry]:
    """Those of the batch that step sends, taken out of queue; waiting has paid or not."""
    group = step.group
    if group.waits_from >= 0:
        company.waited(group.count - group.waits_from)
        group.waits_from = -1
    return queue.take(group, step.rows, policy.max_batch_bytes)


def dropped(queue: BatchQueue, step: Drop, now_s: float) -> list[Entry]:
    """Those that step refuses, taken out of queue."""
    if step.group is None:
        return queue.pop_limited(now_s)
    late = []
    while (first := step.group.earliest_due()) is not None and first.due_s < step.due_s:
        queue.remove(first)
        late.append(first)
    return late


def rows_limit(policy: BatchPolicy, latency: LatencyModel) -> int:
    """The most rows of a batch."""
    if not policy.is_learned:
        return policy.max_batch_size
    return latency.useful_rows(_most(policy, latency))


def _most(policy: BatchPolicy, latency: LatencyModel) -> int:
    """The most rows that may be tried: never more than twice what has been seen to work."""
    return min(policy.max_batch_size, 2 * latency.largest or 8)


def _burst_end_s(
    queue: BatchQueue,
    group: Group,
    policy: BatchPolicy,
    latency: LatencyModel,
    company: Company,
    now_s: float,
) -> float:
    """Until when the only group there is should wait for the rest of its burst; now_s: it should
    not.

    Requests come in bursts, and clients answered together ask again together: the first of them
    alone would make the others wait for a whole batch. A wait is short beside that, and given up
    where it brings no company. Only where nobody gave a size: who gives one gives the delay too.
    """
    if not policy.is_learned or not policy.never_waits:
        return now_s
    if group.key is None or len(queue.groups) > 1:
        return now_s
    least_s, most_s = BURST_S
    wait_s = min(most_s, BURST * latency.base_s)
    if wait_s < least_s or group.rows >= rows_limit(policy, latency):
        return now_s
    end_s = group.head(queue.ageing_s).arrived_s + wait_s
    if end_s <= now_s:
        return now_s
    if group.waits_from < 0:
        if not company.pays():
            company.skipped += 1
            return now_s
        group.waits_from = group.count
    return end_s


def _settle(
    queue: BatchQueue, group: Group, policy: BatchPolicy, models: LatencyModels, now_s: float
) -> None:
    """Say when group is to be sent."""
    head = group.head(queue.ageing_s)
    if policy.never_waits:  # no time but an order: the oldest goes first
        queue.set_ready(group, head.arrived_s + head.level * queue.ageing_s, Reason.IDLE)
        return
    if group.key is None:
        queue.set_ready(group, head.arrived_s, Reason.ALONE)
        return
    latency = models.of(group.key)
    most = rows_limit(policy, latency)
    if group.rows >= most or (0 < policy.max_batch_bytes <= group.size_bytes):
        queue.set_ready(group, min(group.ready_s, now_s), Reason.FULL)
        return
    if policy.preferred and _preferred(queue, group, policy):
        queue.set_ready(group, min(group.ready_s, now_s), Reason.PREFERRED)
        return
    ready_s, reason = inf, Reason.DELAY
    if policy.target_latency_s is None:
        ready_s = head.arrived_s + policy.max_delay_s
    first = group.earliest_due()
    if first is not None:
        margin_s = MARGIN_S + MARGIN * (policy.target_latency_s or 0.0)
        leave_s = first.due_s - latency.upper(min(most, group.rows)) - margin_s
        if leave_s < ready_s:
            ready_s, reason = leave_s, Reason.DEADLINE
    queue.set_ready(group, ready_s, reason)


def _preferred(queue: BatchQueue, group: Group, policy: BatchPolicy) -> int:
    """The largest preferred size that a prefix of group has exactly; 0: none."""
    if group.rows < min(policy.preferred):
        return 0
    total = found = 0
    for entry in group.in_order(queue.ageing_s):
        total += entry.rows
        if total > policy.max_batch_size:
            break
        if total in policy.preferred:
            found = total
    return found


def _send(
    queue: BatchQueue,
    group: Group,
    policy: BatchPolicy,
    latency: LatencyModel,
    reason: Reason,
    now_s: float,
) -> Send | Drop:
    if group.key is None:
        return Send(group, 1, Reason.ALONE)
    rows = min(group.rows, rows_limit(policy, latency))
    if policy.is_learned and policy.never_waits and group.rows >= BEHIND * rows:
        rows = min(group.rows, latency.useful_rows(_most(policy, latency), GAIN_BEHIND))
    if policy.preferred:
        rows = _preferred(queue, group, policy) or rows
    if policy.target_latency_s is not None:
        first = group.earliest_due()
        if first is not None and now_s + latency.predict(rows) > first.due_s:
            return _late(queue, group, first, latency, rows, now_s)
    if reason is Reason.IDLE and group.rows >= rows > 1 and group.rows > rows:
        reason = Reason.FULL
    return Send(group, rows, reason, latency.predict(rows))


def _late(
    queue: BatchQueue,
    group: Group,
    first: Entry,
    latency: LatencyModel,
    rows: int,
    now_s: float,
) -> Send | Drop:
    """rows are too many for the first due time: send fewer, unless that would make others late."""
    left_s = first.due_s - now_s
    if latency.predict(first.rows) > left_s:
        return Drop(Refusal.UNREACHABLE, group, first.due_s + 1e-9)
    fitting = max(first.rows, latency.rows_within(left_s, rows))
    smaller_s = latency.predict(fitting)
    if fitting / smaller_s >= ENOUGH * rows / latency.predict(rows) or _rest_makes_it(
        queue, group, latency, fitting, rows, now_s + smaller_s
    ):
        return Send(group, fitting, Reason.DEADLINE, smaller_s)
    return Drop(Refusal.UNREACHABLE, group, now_s + latency.predict(rows))


def _rest_makes_it(
    queue: BatchQueue, group: Group, latency: LatencyModel, sent: int, most: int, then_s: float
) -> bool:
    """Whether what follows the first sent rows is answered in time if it starts at then_s."""
    total = 0
    for entry in group.in_order(queue.ageing_s):
        total += entry.rows
        if total > sent:
            rest = min(most, group.rows - sent)
            return entry.due_s >= then_s + latency.predict(max(1, rest))
    return True
