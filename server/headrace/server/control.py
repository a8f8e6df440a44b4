"""What an operator asks of the whole server, whichever worker hears it.

One process answers for itself (`LocalControl`). Under `--workers N` the parent is the control
channel and reaches every worker before it answers (workers.py has the other implementation), so
rest/ and grpc/ never know how many processes there are.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry

from headrace.server.errors import InvalidInput, ModelNotFound
from headrace.server.metrics import exposition
from headrace.server.repository import IndexEntry, Repository, State
from headrace.server.settings import ReadyPolicy


class Control(Protocol):
    @property
    def is_draining(self) -> bool:
        """This process has begun to stop: answers close their connections."""
        ...

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None: ...

    async def unload(self, name: str) -> None: ...

    async def index(self, ready_only: bool) -> list[IndexEntry]: ...

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Triton's `model_stats` rows; "" means all. Raises ModelNotFound, ModelVersionNotFound."""
        ...

    async def is_ready(self) -> bool:
        """Listening, start-up models answer (by policy), not draining, in every worker."""
        ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Prometheus text of all workers and its content type. accept: the request's header."""
        ...

    async def log_settings(self, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Triton's log settings after changes; None changes nothing. Raises InvalidInput."""
        ...

    async def trace_settings(
        self, model: str | None, changes: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Triton's trace settings, of one model or of all. Raises InvalidInput, ModelNotFound."""
        ...


class LocalControl:
    """Control of a server that is one process."""

    def __init__(
        self,
        repository: Repository,
        policy: ReadyPolicy = ReadyPolicy.ALL,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.repository = repository
        self.registry = registry
        self.policy = policy
        self._is_started = False
        self._is_draining = False

    @property
    def is_started(self) -> bool:
        """Start-up models have been loaded, or have failed to."""
        return self._is_started

    @is_started.setter
    def is_started(self, value: bool) -> None:
        self._is_started = value
        self.repository.changes.notify()

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @is_draining.setter
    def is_draining(self, value: bool) -> None:
        self._is_draining = value
        self.repository.changes.notify()

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        for evicted in await self.repository.make_room(name, parameters):
            await self.repository.unload(evicted)
        await self.repository.load(name, parameters)

    async def unload(self, name: str) -> None:
        await self.repository.unload(name)

    async def index(self, ready_only: bool) -> list[IndexEntry]:
        """A user's `Model` may be loaded without being ready: that is told as it answers."""
        rows = [await self._as_ready(row) for row in self.repository.index(ready_only)]
        return [row for row in rows if row.state == State.READY] if ready_only else rows

    async def _as_ready(self, row: IndexEntry) -> IndexEntry:
        if row.state != State.READY:
            return row
        servable = self.repository.find(row.name, row.version).servable
        if await servable.is_ready():
            return row
        return replace(row, state=State.UNAVAILABLE, reason="its load left it not ready")

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        if not name:
            return [model.statistics.to_json() for model in self.repository.all()]
        if name not in self.repository.names():
            raise ModelNotFound(name)
        versions = [version] if version else self.repository.versions(name)
        return [self.repository.find(name, each).statistics.to_json() for each in versions]

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return exposition(self.registry, accept)

    async def log_settings(self, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Levels of the root logger under Triton's names; what cannot be changed is ignored."""
        root = logging.getLogger()
        if changes:
            root.setLevel(_level(changes, root.getEffectiveLevel()))
        level = root.getEffectiveLevel()
        return {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": level <= logging.ERROR,
            "log_verbose_level": int(level <= logging.DEBUG),
            "log_format": "default",
        }

    async def trace_settings(
        self, model: str | None, changes: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Always off: traces go out over OpenTelemetry instead (contract §4.6)."""
        if model is not None:
            self.repository.find(model)
        if changes and changes.get("trace_level") not in (None, ["OFF"], "OFF"):
            raise InvalidInput(
                f'trace_level {changes["trace_level"]!r}: only ["OFF"] is accepted here; '
                "traces are exported over OpenTelemetry"
            )
        return {
            "trace_level": ["OFF"],
            "trace_rate": "1000",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_file": "",
            "trace_mode": "triton",
        }

    async def is_ready(self) -> bool:
        if self.is_draining:
            return False
        if self.policy is ReadyPolicy.NONE:
            return True
        if not self.is_started:
            return False
        ready = [await model.servable.is_ready() for model in self.repository.all()]
        if self.policy is ReadyPolicy.ANY:
            return any(ready) or not ready
        return all(ready) and not self.repository.failed()


def _level(changes: Mapping[str, Any], level: int) -> int:
    """The Python level that Triton's switches come to, from level."""
    if int(changes.get("log_verbose_level", 0)) > 0:
        return logging.DEBUG
    switches = (
        ("log_info", logging.INFO),
        ("log_warning", logging.WARNING),
        ("log_error", logging.ERROR),
    )
    for name, at in switches:
        if changes.get(name, level <= at):
            return at
    return logging.CRITICAL
