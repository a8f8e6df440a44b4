"""What was said of batching, by flags, a config.pbtxt or a model-settings.json, as a `BatchPolicy`.

A flag is for every model; what a model's own file says wins. Names and meanings are Triton's and
MLServer's (data-plane contract §9.2, §9.4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.server.batching import ONE_BY_ONE, BatchPolicy, QueuePolicy

DEFAULT_ROWS = 128  # at most, where nobody said; the latency model stays below where it can


@dataclass(frozen=True, slots=True)
class BatchWishes:
    """rows None: not said; 0 or 1: no batching. delay_s, target_s 0: none."""

    rows: int | None = None
    delay_s: float = 0.0
    target_s: float = 0.0


def policy(wishes: BatchWishes, config: Mapping[str, Any], may_batch: bool) -> BatchPolicy:
    """The policy of one model. config: Triton's ModelConfig as JSON keys, empty for none.

    may_batch: its trial went well; it counts where nobody gave a size.
    """
    target_s = wishes.target_s or None
    if config:
        rows = int(config.get("max_batch_size", 0))
        if rows <= 1:
            rows = 1
        return _triton(rows, config.get("dynamic_batching", {}), wishes)
    if wishes.rows is not None:
        rows = max(1, wishes.rows)
        return BatchPolicy(rows, max_delay_s=wishes.delay_s, target_latency_s=target_s)
    if not may_batch:
        return BatchPolicy(target_latency_s=target_s) if target_s else ONE_BY_ONE
    return BatchPolicy(
        DEFAULT_ROWS, is_learned=True, max_delay_s=wishes.delay_s, target_latency_s=target_s
    )


def _triton(rows: int, batching: Mapping[str, Any], wishes: BatchWishes) -> BatchPolicy:
    delay_us = int(batching.get("max_queue_delay_microseconds", 0))
    return BatchPolicy(
        rows,
        preferred=tuple(sorted(int(size) for size in batching.get("preferred_batch_size", ()))),
        max_delay_s=delay_us / 1e6 if delay_us else wishes.delay_s,
        target_latency_s=wishes.target_s or None,
        preserve_ordering=bool(batching.get("preserve_ordering", False)),
        levels=int(batching.get("priority_levels", 0)),
        default_level=int(batching.get("default_priority_level", 0)),
        queue=_queue(batching.get("default_queue_policy", {})),
        queues={
            int(level): _queue(given)
            for level, given in batching.get("priority_queue_policy", {}).items()
        },
    )


def _queue(given: Mapping[str, Any]) -> QueuePolicy:
    return QueuePolicy(
        int(given.get("default_timeout_microseconds", 0)) / 1e6,
        given.get("timeout_action", "REJECT") == "DELAY",
        int(given.get("max_queue_size", 0)),
    )
