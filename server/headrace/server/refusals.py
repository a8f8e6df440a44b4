"""A request that a `Batcher` does not run: until when it may wait, and what it is told then.

Pure: backlog.py says when its caller may come back, batcher.py acts.
"""

from math import inf

from headrace.server.batch_queue import Entry
from headrace.server.batching import BatchPolicy, QueuePolicy, Refusal
from headrace.server.errors import ModelNotReady, QueueFull, QueueTimeout, ServingError
from headrace.server.execution import UNLOADING, QueueLimits
from headrace.server.request import Context


def limits(context: Context, queue: QueuePolicy) -> tuple[float, float]:
    """When context's request expires, and by when it asks to be started; inf: never."""
    if context.start_by_s is None:
        return inf if context.deadline_s is None else context.deadline_s, inf
    deadline_s = context.call_deadline_s
    if queue.allows_timeout and not queue.may_run_late:
        deadline_s = context.deadline_s
    return inf if deadline_s is None else deadline_s, context.start_by_s


def overfull(
    entry: Entry,
    policy: BatchPolicy,
    bounds: QueueLimits,
    waiting: int,
    waiting_bytes: int,
    of_its_level: int,
) -> str:
    """Which bound entry would break by waiting behind what already does; "" if none."""
    most = policy.queue_of(entry.level).max_requests
    broken = bounds.broken(waiting, waiting_bytes, entry.size_bytes)
    if broken:
        return broken
    if most and of_its_level >= most:
        return f"{most} requests waiting (max_queue_size {most})"
    return ""


def reason(entry: Entry, policy: BatchPolicy, now_s: float) -> Refusal:
    """entry was dropped: its own time is over, or the target's."""
    deadline_s, _ = limits(entry.item[1], policy.queue_of(entry.level))
    is_over = deadline_s <= now_s or entry.due_s == inf
    return Refusal.EXPIRED if is_over else Refusal.UNREACHABLE


def error(
    refusal: Refusal, model_name: str, policy: BatchPolicy, waiting: int, again_s: float
) -> ServingError:
    """What its caller gets. again_s: when it may try again."""
    if refusal is Refusal.CLOSED:
        return ModelNotReady(model_name, UNLOADING)
    if refusal is Refusal.UNREACHABLE:
        target_ms = (policy.target_latency_s or 0.0) * 1e3
        return QueueFull(
            f"model {model_name} cannot answer within its target of {target_ms:g} ms: "
            f"{waiting} requests are waiting",
            again_s,
        )
    return QueueTimeout(retry_after_s=again_s)
