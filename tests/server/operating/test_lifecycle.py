"""From the first line to the exit code: start, readiness, SIGTERM under load, the second signal."""

import http.client
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.e2e.fuzzing import grpc_message
from tests.server.operating import programs
from tests.serving import ServerProcess, server_process

RPC = "/inference.GRPCInferenceService/ModelInfer"
BODY = json.dumps({"instances": [1, 2]})


def program(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    path.write_text(text)
    return (str(path),)


def ask(port: int, path: str, body: str | None = None) -> tuple[int, str]:
    """Status and body of one request on a connection of its own."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body.encode() if body else None
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


def starts(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace.server", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        pytest.param(
            ["--http_port", "many"],
            2,
            "headrace.server: bad setting: Expected `int`, got `str` - at `$.http_port`; "
            "see --help for the names",
            id="a setting of the wrong type",
        ),
        pytest.param(
            ["--model", "iris"],
            2,
            "headrace.server: --model iris: expected name=path or name=format:path",
            id="a model without a path",
        ),
        pytest.param(
            ["--model_dir", "/no/such", "--http_port", "0", "--grpc_port", "0"],
            1,
            "headrace.server: Missing model under path /no/such",
            id="a model that is not there",
        ),
        pytest.param(
            ["--log_format", "xml"],
            2,
            "headrace.server: --log_format xml: expected json or text",
            id="a log format there is not",
        ),
    ],
)
def test_a_start_that_fails_says_one_line(flags: list[str], code: int, says: str) -> None:
    done = starts(*flags)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == says


def test_help_has_an_example() -> None:
    done = starts("--help")
    assert done.returncode == 0
    assert "python -m headrace.server --model_name iris --model_dir /mnt/models" in done.stdout


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with server_process("--model", f"m=echo:{tmp_path}") as server:
        flags = ["--host", "127.0.0.1", "--grpc_port", "0", "--http_port", str(server.http)]
        done = starts("--model", f"m=echo:{tmp_path}", *flags)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"headrace.server: [Errno 98] cannot listen on 127.0.0.1:{server.http} for HTTP: "
        "Address already in use; choose another with --http_port or --host"
    )


def test_a_users_load_that_raises_ends_the_program(tmp_path: Path) -> None:
    command = [sys.executable, *program(tmp_path, programs.BROKEN.replace("def load", "def start"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: no weights"


def test_a_model_that_is_not_ready_answers_503(tmp_path: Path) -> None:
    with server_process(program=program(tmp_path, programs.LATE)) as server:
        assert ask(server.http, "/v1/models/late:predict", BODY) == (
            503,
            '{"error":"Model with name late is not ready."}',
        )
        assert ask(server.http, "/v2/health/ready")[0] == 503
        assert ask(server.http, "/v2/health/live") == (200, '{"live":true}')
        (row,) = json.loads(ask(server.http, "/v2/repository/index", "{}")[1])
        assert (row["state"], row["reason"]) == ("UNAVAILABLE", "its load left it not ready")


@pytest.mark.parametrize(("policy", "status"), [("all", 503), ("any", 200), ("none", 200)])
def test_ready_policies(policy: str, status: int, tmp_path: Path) -> None:
    """One model is served, the other is missing; the ports open at once."""
    models = ["--model", f"m=echo:{tmp_path}", "--model", f"absent=echo:{tmp_path}/absent"]
    with server_process(*models, "--listen", "now", "--ready_policy", policy) as server:
        assert ask(server.http, "/v2/health/ready")[0] == status
        status, body = ask(server.http, "/v2/models/absent/ready")
        assert status == 503
        assert f"Missing model under path {tmp_path}/absent" in body


class Load:
    """Keep-alive clients over HTTP and gRPC that send until the server tells them to stop."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.answered = 0
        self.lost: list[str] = []
        self.started = threading.Barrier(5)
        self.over = threading.Event()

    def http(self) -> None:
        """A client may be told `Connection: close`; then the next connection decides."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http, timeout=30)
        is_first = True
        while not self.over.is_set():
            try:
                connection.request("POST", "/v1/models/slow:predict", BODY)
                answer = connection.getresponse()
                answer.read()
            except ConnectionRefusedError:
                break  # the port is closed: nothing was sent
            except (OSError, http.client.HTTPException) as err:
                self.lost.append(f"HTTP {err!r}")
                break
            if answer.status != 200:
                self.lost.append(f"HTTP {answer.status}")
            self.answered += 1
            if is_first:
                self.started.wait(30)
                is_first = False
        connection.close()

    def grpc(self) -> None:
        is_first = True
        options = [("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc}", options) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            while not self.over.is_set():
                try:
                    call(b"", timeout=30)
                except grpc.RpcError as err:
                    if err.code() is not grpc.StatusCode.UNAVAILABLE:  # told to go elsewhere
                        self.lost.append(f"gRPC {err.code().name}: {err.details()}")
                    break
                self.answered += 1
                if is_first:
                    self.started.wait(30)
                    is_first = False


@pytest.mark.soak
def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    """During the drain delay new connections are still served; in-flight ones end with answers."""
    flags = ["--drain_delay", "1", "--grace_period", "10"]
    with server_process(*flags, program=program(tmp_path, programs.SLOW)) as server:
        load = Load(server)
        with ThreadPoolExecutor(4) as clients:
            running = [clients.submit(run) for run in (load.http, load.http, load.http, load.grpc)]
            load.started.wait(30)
            server.process.send_signal(signal.SIGTERM)
            while ask(server.http, "/v2/health/ready")[0] != 503:
                pass  # the signal is on its way; the port still listens
            assert server.process.wait(20) == 0
            load.over.set()
            for each in running:
                each.result()
    assert load.lost == []
    assert load.answered > 4


def test_the_grace_period_ends_what_does_not_end(tmp_path: Path) -> None:
    with server_process(
        "--grace_period", "0.5", program=program(tmp_path, programs.STUCK)
    ) as server:
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(ask, server.http, "/v1/models/stuck:predict", BODY)
            while "stuck" not in server.log.read_text():  # the model has it now
                assert server.process.poll() is None
            server.process.send_signal(signal.SIGTERM)
            assert asked.result(20) == (503, '{"error":"The server is stopping."}')
        assert server.process.wait(20) == 0


def test_a_hook_that_cannot_be_cancelled_keeps_nobody(tmp_path: Path) -> None:
    flags = ["--grace_period", "0.2"]
    with server_process(*flags, program=program(tmp_path, programs.CLINGS)) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.http)
        client.request("POST", "/v1/models/clings:predict", BODY)
        while "clings" not in server.log.read_text():  # the model has it now
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        client.close()


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    flags = ["--drain_delay", "25", "--grace_period", "28"]
    with server_process(*flags, "--model", f"m=echo:{tmp_path}") as server:
        server.process.send_signal(signal.SIGINT)
        while ask(server.http, "/v2/health/ready")[0] != 503:
            pass
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == 128 + signal.SIGINT


def test_an_inference_over_grpc(tmp_path: Path) -> None:
    """On gRPC's port and on the HTTP port, which serves both; each call on a new connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with server_process("--model", f"m=echo:{tmp_path}") as server:
        for port in [server.grpc, *[server.http] * 20]:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
                answer = channel.unary_unary(RPC)(grpc_message("m", raw=True), timeout=10)
                assert b"input-0" in answer


FAULTS = """
import resource
from headrace.server.lifecycle import settle_allocator

settle_allocator()
before = 0
for count in range(110):
    if count == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes(1 << 20) + b"x"
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_of_one_request_is_kept_for_the_next() -> None:
    """Two megabytes are 512 pages; each would be faulted in a hundred times."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean
    )
    assert int(done.stdout) < 1000
