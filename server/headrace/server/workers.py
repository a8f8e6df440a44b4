"""`--workers N`: one parent, N processes on the same ports, one repository, one set of metrics.

The parent imports and forks; it never starts gRPC or a framework session, so forking stays safe at
any time. It is the control channel: it hands a worker's question to every worker and the replies
back, remembers what was loaded since the start, and replaces workers that die. It runs a plain
select loop: nothing here waits for one worker while another speaks.
"""

import asyncio
import gc
import itertools
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from headrace.server import tracing
from headrace.server.lifecycle import START_FAILED, new_loop, serve, write_ready_file
from headrace.server.serving import Ports, Server
from headrace.server.settings import Settings
from headrace.server.worker import MakeRepository, worker_main
from headrace.server.worker_channel import (
    DIED,
    Acquire,
    Answer,
    Call,
    CurrentSet,
    Frames,
    FromParent,
    Gather,
    Listening,
    Release,
    Remember,
    RememberLog,
    Reply,
    to_frame,
)
from headrace.server.worker_control import READ_BYTES

log = logging.getLogger(__name__)

FIRST_RESTART_S, LONGEST_RESTART_S = 0.1, 5.0
HEALTHY_S = 10.0  # a worker that lived so long is restarted without a wait
LAST_WORDS_S = 2.0  # beyond the grace period, before a worker is killed


@dataclass
class Worker:
    slot: int
    pid: int
    socket: socket.socket
    started_s: float
    frames: Frames = field(default_factory=lambda: Frames(is_parent=True))
    outgoing: bytearray = field(default_factory=bytearray)
    is_listening: bool = False
    is_deaf: bool = False  # it has closed its end: it is ending


@dataclass
class Question:
    """A Gather on its way: who asked, whose replies are missing."""

    asker: Worker
    id: int
    missing: set[int]  # slots
    replies: list[Reply] = field(default_factory=list)


