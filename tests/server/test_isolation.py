"""Models in processes of their own: same answers, and a death is one request's affair."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace.server import isolation
from headrace.server.errors import (
    Code,
    InferenceError,
    ModelLoadError,
    ModelNotReady,
    PayloadTooLarge,
    ServingError,
)
from headrace.server.execution import Mode
from headrace.server.isolation import RESTARTS, WINDOW_S, IsolatedPredictor, wait_s
from headrace.server.isolation_messages import Load
from headrace.server.loading import ModelSource, encode_source, load_servable
from headrace.server.model_servable import ModelServable
from headrace.server.request import Context, Request, Response
from headrace.server.servable import TensorServable
from headrace.server.settings import Isolation
from headrace.server.shared_block import Block
from headrace.server.tensor import NUMPY, Datatype, Tensor
from tests.serving import server_process

PLUG_IN = '''
import os, signal, sys, threading
import numpy as np
from headrace.server import InvalidInput, Model, PredictorFormat, Tensor

class OwnError(Exception): pass

class Odd:
    """Does what its input is called."""
    inputs = outputs = ()
    platform = "odd"

    def predict(self, inputs):
        return getattr(self, inputs[0].name)(inputs)

    def echo(self, inputs): return [Tensor("out", each.array, each.datatype) for each in inputs]
    def transposed(self, inputs): return [Tensor("out", inputs[0].array.T)]
    def words(self, inputs): return [Tensor("out", np.array(["ä", "b"]))]
    def pid(self, inputs): return [Tensor("out", np.array([os.getpid()]))]
    def threads(self, inputs):
        return [Tensor("out", np.array([int(os.environ["OMP_NUM_THREADS"])]))]
    def own(self, inputs): raise OwnError("boom")
    def invalid(self, inputs): raise InvalidInput("rows must be even")
    def unsupported(self, inputs): raise NotImplementedError("no such thing")
    def exits(self, inputs): sys.exit(3)
    def dies(self, inputs): os._exit(7)
    def killed(self, inputs): os.kill(os.getpid(), signal.SIGKILL)
    def hangs(self, inputs):
        print("hanging", flush=True)
        threading.Event().wait()

def load(path, options):
    if path.name == "dies": os._exit(9)
    if path.name == "raises": raise OwnError("cannot be read")
    if path.name == "model": return Model(options.model_name)
    return Odd()

FORMAT = PredictorFormat("odd", load, wants_folder=True)
'''


@pytest.fixture(autouse=True)
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed predictor `odd`, for this process and its children."""
    (tmp_path / "odd_models.py").write_text(PLUG_IN)
    metadata = tmp_path / "odd-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[headrace.predictors]\nodd = odd_models:FORMAT\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def load_of(folder: Path, threads: int = 1) -> Load:
    return Load("m", encode_source(ModelSource(folder, "odd")), sys.path, threads)


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[IsolatedPredictor]:
    (predictor,) = isolation.start([load_of(tmp_path)])
    with closing(predictor):
        yield predictor


def ask(predictor: IsolatedPredictor, name: str, array: Any = (0,)) -> Any:
    (output,) = predictor.predict([Tensor(name, np.asarray(array))])
    return output.array


@pytest.mark.parametrize("datatype", list(Datatype))
def test_every_datatype_comes_back_as_it_went(datatype: Datatype, odd: IsolatedPredictor) -> None:
    if datatype is Datatype.BYTES:
        array = np.array([[b"", b"\x00\xff"], ["ä".encode(), b"x" * 1000]], object)
    else:
        array = np.arange(6).reshape(2, 3).astype(NUMPY[datatype])
    sent = Tensor("echo", array, datatype)
    empty = Tensor("second", array[:0], datatype)
    scalar = Tensor("third", array[:1, :1].reshape(()), datatype)
    outputs = odd.predict([sent, empty, scalar])
    for tensor, output in zip((sent, empty, scalar), outputs, strict=True):
        assert (output.datatype, output.shape) == (datatype, tensor.shape)
        assert (output.array == tensor.array).all()


def test_answers_are_the_callers_to_keep(odd: IsolatedPredictor) -> None:
    first = ask(odd, "echo", [1, 2, 3])
    ask(odd, "echo", [4, 5, 6])
    assert first.tolist() == [1, 2, 3]


@pytest.mark.parametrize("elements", [25_000_000, 10, 30_000_000])
def test_a_hundred_megabytes_and_back(elements: int, odd: IsolatedPredictor) -> None:
    sent = np.arange(elements, dtype=np.float32)
    assert (ask(odd, "echo", sent) == sent).all()


