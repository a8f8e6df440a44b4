"""What was said of batching, by flags, a config.pbtxt or a model-settings.json, as a `BatchPolicy`.

A flag is for every model; what a model's own file says wins. Names and meanings are Triton's and
MLServer's (data-plane contract §9.2, §9.4). A user's `Model` may say it in its class: `Batching`.
"""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.server.batching import ONE_BY_ONE, BatchPolicy, QueuePolicy
from headrace.server.latency_model import GAIN_BEHIND, LatencyModels
from headrace.server.model import Model
from headrace.server.model_batching import Batching

log = logging.getLogger(__name__)

LARGEST_S = 0.5  # of a load's time for the largest batch of a learned size
DEFAULT_ROWS = 128  # at most, where nobody said; the latency model stays below where it can


@dataclass(frozen=True, slots=True)
class BatchWishes:
    """rows None: not said; 0 or 1: no batching. delay_s, target_s 0: none."""

    rows: int | None = None
    delay_s: float = 0.0
    target_s: float = 0.0


NOTHING_SAID = BatchWishes()


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


def largest_rows(given: BatchPolicy, latency: LatencyModels) -> int:
    """Rows of the largest batch that given will make; of a learned size, as latency sees it now,
    and no more than run in LARGEST_S."""
    if not given.is_learned:
        return given.max_batch_size
    found = [
        min(
            model.useful_rows(given.max_batch_size, GAIN_BEHIND),
            model.rows_within(LARGEST_S, given.max_batch_size),
        )
        for _, model in latency.items()
    ]
    return max(found, default=1)


def of_model(model: Model, wishes: BatchWishes, config: Mapping[str, Any]) -> BatchPolicy:
    """The policy of a user's model: as its config, its class or the flags say, else one by one.

    What cannot be batched though it is asked for is a warning: predict streams, or forwards.
    """
    own: Any = model.batching
    if own is not None and not isinstance(own, Batching):
        log.warning(
            "batching ignored",
            extra={"model": model.name, "why": f"batching is a {type(own).__name__}, no Batching"},
        )
        own = None
    if own is not None:
        wishes = BatchWishes(
            own.max_batch_size,
            own.max_batch_delay_ms / 1e3 or wishes.delay_s,
            own.target_latency_ms / 1e3 or wishes.target_s,
        )
    if wishes.rows is None and "max_batch_size" not in config:
        return ONE_BY_ONE
    found = policy(wishes, config if "max_batch_size" in config else {}, may_batch=False)
    if found.max_batch_size <= 1:
        return ONE_BY_ONE
    why = ""
    if inspect.isgeneratorfunction(model.predict) or inspect.isasyncgenfunction(model.predict):
        why = "its predict streams"
    elif type(model).predict is Model.predict:
        why = "it forwards each request to its predictor, with that request's headers"
    if not why:
        return found
    log.warning("model not batched", extra={"model": model.name, "why": why})
    return ONE_BY_ONE


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
    if not given:
        return QueuePolicy()
    return QueuePolicy(
        int(given.get("default_timeout_microseconds", 0)) / 1e6,
        given.get("timeout_action", "REJECT") == "DELAY",
        int(given.get("max_queue_size", 0)),
        bool(given.get("allow_timeout_override", False)),
    )