class Parent:
    """run() blocks until the last worker has ended; its result is the exit code."""

    def __init__(self, settings: Settings, make_repository: MakeRepository) -> None:
        self._settings = settings
        self._make_repository = make_repository
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, Worker] = {}
        self._questions: dict[int, Question] = {}
        self._tickets = itertools.count(1)
        self._models: dict[str, dict[str, Any] | None] = {}
        self._log: dict[str, Any] = {}
        self._holder: Worker | None = None  # in the exclusive place
        self._queue: deque[tuple[Worker, int]] = deque()
        self._restarts = 0
        self._failures = [0] * settings.workers  # restarts in a row, by slot
        self._due: dict[int, float] = {}  # when a slot is to be started again
        self._stop_by_s: float | None = None
        self._has_listened = False
        self._exit_code = 0

    def run(self) -> int:
        wake_read, wake_write = os.pipe()
        for end in (wake_read, wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the byte in the pipe is what counts
        self._selector.register(wake_read, selectors.EVENT_READ, None)
        self._private = (wake_read, wake_write)
        gc.collect()
        gc.freeze()  # what is shared with the workers stays shared
        for slot in range(self._settings.workers):
            self._start(slot)
        while self._workers or (self._due and self._stop_by_s is None):
            for key, events in self._selector.select(self._wait_s()):
                if key.data is None:
                    for byte in os.read(wake_read, 4096):
                        self._signalled(signal.Signals(byte))
                else:
                    self._exchange(key.data, events)
            self._reap()
            self._on_time()
        return self._exit_code

    # processes

    def _start(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = START_FAILED
            try:
                ours.close()
                self._leave_parent()
                code = worker_main(self._settings, self._make_repository, theirs)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        theirs.close()
        ours.setblocking(False)
        worker = Worker(slot, pid, ours, time.monotonic())
        self._workers[slot] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._tell(worker, CurrentSet(self._models, self._log))

    def _leave_parent(self) -> None:
        """In a new worker: forget all that is the parent's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)  # a terminal's Ctrl-C goes to the parent, which tells us once
        for each in self._workers.values():
            each.socket.close()
        self._selector.close()
        for end in self._private:
            os.close(end)

    def _reap(self) -> None:
        for slot, worker in list(self._workers.items()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(slot, worker, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: int, worker: Worker, code: int) -> None:
        """A worker is gone: fail what waits for it, then replace it unless all is ending."""
        self._hang_up(worker)
        worker.socket.close()
        del self._workers[slot]
        for ticket, question in list(self._questions.items()):
            if question.asker is worker:
                del self._questions[ticket]
            elif slot in question.missing:
                self._replied(slot, Reply(ticket, error=DIED))
        self._queue = deque(each for each in self._queue if each[0] is not worker)
        if self._holder is worker:
            self._broadcast("abort", {})
            self._release()
        if self._stop_by_s is not None:
            return
        if not self._has_listened:  # it never got to serve: that is a start that failed
            self._exit_code = code if code > 0 else START_FAILED
            self._stop(signal.SIGTERM)
            return
        lived_s = time.monotonic() - worker.started_s
        self._failures[slot] = 0 if lived_s > HEALTHY_S else self._failures[slot] + 1
        wait_s = min(LONGEST_RESTART_S, FIRST_RESTART_S * 2 ** max(0, self._failures[slot] - 1))
        self._restarts += 1
        self._due[slot] = time.monotonic() + wait_s
        log.error(
            "worker ended, replacing it",
            extra={"worker": slot, "pid": worker.pid, "exit_code": code, "wait_s": wait_s},
        )
        self._broadcast("changed", {})

    def _on_time(self) -> None:
        now_s = time.monotonic()
        for slot, due_s in list(self._due.items()):
            if due_s <= now_s and self._stop_by_s is None:
                del self._due[slot]
                self._start(slot)
        if self._stop_by_s is not None and now_s >= self._stop_by_s:
            self._kill(signal.SIGKILL)

    def _wait_s(self) -> float | None:
        times = [*self._due.values(), *([self._stop_by_s] if self._stop_by_s else [])]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _signalled(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD:
            return  # _reap looks anyway
        if self._stop_by_s is not None:
            self._kill(signal.SIGKILL)
            return
        self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        self._stop_by_s = time.monotonic() + self._settings.grace_period + LAST_WORDS_S
        self._due.clear()
        self._kill(signal.SIGTERM)
        log.info("stopping the workers", extra={"signal": int(number)})

    def _kill(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            os.kill(worker.pid, number)  # not reaped yet, so the pid is still its own

    # messages

    def _exchange(self, worker: Worker, events: int) -> None:
        if worker.slot not in self._workers or self._workers[worker.slot] is not worker:
            return
        if events & selectors.EVENT_WRITE:
            self._flush(worker)
        if events & selectors.EVENT_READ:
            try:
                data = worker.socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._hang_up(worker)
            for message in worker.frames.feed(data):
                self._received(worker, message)

    def _received(self, worker: Worker, message: Any) -> None:
        match message:
            case Reply():
                self._replied(worker.slot, message)
            case Gather():
                self._ask(worker, message)
            case Acquire():
                self._queue.append((worker, message.id))
                self._admit()
            case Release():
                if self._holder is worker:
                    self._release()
            case Remember():
                self._models[message.name] = message.parameters
            case RememberLog():
                self._log.update(message.changes)
            case Listening():
                worker.is_listening = True
                self._broadcast("changed", {})
                self._check_listening(message)

    def _check_listening(self, told: Listening) -> None:
        listening = [worker for worker in self._workers.values() if worker.is_listening]
        if self._has_listened or len(listening) < self._settings.workers:
            return
        self._has_listened = True
        if self._settings.ready_file:
            write_ready_file(Path(self._settings.ready_file), Ports(told.http, told.grpc))

    def _ask(self, asker: Worker, gather: Gather) -> None:
        """Slots that are being replaced count as died at once."""
        ticket = next(self._tickets)
        question = Question(asker, gather.id, set(range(self._settings.workers)))
        self._questions[ticket] = question
        for slot in list(question.missing):
            worker = self._workers.get(slot)
            if worker is None or not (worker.is_listening or worker is asker):
                self._replied(slot, Reply(ticket, error=DIED))
            else:
                self._tell(worker, Call(ticket, gather.call, gather.args))

    def _broadcast(self, call: str, args: dict[str, Any]) -> None:
        """A call whose replies nobody waits for."""
        for worker in self._workers.values():
            self._tell(worker, Call(0, call, args))

    def _replied(self, slot: int, reply: Reply) -> None:
        question = self._questions.get(reply.ticket)
        if question is None or slot not in question.missing:
            return
        question.missing.discard(slot)
        question.replies.append(reply)
        if not question.missing:
            del self._questions[reply.ticket]
            answer = Answer(question.id, question.replies, self._restarts)
            self._tell(question.asker, answer)

    def _admit(self) -> None:
        if self._holder is None and self._queue:
            self._holder, number = self._queue.popleft()
            self._tell(self._holder, Answer(number, [], self._restarts))

    def _release(self) -> None:
        self._holder = None
        self._admit()

    def _tell(self, worker: Worker, message: FromParent) -> None:
        worker.outgoing += to_frame(message)
        self._flush(worker)

    def _hang_up(self, worker: Worker) -> None:
        if not worker.is_deaf:
            worker.is_deaf = True
            self._selector.unregister(worker.socket)

    def _flush(self, worker: Worker) -> None:
        if worker.is_deaf:
            return
        try:
            while worker.outgoing:
                sent = worker.socket.send(worker.outgoing)
                del worker.outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:  # it has died; _reap will find it
            self._hang_up(worker)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
        self._selector.modify(worker.socket, wanted, worker)


async def _serve_alone(
    settings: Settings, make_repository: MakeRepository, on_server: Callable[[Server], None]
) -> int:
    server = Server(settings, make_repository(settings), tracer=tracing.from_env(os.environ))
    on_server(server)
    return await serve(server)


def reserved(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """settings with real port numbers for ports of 0, and the sockets that keep them ours.

    Bound with SO_REUSEPORT and not listening, so connections go to the workers alone.
    """
    held: list[socket.socket] = []
    changes: dict[str, int] = {}
    for name in ("http_port", "grpc_port"):
        if getattr(settings, name) == 0:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((settings.host.strip("[]") or "0.0.0.0", 0))
            changes[name] = sock.getsockname()[1]
            held.append(sock)
    return msgspec.structs.replace(settings, **changes), held


def run(
    settings: Settings,
    make_repository: MakeRepository,
    on_server: Callable[[Server], None] = lambda server: None,
) -> int:
    """Serve in as many processes as settings say, until a signal; the exit code.

    make_repository: called in each serving process. on_server: told the server of this process,
    where it is the only one.
    """
    if settings.workers <= 1:
        with asyncio.Runner(loop_factory=new_loop(settings)) as runner:
            return runner.run(_serve_alone(settings, make_repository, on_server))
    settings, held = reserved(settings)
    try:
        return Parent(settings, make_repository).run()
    finally:
        for sock in held:
            sock.close()
