"""What an operator asks of the whole server, whichever worker hears it.

One process answers for itself (`LocalControl`). Under `--workers N` the parent is the control
channel and reaches every worker before it answers (workers.py has the other implementation), so
rest/ and grpc/ never know how many processes there are.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from headrace.server.errors import ModelNotFound
from headrace.server.repository import IndexEntry, Repository
from headrace.server.settings import ReadyPolicy


class Control(Protocol):
    async def load(self, name: str, parameters: Mapping[str, Any]) -> None: ...

    async def unload(self, name: str) -> None: ...

    async def index(self, ready_only: bool) -> list[IndexEntry]: ...

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Triton's `model_stats` rows; "" means all. Raises ModelNotFound, ModelVersionNotFound."""
        ...

    async def is_ready(self) -> bool:
        """Listening, start-up models answer (by policy), not draining, in every worker."""
        ...


class LocalControl:
    """Control of a server that is one process."""

    def __init__(self, repository: Repository, policy: ReadyPolicy = ReadyPolicy.ALL) -> None:
        self.repository = repository
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
        await self.repository.load(name, parameters)

    async def unload(self, name: str) -> None:
        await self.repository.unload(name)

    async def index(self, ready_only: bool) -> list[IndexEntry]:
        return self.repository.index(ready_only)

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        if not name:
            return [model.statistics.to_json() for model in self.repository.all()]
        if name not in self.repository.names():
            raise ModelNotFound(name)
        versions = [version] if version else self.repository.versions(name)
        return [self.repository.find(name, each).statistics.to_json() for each in versions]

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
