"""Wakes whoever watches readiness: a model came, went or failed, or the server began to drain."""

import asyncio


class Changes:
    """`next()` before you look, then wait on it: no change in between is missed."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    def next(self) -> asyncio.Event:
        """Set at the first `notify` after this call."""
        if self._event is None:
            self._event = asyncio.Event()
        return self._event

    def notify(self) -> None:
        """Something about readiness may have changed. Called on the event loop."""
        if self._event is not None:
            self._event.set()
            self._event = None
