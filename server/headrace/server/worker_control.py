"""`Control` in a worker process: every call goes through the parent and reaches all workers.

load is two phases: every worker prepares (loads, keeps hidden); if all could, every worker commits,
else every worker aborts and serves what it did before. unload and settings follow the same road.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.server.admission import last_used_ms
from headrace.server.control import LocalControl
from headrace.server.errors import ServerNotReady
from headrace.server.metrics import exposition, from_plain, merged, to_plain
from headrace.server.remote_errors import RemoteError, to_wire
from headrace.server.repository import IndexEntry, Prepared
from headrace.server.statistics import merge
from headrace.server.worker_channel import (
    DIED,
    Acquire,
    Answer,
    Call,
    Frames,
    FromWorker,
    Gather,
    Release,
    Remember,
    RememberLog,
    Reply,
    to_frame,
)

log = logging.getLogger(__name__)

READ_BYTES = 1 << 16
READY_TIMEOUT_S = 5.0  # a worker that does not answer a probe by then is not ready


class WorkerControl:
    """Talks to the parent over reader and writer; local is this worker's own part."""

    def __init__(
        self, local: LocalControl, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._local = local
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._prepared: dict[str, Prepared] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_draining(self) -> bool:
        return self._local.is_draining

    def tell(self, message: FromWorker) -> None:
        self._writer.write(to_frame(message))

    async def listen(self, frames: Frames) -> None:
        """Serve the parent's calls until it hangs up. frames may hold bytes read before."""
        while data := await self._reader.read(READ_BYTES):
            for message in frames.feed(data):
                if isinstance(message, Answer):
                    future = self._waiting.pop(message.id, None)
                    if future is not None and not future.done():
                        future.set_result(message)
                elif isinstance(message, Call):
                    task = asyncio.create_task(self._serve(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    # what this worker asks of all

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        args = {"name": name, "parameters": dict(parameters)}
        await self._exclusively()
        try:
            repository = self._local.repository
            if repository.is_limited:
                used = last_used_ms(await self.statistics())
                for evicted in await repository.make_room(name, parameters, used):
                    await self._unload_everywhere(evicted)
            prepared = await self._gather("prepare", args)
            failed = [reply.error for reply in prepared.replies if reply.error is not None]
            if failed:
                await self._gather("abort", {"name": name})
                raise RemoteError(failed[0])
            self.tell(Remember(name, dict(parameters)))
            await self._gather("commit", {"name": name})
        finally:
            self.tell(Release())

    async def unload(self, name: str) -> None:
        await self._exclusively()
        try:
            self._local.repository.check_known(name)
            await self._unload_everywhere(name)
        finally:
            self.tell(Release())

    async def _unload_everywhere(self, name: str) -> None:
        self.tell(Remember(name, None))
        answer = await self._gather("unload", {"name": name})
        _checked([reply for reply in answer.replies if reply.error != DIED])

    async def index(self, ready_only: bool) -> list[IndexEntry]:
        return await self._local.index(ready_only)

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        args = {"name": name, "version": version}
        return merge(_checked((await self._gather("statistics", args)).replies))

    async def is_ready(self) -> bool:
        """The AND over the workers; one that is being replaced is not ready."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                answer = await self._gather("is_ready", {})
        except (TimeoutError, ServerNotReady):
            return False
        return all(reply.error is None and reply.value is True for reply in answer.replies)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        answer = await self._gather("metrics", {})
        found = [reply.value for reply in answer.replies if reply.error is None]
        return exposition(merged([from_plain(each) for each in found], answer.restarts), accept)

    async def log_settings(self, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        if changes is None:
            return await self._local.log_settings(None)
        self.tell(RememberLog(dict(changes)))
        answer = await self._gather("log_settings", {"changes": dict(changes)})
        replies = _checked(answer.replies)
        found: dict[str, Any] = replies[0]
        return found

    async def trace_settings(
        self, model: str | None, changes: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return await self._local.trace_settings(model, changes)

    # what the parent asks of this worker

    async def _serve(self, call: Call) -> None:
        try:
            value = await getattr(self, f"_do_{call.call}")(**call.args)
        except Exception as err:  # told to the one who asked, whatever it is
            self.tell(Reply(call.ticket, error=to_wire(err)))
        else:
            self.tell(Reply(call.ticket, value))

    async def _do_prepare(self, name: str, parameters: dict[str, Any]) -> None:
        self._prepared[name] = await self._local.repository.prepare(name, parameters)

    async def _do_commit(self, name: str) -> None:
        prepared = self._prepared.pop(name, None)
        if prepared is not None:
            self._local.repository.commit(prepared)

    async def _do_abort(self, name: str = "") -> None:
        """name "": whatever is prepared, for a worker that died in the middle of a load."""
        for each in [name] if name else list(self._prepared):
            prepared = self._prepared.pop(each, None)
            if prepared is not None:
                await self._local.repository.abort(prepared)

    async def _do_unload(self, name: str) -> None:
        await self._local.unload(name)

    async def _do_statistics(self, name: str, version: str) -> Sequence[dict[str, Any]]:
        return await self._local.statistics(name, version)

    async def _do_is_ready(self) -> bool:
        return await self._local.is_ready()

    async def _do_metrics(self) -> Any:
        return to_plain(self._local.registry.collect())

    async def _do_log_settings(self, changes: dict[str, Any]) -> dict[str, Any]:
        return await self._local.log_settings(changes)

    async def _do_changed(self) -> None:
        """Readiness of another worker may have changed; watchers look again."""
        self._local.repository.changes.notify()

    async def _exclusively(self) -> None:
        await self._ask(lambda number: Acquire(number))

    async def _gather(self, call: str, args: dict[str, Any]) -> Answer:
        return await self._ask(lambda number: Gather(number, call, args))

    async def _ask(self, make: Any) -> Answer:
        number = next(self._ids)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self.tell(make(number))
            return await future
        finally:
            self._waiting.pop(number, None)


def _checked(replies: Sequence[Reply]) -> list[Any]:
    """The values. Raises what the first worker that failed raised."""
    for reply in replies:
        if reply.error is not None:
            raise RemoteError(reply.error)
    return [reply.value for reply in replies]
