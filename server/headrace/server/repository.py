"""Which models this process serves, and in what state: load, unload, reload without a gap.

    a name ──load──▶ LOADING ──▶ READY ──unload──▶ UNLOADING ──▶ UNAVAILABLE
                        └─ failed ─▶ UNAVAILABLE + reason      (a failed reload keeps the old one)

A `Loader` knows what could be loaded and makes it; the repository decides what is visible when.
Everything runs on the event loop; a lock per name keeps loads of one model in order.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, runtime_checkable

from headrace.server.admission import Held
from headrace.server.changes import Changes
from headrace.server.errors import (
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    ModelVersionNotFound,
    NoMemory,
)
from headrace.server.headroom import Headroom
from headrace.server.servable import Servable
from headrace.server.statistics import ModelStatistics

log = logging.getLogger(__name__)

UNLOADED = "unloaded"  # Triton's reason for a model that an operator took down
DEFAULT_VERSION = "1"  # what a model without declared versions answers to (contract §2.1)


class State(StrEnum):  # Triton's words
    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"


@dataclass(slots=True)
class ServedModel:
    """One version of one model. config: Triton's ModelConfig keys this model was given, if any."""

    name: str
    servable: Servable
    version: str = DEFAULT_VERSION
    config: Mapping[str, Any] = field(default_factory=dict)
    in_flight: int = 0
    is_retired: bool = False  # unloaded, or replaced by a reload: takes no new requests
    statistics: ModelStatistics = field(init=False)
    _idle: asyncio.Event | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.statistics = ModelStatistics(self.name, self.version, memory=self.servable.memory)

    def enter(self) -> None:
        """A request is in flight; `leave` ends it."""
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until nothing is in flight."""
        if self.in_flight:
            self._idle = asyncio.Event()
            await self._idle.wait()


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A row of the repository index; version and state are empty for what was never loaded."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, str]:
        row = {"name": self.name, "version": self.version, "state": self.state}
        row["reason"] = self.reason
        return {key: value for key, value in row.items() if value}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Loaded, not visible yet; lock is the name's, held."""

    name: str
    models: tuple[ServedModel, ...]
    lock: asyncio.Lock


class Loader(Protocol):
    """Where models come from: the command line, a folder, or a user's own repository."""

    def names(self) -> Sequence[str]:
        """Every model that could be loaded, loaded or not."""
        ...

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        """All versions to serve of name, ready to answer.

        parameters: of the load request (`config`, `file:…`). Raises ModelNotFound for an unknown
        name, ModelLoadError with the reason for anything else.
        """
        ...


@runtime_checkable
class Estimating(Protocol):
    """A loader that can say what a model may need before anybody has loaded it."""

    def estimated_bytes(self, name: str, parameters: Mapping[str, Any]) -> int:
        """CPU memory; 0 where it cannot say."""
        ...


class NoLoader:
    """The loader of a server whose models are all registered by code."""

    def names(self) -> Sequence[str]:
        return []

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        raise ModelNotFound(name)