def test_layouts_that_are_not_packed_are_packed(odd: IsolatedPredictor) -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    assert ask(odd, "transposed", array).tolist() == array.T.tolist()
    assert ask(odd, "words").tolist() == ["ä".encode(), b"b"]
    half = np.ones((2, 2), ml_dtypes.bfloat16).T
    assert ask(odd, "transposed", half).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        pytest.param("own", Code.INTERNAL, "OwnError : boom", id="its class and its text"),
        pytest.param("invalid", Code.INVALID_ARGUMENT, "rows must be even", id="our errors"),
        pytest.param("unsupported", Code.UNIMPLEMENTED, "no such thing", id="NotImplementedError"),
        pytest.param("exits", Code.INTERNAL, "SystemExit : 3", id="sys.exit ends nothing"),
    ],
)
def test_what_the_model_raises_is_told(
    name: str, code: Code, message: str, odd: IsolatedPredictor
) -> None:
    pid = odd.pid
    with pytest.raises(ServingError) as caught:
        ask(odd, name)
    assert (caught.value.code, str(caught.value)) == (code, message)
    assert ask(odd, "pid") == pid


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        pytest.param("dies", "ended with exit code 7", id="its native code calls exit"),
        pytest.param("killed", "was killed by SIGKILL", id="kill -9, or out of memory"),
    ],
)
def test_a_death_fails_its_request_and_the_next_one_has_a_new_process(
    name: str, ending: str, odd: IsolatedPredictor
) -> None:
    pid = odd.pid
    with pytest.raises(InferenceError) as caught:
        ask(odd, name)
    assert str(caught.value) == f"model m: its process {pid} {ending} while it ran this request"
    assert odd.pid not in (None, pid)  # already started
    assert ask(odd, "pid") == odd.pid


def test_a_death_between_two_requests_fails_none(odd: IsolatedPredictor) -> None:
    pid = odd.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ask(odd, "pid") != pid


def test_neighbours_of_a_death_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        source = ModelSource(tmp_path, "odd", instances=2, isolation=Isolation.PROCESS)
        servable = await load_servable("m", source)
        assert isinstance(servable, TensorServable)
        assert (servable.executor.mode, servable.platform) == (Mode.THREAD, "odd")
        assert servable.memory.cpu_bytes > 1 << 20
        victim, other = servable.executor.instances
        assert isinstance(victim, IsolatedPredictor)
        assert isinstance(other, IsolatedPredictor)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)  # its request is running, and will be when it dies
        lost = asyncio.create_task(infer(servable, "echo"))
        await asyncio.sleep(0)
        assert servable.executor.running == 1
        for _ in range(20):
            assert await infer(servable, "pid") == other.pid
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(InferenceError, match="was killed by SIGKILL while it ran this request"):
            await lost
        pids = [await infer(servable, "pid") for _ in range(4)]
        assert set(pids) == {victim.pid, other.pid}
        await servable.stop()
        assert victim.pid is other.pid is None

    async def infer(servable: TensorServable, name: str) -> int:
        request = Request("m", [Tensor(name, np.array([0]))])
        answer = await servable.infer(request, Context())
        assert isinstance(answer, Response)
        return int(answer.outputs[0].array[0])

    asyncio.run(main())


def test_restarts_are_bounded_in_a_window(tmp_path: Path) -> None:
    now = [0.0]
    with closing(IsolatedPredictor(load_of(tmp_path), lambda: now[0])) as predictor:
        predictor.wait_loaded()
        for _ in range(RESTARTS):
            with pytest.raises(InferenceError):
                ask(predictor, "dies")
            now[0] += 1
        with pytest.raises(ModelNotReady) as caught:
            ask(predictor, "pid")
        assert str(caught.value) == (
            "Model with name m is not ready. "
            "Its process died 5 times within 60 s; it is started again in 55 s."
        )
        now[0] = WINDOW_S
        assert ask(predictor, "pid") == predictor.pid


