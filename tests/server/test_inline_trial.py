"""Where a `Model`'s calls run, by what its first ones took."""

import asyncio
import threading
from typing import Any

import pytest

from headrace.server import Model
from headrace.server.execution import Mode
from headrace.server.inline_trial import ROUNDS, InlineTrial
from headrace.server.model_servable import ModelServable
from headrace.server.request import Context
from headrace.server.settings import Isolation
from headrace.server.warm_up import CALLS

HOP_NS = 100_000
FAST, SLOW = [HOP_NS // 2] * CALLS, [HOP_NS * 2] * CALLS
NOISY = [HOP_NS * 20] * 2 + FAST[2:]  # two of forty do not move a p95


@pytest.mark.parametrize(
    ("rounds", "decided"),
    [
        pytest.param([FAST[1:]], [None], id="not enough calls"),
        pytest.param([FAST], [Mode.INLINE], id="short calls"),
        pytest.param([NOISY], [Mode.INLINE], id="short calls, two of them disturbed"),
        pytest.param([SLOW, FAST], [None, Mode.INLINE], id="a disturbed round, then a short one"),
        pytest.param([SLOW] * ROUNDS, [None] * (ROUNDS - 1) + [Mode.THREAD], id="long calls"),
    ],
)
def test_rounds_decide(rounds: list[list[int]], decided: list[Mode | None]) -> None:
    trial = InlineTrial()
    trial._hop_ns = HOP_NS
    found = []
    for taken_ns in rounds:
        trial._taken_ns.extend(taken_ns)
        found.append(trial.mode())
    assert found == decided


def test_without_a_measured_hop_nothing_is_decided() -> None:
    trial = InlineTrial()
    trial._taken_ns.extend(FAST)
    assert trial.mode() is None


class Where(Model):
    """Answers with the thread it runs in."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(
    ("isolation", "hop_ns", "body_bytes", "on_loop"),
    [
        pytest.param(Isolation.INLINE, None, 0, [True] * 50, id="inline: from the first call"),
        pytest.param(Isolation.THREAD, None, 0, [False] * 50, id="thread: never"),
        pytest.param(
            Isolation.AUTO, 1 << 60, 0, [False] * CALLS + [True] * 10, id="auto: once it is short"
        ),
        pytest.param(Isolation.AUTO, 0, 0, [False] * 50, id="auto: not while it is long"),
        pytest.param(Isolation.AUTO, 1 << 60, 1 << 20, [False] * 50, id="auto: no large bodies"),
    ],
)
def test_where_calls_run(
    isolation: Isolation, hop_ns: int | None, body_bytes: int, on_loop: list[bool]
) -> None:
    async def main() -> None:
        servable = ModelServable(Where(), isolation=isolation)
        if servable._trial is not None:
            servable._trial._hop_ns = hop_ns
        asked = [Context(body_bytes=body_bytes) for _ in range(50)]
        assert [await servable.predict(1, each) for each in asked] == on_loop
        await servable.stop()

    asyncio.run(main())


def test_what_waits_as_the_calls_move_is_answered() -> None:
    async def main() -> None:
        servable = ModelServable(Where())
        await servable.start()
        assert servable._trial is not None
        servable._trial._hop_ns = 1 << 60
        found = await asyncio.gather(*(servable.predict(1, Context()) for _ in range(200)))
        assert (found[0], found[-1]) == (False, True)
        assert servable.pending_requests == 0
        await servable.stop()

    asyncio.run(main())