class Repository:
    """Names → versions → `ServedModel`, each with a state."""

    def __init__(
        self,
        loader: Loader | None = None,
        drain_s: float = 30.0,
        headroom: Headroom | None = None,
    ) -> None:
        self.loader: Loader = loader or NoLoader()
        self._headroom = headroom or Headroom()
        self.changes = Changes()
        self._drain_s = drain_s  # longest an old version may finish what it has in flight
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._states: dict[str, tuple[State, str]] = {}  # of names, while not plainly READY
        self._locks: dict[str, asyncio.Lock] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def add(self, model: ServedModel) -> None:
        """Serve model at once, beside its other versions."""
        self._models.setdefault(model.name, {})[model.version] = model
        self._states.pop(model.name, None)
        self.changes.notify()

    def find(self, name: str, version: str = "") -> ServedModel:
        """The version asked for, or the newest.

        Raises ModelNotFound, ModelVersionNotFound, or ModelNotReady for a name that could be
        loaded but is not.
        """
        versions = self._models.get(name)
        if not versions:
            if name in self._states or name in self.loader.names():
                raise ModelNotReady(name, self._states.get(name, (State.UNKNOWN, ""))[1] or None)
            raise ModelNotFound(name)
        if not version:
            if len(versions) == 1:
                return next(iter(versions.values()))
            return versions[newest(versions)]
        if version not in versions:
            raise ModelVersionNotFound(name, version, sort_versions(versions))
        return versions[version]

    def current(self, model: ServedModel, version: str = "") -> ServedModel:
        """model, or what a reload has put in its place since it was found. version: asked for.

        Raises as `find` where nothing took its place.
        """
        if not model.is_retired:
            return model
        same = self._models.get(model.name, {}).get(model.version)
        return same or self.find(model.name, version)

    def names(self) -> list[str]:
        """Every loaded or registered name, in the order they came."""
        return list(self._models)

    def versions(self, name: str) -> list[str]:
        """Loaded versions of name, oldest first. Raises as `find`."""
        self.find(name)
        return sort_versions(self._models[name])

    def all(self) -> list[ServedModel]:
        return [model for versions in self._models.values() for model in versions.values()]

    def failed(self) -> dict[str, str]:
        """Names that should serve but do not, with the reason; what was unloaded should not."""
        return {
            name: reason or state.value
            for name, (state, reason) in self._states.items()
            if not self._models.get(name) and state is not State.UNKNOWN and reason != UNLOADED
        }

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """Triton's index: a row per loaded version, then a row per name that is only present."""
        rows = [
            IndexEntry(name, version, *self._states.get(name, (State.READY, "")))
            for name, versions in self._models.items()
            for version in sort_versions(versions)
        ]
        for name, (state, reason) in self._states.items():
            if not self._models.get(name):
                rows.append(IndexEntry(name, DEFAULT_VERSION, state, reason))
        seen = {row.name for row in rows}
        rows += [IndexEntry(name) for name in self.loader.names() if name not in seen]
        return [row for row in rows if row.state == State.READY] if ready_only else rows

    async def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Load name, or reload it: the new versions are ready before the old ones drain.

        Raises ModelNotFound, or ModelLoadError; what was serving before goes on serving then.
        """
        self.commit(await self.prepare(name, parameters))

    async def prepare(self, name: str, parameters: Mapping[str, Any] | None = None) -> Prepared:
        """The first half of a load: all but being visible. `commit` or `abort` it.

        The name's lock is held in between, so that loads of one name stay in order.
        """
        self.check_known(name)  # before the lock: names are the client's, locks are kept
        lock = self._lock(name)
        await lock.acquire()
        try:
            is_new = not self._models.get(name)
            if is_new:
                self._set_state(name, State.LOADING)
            try:
                verdict = await self._headroom.verdict(name, self._estimate(name, parameters))
                if verdict.refusal:
                    raise NoMemory(verdict.refusal)
                models = await self.loader.load(name, parameters or {})
            except BaseException as err:
                if is_new:
                    self._set_state(name, State.UNAVAILABLE, _reason(err))
                elif isinstance(err, ModelLoadError) and not isinstance(err, NoMemory):
                    raise ModelLoadError(f"{err}; what was loaded before goes on serving") from err
                raise
        except BaseException:
            lock.release()
            raise
        return Prepared(name, tuple(models), lock)

    @property
    def is_limited(self) -> bool:
        """There is a limit on memory, so a load may need others to be unloaded first."""
        return bool(self._headroom.limit_bytes)

    async def make_room(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        last_used_ms: Mapping[str, int] | None = None,
    ) -> list[str]:
        """Idle models to unload, one after another, before name is loaded; [] for most loads.

        last_used_ms: by model, of all workers; None: this process's. Raises NoMemory where no
        unload would make room enough; nothing has changed then.
        """
        self.check_known(name)
        held = [self._held(each, last_used_ms) for each in self._models]
        verdict = await self._headroom.verdict(name, self._estimate(name, parameters), held)
        if verdict.refusal:
            raise NoMemory(verdict.refusal)
        for each in verdict.evict:
            log.info("model evicted", extra={"model": each, "for": name})
        return list(verdict.evict)

    def _held(self, name: str, last_used_ms: Mapping[str, int] | None) -> Held:
        models = self._models[name].values()
        used_ms = max(each.statistics.last_inference_ms for each in models)
        return Held(
            name,
            sum(each.servable.memory.cpu_bytes for each in models),
            used_ms if last_used_ms is None else last_used_ms.get(name, used_ms),
            not any(each.in_flight for each in models) and name in self.loader.names(),
        )

    def _estimate(self, name: str, parameters: Mapping[str, Any] | None) -> Callable[[], int]:
        if not isinstance(self.loader, Estimating):
            return lambda: 0
        return partial(self.loader.estimated_bytes, name, parameters or {})

    def commit(self, prepared: Prepared) -> None:
        """Serve what was prepared; what served before drains and stops."""
        name, was = prepared.name, self._models.get(prepared.name)
        fresh = {model.version: model for model in prepared.models}
        for version, model in fresh.items():
            if was and version in was:
                model.statistics = was[version].statistics
                model.statistics.memory = model.servable.memory
        self._headroom.remember(
            name, sum(each.servable.memory.needed_bytes for each in prepared.models)
        )
        self._models[name] = fresh
        self._states.pop(name, None)
        self.changes.notify()
        self._retire(list(was.values()) if was else [])
        prepared.lock.release()

    async def abort(self, prepared: Prepared) -> None:
        """Forget what was prepared; what serves goes on."""
        try:
            if not self._models.get(prepared.name):
                self._set_state(prepared.name, State.UNAVAILABLE, "another worker could not load")
            await _stop(prepared.models)
        finally:
            prepared.lock.release()

    async def unload(self, name: str) -> None:
        """Stop serving name. Returns when it is no longer visible; what runs may finish.

        Raises ModelNotFound for a name neither loaded nor present.
        """
        self.check_known(name)
        async with self._lock(name):
            versions = self._models.pop(name, None)
            if versions is None:
                if name in self._states:  # it failed to load; now it need not serve
                    self._set_state(name, State.UNAVAILABLE, UNLOADED)
                return
            self._set_state(name, State.UNLOADING, UNLOADED)
            try:
                await self._drain(versions.values())
                versions.clear()
                await self._headroom.give_back()
            finally:
                self._set_state(name, State.UNAVAILABLE, UNLOADED)

    async def close(self) -> None:
        """Stop every model, the retiring ones too."""
        models = self.all()
        self._models.clear()
        await asyncio.sleep(0)  # a task cancelled before its first step would not even clean up
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await _stop(models)

    def check_known(self, name: str) -> None:
        """Raises ModelNotFound for a name neither loaded nor present."""
        known = name in self._models or name in self._states or name in self.loader.names()
        if not known:
            raise ModelNotFound(name)

    def _set_state(self, name: str, state: State, reason: str = "") -> None:
        self._states[name] = (state, reason)
        self.changes.notify()

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _retire(self, models: Sequence[ServedModel]) -> None:
        if models:
            task = asyncio.create_task(self._drain(models))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _drain(self, models: Collection[ServedModel]) -> None:
        """Wait for what models have in flight, at most drain_s, then stop them."""
        for model in models:
            model.is_retired = True
        try:
            async with asyncio.timeout(self._drain_s):
                for model in models:
                    await model.drained()
        except TimeoutError:
            names = [model.name for model in models if model.in_flight]
            log.warning("model still busy at unload", extra={"model": names[0]})
        finally:
            await _stop(models)


async def _stop(models: Collection[ServedModel]) -> None:
    """Stop every one, though one fails to."""
    for model in models:
        try:
            await model.servable.stop()
        except Exception:  # user code
            log.exception("model did not stop cleanly", extra={"model": model.name})


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "the load was broken off"
    return str(error) or type(error).__name__


def newest(versions: Mapping[str, object]) -> str:
    return sort_versions(versions)[-1]


def sort_versions(versions: Mapping[str, object]) -> list[str]:
    """Oldest first: numbers by value before other text by spelling."""
    return sorted(versions, key=lambda v: (not v.isdigit(), int(v) if v.isdigit() else 0, v))