@pytest.mark.parametrize(
    ("deaths_s", "now_s", "left_s"),
    [
        pytest.param([], 0.0, 0.0, id="none died"),
        pytest.param([0, 1, 2, 3], 4.0, 0.0, id="fewer than the bound"),
        pytest.param([0, 1, 2, 3, 4], 10.0, 50.0, id="wait until the oldest is out of the window"),
        pytest.param([0, 1, 2, 3, 4], 60.0, 0.0, id="the oldest is"),
    ],
)
def test_wait_s(deaths_s: list[float], now_s: float, left_s: float) -> None:
    assert wait_s(deaths_s, now_s) == left_s


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        pytest.param(
            "raises",
            "model m: odd cannot load {path}: OwnError: cannot be read",
            id="what the framework said",
        ),
        pytest.param(
            "dies",
            "model m: its process {pid} ended with exit code 9 while it loaded",
            id="it died",
        ),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_no_process(
    folder: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / folder
    path.mkdir()
    before = children()
    with pytest.raises(ModelLoadError) as caught:
        isolation.start([load_of(path)] * 2)
    pid = str(caught.value).partition("process ")[2].partition(" ")[0]
    assert str(caught.value) == message.format(path=path, pid=pid)
    assert children() == before


def children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set((task / "children").read_text().split())
    return found


def test_close_ends_a_call_that_never_would(tmp_path: Path) -> None:
    (predictor,) = isolation.start([load_of(tmp_path)])
    pid = predictor.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()

        def call() -> None:
            started.set()
            ask(predictor, "echo")

        hanging = pool.submit(call)
        started.wait()
        predictor.close()
        predictor.close()
        with pytest.raises(ModelNotReady) as caught:
            hanging.result(10)
    assert str(caught.value) == "Model with name m is not ready. It is being unloaded."
    assert str(pid) not in children()


PARENT = """
import sys
from pathlib import Path
import numpy as np
from headrace.server import isolation
from headrace.server.isolation_messages import Load
from headrace.server.loading import ModelSource, encode_source
from headrace.server.tensor import Tensor

source = encode_source(ModelSource(Path(sys.path[0]), "odd"))
(predictor,) = isolation.start([Load("m", source, sys.path, 1)])
predictor.predict([Tensor(sys.argv[1], np.array([0]))])
print("idle", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "busy", [pytest.param(True, id="in a call that never ends"), pytest.param(False, id="idle")]
)
def test_a_child_ends_with_its_server(busy: bool, tmp_path: Path) -> None:
    program = tmp_path / "parent.py"  # its folder, with the plug-in, is sys.path[0]
    program.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, str(program), "hangs" if busy else "echo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == ("hanging\n" if busy else "idle\n")
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == ""  # ends when the child does, which shares it


def test_threads_are_the_instances_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (predictor,) = isolation.start([load_of(tmp_path, threads=3)])
    with closing(predictor):
        assert ask(predictor, "threads") == 3


def test_nothing_is_left_open(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    (predictor,) = isolation.start([load_of(tmp_path)])
    for _ in range(2):
        with pytest.raises(InferenceError):
            ask(predictor, "dies")
    assert descriptors() == before + 3  # a socket and two blocks, also after two restarts
    predictor.close()
    assert descriptors() == before


def test_a_users_model_runs_in_the_server_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    before = children()
    source = ModelSource(path, "odd", isolation=Isolation.PROCESS)
    servable = asyncio.run(load_servable("m", source))
    assert isinstance(servable, ModelServable)
    assert "a Model runs in the server's own process" in caplog.messages
    assert children() == before


def test_a_block_says_how_much_it_takes() -> None:
    block = Block.create("test")
    with closing(block), pytest.raises(PayloadTooLarge) as caught:
        block.put([Tensor("x", np.zeros(17, np.int8))], max_bytes=63)
    assert str(caught.value) == (
        "tensors of 64 bytes; a model in a process of its own takes and gives "
        "at most 63 bytes a call"
    )


def test_a_load_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> None:
        source = ModelSource(tmp_path, "odd", isolation=Isolation.PROCESS)
        loading = asyncio.create_task(load_servable("m", source))
        await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))  # the thread ends
        assert children() == before

    before = children()
    asyncio.run(main())


def test_a_server_with_isolated_models_serves_survives_and_ends(tmp_path: Path) -> None:
    flags = ("--isolation", "process", "--model", f"m=echo:{tmp_path}")
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "INT64", "shape": [2], "data": [1, 2]}]}
    ).encode()
    with server_process(*flags) as server:
        url = f"{server.url}/v2/models/m/infer"
        for _ in range(2):
            with urllib.request.urlopen(url, body, timeout=30) as reply:
                assert json.load(reply)["outputs"][0]["data"] == [1, 2]
            (child,) = (
                pid
                for task in Path(f"/proc/{server.process.pid}/task").iterdir()
                for pid in (task / "children").read_text().split()
            )
            handle = os.pidfd_open(int(child))
            os.kill(int(child), signal.SIGKILL)
            select.select([handle], [], [], 10)  # readable once it is dead
            os.close(handle)
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert "Warning" not in server.log.read_text()
        assert not Path("/proc", child).exists()
