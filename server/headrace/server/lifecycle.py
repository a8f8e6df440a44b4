"""One serving process from its first line to its exit code: start, wait for a signal, drain.

The first SIGTERM, SIGINT or SIGQUIT drains (contract §8); the second ends at once.
"""

import asyncio
import ctypes
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

from headrace.server.errors import ServingError
from headrace.server.serving import Ports, Server
from headrace.server.settings import Settings

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
START_FAILED = 1
STRAGGLERS_S = 1.0  # for tasks to end that are still there when all else has ended
YOUNG_OBJECTS = 20_000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 32 << 20
MAPPED_BYTES = 8 << 20  # what is larger is mapped by itself, and given back at once


def new_loop(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop of --event-loop; auto is uvloop."""
    return asyncio.new_event_loop if settings.event_loop == "asyncio" else uvloop.new_event_loop


async def serve(
    server: Server,
    start_up: Mapping[str, Mapping[str, Any]] | None = None,
    on_listening: Callable[[Ports], None] | None = None,
) -> int:
    """Run server until a signal; the process's exit code.

    start_up: as `Server.start`. on_listening: told the ports; without it the ready file is.
    """
    loop = asyncio.get_running_loop()
    pool_size = server.settings.max_asyncio_workers
    if pool_size:
        loop.set_default_executor(ThreadPoolExecutor(pool_size, "asyncio"))
    asked = asyncio.Event()

    def on_signal(number: int) -> None:
        if asked.is_set():
            log.warning("second signal: stopping at once", extra={"signal": number})
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number})
        asked.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    starting = asyncio.create_task(server.start(start_up))
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # told to stop while loading
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.repository.close()
        return 0
    try:
        starting.result()
    except (ServingError, OSError) as err:
        waiting.cancel()
        print(f"headrace.server: {err}", file=sys.stderr, flush=True)
        return START_FAILED
    except Exception as err:  # a user's own code, or ours: its traceback is in the log
        waiting.cancel()
        log.exception("start failed")
        print(f"headrace.server: {type(err).__name__}: {err}", file=sys.stderr, flush=True)
        return START_FAILED
    settle_collector()
    settle_allocator()
    if on_listening is not None:
        on_listening(server.ports)
    elif server.settings.ready_file:
        write_ready_file(Path(server.settings.ready_file), server.ports)
    await waiting
    await server.stop()
    await end_stragglers()
    return 0


async def end_stragglers() -> None:
    """Cancel what still runs, and end the process where that does not help.

    A user's hook may swallow its cancellation; the loop would wait for it for ever.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others and (await asyncio.wait(others, timeout=STRAGGLERS_S))[1]:
        log.warning("stopping at once: tasks ignore that they are cancelled")
        logging.shutdown()
        os._exit(0)


def settle_collector() -> None:
    """Let the garbage collector leave alone what was loaded, and look less often at what was not.

    A request makes some thirty objects and no cycles; by default every 700 set off a collection,
    and every hundredth of those walks all that the frameworks imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


def settle_allocator() -> None:
    """Let glibc keep the memory of one request for the next, up to KEPT_BYTES.

    By default it gives most of it back to the kernel at once, and every page of a 0.6 MB tensor is
    then faulted in again: 61 % of such a gRPC call's time was the kernel's. Nothing where it is not
    glibc, or where the environment has settled it.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def write_ready_file(path: Path, ports: Ports) -> None:
    """Tell whoever started us where we listen; the file is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    told = {"pid": os.getpid(), "http": ports.http, "grpc": ports.grpc}
    unfinished.write_text(json.dumps(told))
    unfinished.replace(path)
