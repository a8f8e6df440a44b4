"""How long what waits for a model will take: when a refused caller may come back.

`Retry-After` and gRPC's pushback are this, not a constant: a queue of milliseconds is worth asking
again at once, one of a minute is not.
"""

from itertools import islice
from math import ceil

from headrace.server.batch_queue import BatchQueue
from headrace.server.batching import BatchPolicy, rows_limit
from headrace.server.latency_model import LatencyModels

LEAST_S = 0.05  # callers that come back at once would only be refused again
MOST_S = 60.0  # nobody knows what will be then
UNKNOWN_S = 1.0  # before anything has run
LOOKED_AT = 32  # groups; the others are taken to be like them


def retry_after_s(backlog_s: float) -> float:
    """When to come back to a queue that takes backlog_s; 0 stands for not known."""
    return min(MOST_S, max(LEAST_S, backlog_s)) if backlog_s > 0 else UNKNOWN_S


def backlog_s(
    queue: BatchQueue, policy: BatchPolicy, models: LatencyModels, instances: int, running_s: float
) -> float:
    """Seconds until all of queue has run. running_s: what is left of what runs, summed."""
    waiting_s, seen = 0.0, 0
    for group in islice(queue.groups.values(), LOOKED_AT):
        latency = models.known(group.key)
        if latency is None or not latency.count:
            continue
        seen += group.count
        if group.key is None:
            waiting_s += group.count * latency.predict(max(1, group.rows // group.count))
        else:
            most = max(1, min(group.rows, rows_limit(policy, latency)))
            waiting_s += ceil(group.rows / most) * latency.predict(most)
    if seen:
        waiting_s *= queue.count / seen
    return (running_s + waiting_s) / max(1, instances)
