"""`Batching`: how a user's `Model` says that its requests share executions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

HOOKS = ("preprocess", "predict", "postprocess")


@dataclass(frozen=True, slots=True)
class Batching:
    """That requests of a `Model` share calls of its predict; a field `batching` of the class.

        class Iris(Model):
            batching = Batching(max_batch_size=32)

            def predict(self, payload, headers=None):  # the rows of up to 32 requests
                …                                      # one row of the answer for each, in order

    A V1 body, an InferRequest, an array, a list or a dict of arrays is joined by rows; what cannot
    be runs alone. headers are those that all requests of the batch share (`BatchHeaders`); what
    predict adds to the response's headers goes to each of them.

    max_batch_size: rows; 0 or 1: no batches, whatever flags say. max_batch_delay_ms: how long a
        request may wait for company though the model is free. target_latency_ms: answer within, or
        refuse. 0: what the flags say.
    hooks: those that see the batch; the others see their own request. predict is always there.
    protocol: "v2": batched hooks get an InferRequest from V1 callers too, "v1": a dict with
        `instances` from V2 callers too, so all meet in one batch; each gets its own protocol's
        answer. "": as it came, and V1 and V2 bodies do not mix. What get_input_types and
        get_output_types declare names the tensors of V1 rows.
    batch, unbatch: instead of joining by rows: of the list of payloads what the hooks get, and of
        their result and the rows of each request a list of results.
    """

    max_batch_size: int = 32
    max_batch_delay_ms: float = 0.0
    target_latency_ms: float = 0.0
    hooks: tuple[str, ...] = ("predict",)
    protocol: str = ""
    batch: Callable[[list[Any]], Any] | None = None
    unbatch: Callable[[Any, list[int]], Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if self.max_batch_size < 0 or self.max_batch_delay_ms < 0 or self.target_latency_ms < 0:
            raise ValueError(f"{self}: expected 0 or more for sizes and times")
        if "predict" not in self.hooks or set(self.hooks) - set(HOOKS):
            raise ValueError(f"Batching: hooks {self.hooks}: expected 'predict', and of {HOOKS}")
        if self.protocol not in ("", "v1", "v2"):
            raise ValueError(f"Batching: protocol {self.protocol!r}: expected '', 'v1' or 'v2'")
        if (self.batch is None) != (self.unbatch is None):
            raise ValueError("Batching: batch and unbatch belong together; give both or none")
