"""One worker of `--workers N`, from its fork to its exit code.

It hears the current set from the parent, loads it, serves, and goes on until a signal, or until the
parent is gone.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from headrace.server import tracing
from headrace.server.lifecycle import START_FAILED, new_loop, serve
from headrace.server.repository import Repository
from headrace.server.serving import Server
from headrace.server.settings import Settings
from headrace.server.worker_channel import CurrentSet, Frames, Listening
from headrace.server.worker_control import READ_BYTES, WorkerControl

log = logging.getLogger(__name__)

MakeRepository = Callable[[Settings], Repository]


def worker_main(settings: Settings, make_repository: MakeRepository, channel: socket.socket) -> int:
    """A worker from its fork to its exit code."""
    with asyncio.Runner(loop_factory=new_loop(settings)) as runner:
        return runner.run(_work(settings, make_repository, channel))


async def _work(settings: Settings, make_repository: MakeRepository, channel: socket.socket) -> int:
    reader, writer = await asyncio.open_connection(sock=channel)
    frames = Frames(is_parent=False)
    first: list[Any] = []
    while not first:
        data = await reader.read(READ_BYTES)
        if not data:
            return START_FAILED
        first = frames.feed(data)
    current: CurrentSet = first[0]
    repository = make_repository(settings)
    server = Server(settings, repository, tracer=tracing.from_env(os.environ))
    control = WorkerControl(server.control, reader, writer)
    server.use_control(control)
    if current.log:
        await server.control.log_settings(current.log)
    listening = asyncio.create_task(_until_orphaned(control, frames))
    try:
        return await serve(
            server,
            start_up=start_up_set(repository, current),
            on_listening=lambda ports: control.tell(Listening(ports.http, ports.grpc)),
        )
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        writer.close()


async def _until_orphaned(control: WorkerControl, frames: Frames) -> None:
    await control.listen(frames)
    log.error("the parent process is gone: stopping")
    os.kill(os.getpid(), signal.SIGTERM)


def start_up_set(repository: Repository, current: CurrentSet) -> dict[str, dict[str, Any]]:
    """Names to load at the start, with their parameters: the loader's, as changed since."""
    names: dict[str, dict[str, Any] | None] = {name: {} for name in repository.loader.names()}
    names.update(current.models)
    return {name: given for name, given in names.items() if given is not None}
