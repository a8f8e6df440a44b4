"""Models in processes of their own: `--isolation process`, one child per instance.

A child is a fresh interpreter (isolated.py), never a fork: this process has threads. It loads the
model itself. To the executor an `IsolatedPredictor` is an instance like any other, whose `predict`
copies tensors into shared memory, sends where they lie, and waits in its thread.

A child that dies fails the request it was running and no other; it is started again at once, but at
most RESTARTS times in WINDOW_S.
"""

import logging
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection

import msgspec

from headrace.server.errors import InferenceError, ModelLoadError, ModelNotReady
from headrace.server.execution import UNLOADING
from headrace.server.isolation_messages import (
    Failed,
    Load,
    Loaded,
    Ran,
    Run,
    encode,
    from_child,
)
from headrace.server.remote_errors import RemoteError
from headrace.server.shared_block import Block
from headrace.server.tensor import Tensor, TensorSpec

log = logging.getLogger(__name__)

PROGRAM = "headrace.server.isolated"
RESTARTS, WINDOW_S = 5, 60.0


class ChildDied(Exception):
    """How it ended, as a phrase: "process 7 was killed by SIGKILL"."""


def wait_s(deaths_s: Sequence[float], now_s: float) -> float:
    """Seconds until another start is allowed, after deaths at deaths_s; 0: now."""
    recent = [each for each in deaths_s if now_s - each < WINDOW_S]
    return 0.0 if len(recent) < RESTARTS else recent[-RESTARTS] + WINDOW_S - now_s


class Child:
    """One process and the memory shared with it; started by its creation, ended by `end`."""

    def __init__(self, load: Load) -> None:
        ours, theirs = socket.socketpair()
        self.loaded: Loaded | None = None
        self._inputs, self._outputs = Block.create("inputs"), Block.create("outputs")
        fds = (theirs.fileno(), self._inputs.fd, self._outputs.fd)
        self._connection = Connection(ours.detach())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, *(str(fd) for fd in fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server, which drains first
            )
        except BaseException:
            self._give_back()
            raise
        finally:
            theirs.close()
        self._send(load)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_loaded(self) -> Loaded:
        """Raises ModelLoadError with the child's reason, or ChildDied."""
        if self.loaded is None:
            answer = self._answer()
            if isinstance(answer, Failed):
                raise ModelLoadError(str(RemoteError(answer.error)))
            assert isinstance(answer, Loaded)
            self.loaded = answer
        return self.loaded

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Raises RemoteError for what the model raised, or ChildDied."""
        self._send(Run(self._inputs.put(inputs)))
        answer = self._answer()
        if isinstance(answer, Failed):
            raise RemoteError(answer.error)
        assert isinstance(answer, Ran)
        return self._outputs.copies(answer.outputs)

    def kill(self) -> None:
        """From any thread: whoever waits for an answer gets ChildDied."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, if it lives, and give everything back. Idempotent."""
        if self._connection.closed:
            return
        self._process.kill()
        self._process.wait()
        self._give_back()

    def _give_back(self) -> None:
        self._connection.close()
        self._inputs.close()
        self._outputs.close()

    def _send(self, message: Load | Run) -> None:
        try:
            self._connection.send_bytes(encode(message))
        except OSError as err:
            raise ChildDied(self._ending()) from err

    def _answer(self) -> Loaded | Ran | Failed:
        try:
            return from_child.decode(self._connection.recv_bytes())
        except (EOFError, OSError) as err:
            raise ChildDied(self._ending()) from err
        except msgspec.MsgspecError as err:  # e.g. native code wrote into our descriptor
            self._process.kill()
            raise ChildDied(f"process {self.pid} answered nonsense") from err

    def _ending(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"process {self.pid} was killed by {signal.Signals(-code).name}"
        return f"process {self.pid} ended with exit code {code}"


class IsolatedPredictor:
    """A `Predictor` that runs in a child. `wait_loaded` first, `close` at the end."""

    def __init__(self, load: Load, clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._clock = clock
        self._deaths_s: deque[float] = deque(maxlen=RESTARTS)
        self._busy = threading.Lock()  # held by the one call at a time, and by close
        self._closed = False
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[TensorSpec] = ()
        self.platform = ""
        self._child: Child | None = Child(load)

    @property
    def pid(self) -> int | None:
        """Of the child; None while there is none."""
        return self._child.pid if self._child else None

    def wait_loaded(self) -> Loaded:
        """Wait until the first child has loaded. Raises ModelLoadError."""
        assert self._child is not None
        try:
            loaded = self._child.wait_loaded()
        except ChildDied as err:
            raise ModelLoadError(f"model {self._load.name}: its {err} while it loaded") from err
        self.inputs, self.outputs = loaded.inputs, loaded.outputs
        self.platform = loaded.platform
        return loaded

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Raises what the model raised as RemoteError; InferenceError where its process died;
        ModelNotReady where that happened too often."""
        with self._busy:
            child = self._ready_child()
            try:
                return child.predict(inputs)
            except ChildDied as err:
                self._bury(child)
                if self._closed:
                    raise ModelNotReady(self._load.name, UNLOADING) from err
                raise InferenceError(
                    f"model {self._load.name}: its {err} while it ran this request"
                ) from err

    def close(self) -> None:
        """End the child, whatever it is doing. Idempotent."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()  # before the lock: a call may be waiting for it
        with self._busy:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _ready_child(self) -> Child:
        name = self._load.name
        if self._closed:
            raise ModelNotReady(name, UNLOADING)
        if self._child is not None and not self._child.is_alive():  # it died between two requests
            self._bury(self._child)
        if self._child is None:
            self._restart()
        child = self._child
        if child is None:
            left_s = math.ceil(wait_s(self._deaths_s, self._clock()))
            raise ModelNotReady(
                name,
                f"Its process died {RESTARTS} times within {WINDOW_S:.0f} s; "
                f"it is started again in {left_s} s.",
            )
        if self._closed:
            raise ModelNotReady(name, UNLOADING)
        try:
            child.wait_loaded()
        except (ChildDied, ModelLoadError) as err:
            self._bury(child)
            raise ModelNotReady(name, f"Its process did not start again: {err}") from err
        return child

    def _bury(self, child: Child) -> None:
        """Note a death, and start the next child unless there were too many."""
        child.end()
        self._child = None
        self._deaths_s.append(self._clock())
        log.error("model process died", extra={"model": self._load.name, "pid": child.pid})
        self._restart()

    def _restart(self) -> None:
        if not self._closed and not wait_s(self._deaths_s, self._clock()):
            self._child = Child(self._load)


def start(loads: Sequence[Load]) -> list[IsolatedPredictor]:
    """The children of one model, one each, started together; all loaded. Blocks.

    Raises ModelLoadError, with no child left.
    """
    predictors: list[IsolatedPredictor] = []
    try:
        for load in loads:
            predictors.append(IsolatedPredictor(load))
        for each in predictors:
            each.wait_loaded()
    except BaseException:
        close_all(predictors)
        raise
    return predictors


def close_all(predictors: Iterable[IsolatedPredictor]) -> None:
    for each in predictors:
        each.close()
