"""`--workers 2`: what a client sees when a worker dies, and of calls that must reach them all."""

import contextlib
import http.client
import json
import os
import signal
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.serving import ServerProcess, server_process

COUNTING = '''
"""A model that says its process, counts on the default registry and may wait for a file."""
import os, time
from headrace.server import Model, ModelServer
from prometheus_client import Counter

ASKED = Counter("asked", "requests this model was asked")


class Counting(Model):
    def predict(self, payload, headers=None):
        ASKED.inc()
        wait_for = payload["instances"][0]
        if wait_for:
            open(f"{wait_for}.{os.getpid()}.{time.monotonic_ns()}", "w").close()
            while not os.path.exists(wait_for):
                time.sleep(0.01)
        return {"predictions": [os.getpid()]}


model = Counting("m")
model.load()
ModelServer().start([model])
'''


def ask(server: ServerProcess, path: str, body: object = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{server.url}{path}", data, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()
    except OSError as err:
        return 0, type(err).__name__


def predict(server: ServerProcess, wait_for: str = "") -> tuple[int, str]:
    return ask(server, "/v1/models/m:predict", {"instances": [wait_for]})


def readiness(server: ServerProcess) -> tuple[int, str | None]:
    """Status and `Connection` header."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=30)
    connection.request("GET", "/v2/health/ready")
    with contextlib.closing(connection), connection.getresponse() as answer:
        return answer.status, answer.getheader("Connection")


def workers(server: ServerProcess) -> set[int]:
    return {child.pid for child in psutil.Process(server.process.pid).children()}


def program(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    path.write_text(COUNTING)
    return (str(path),)


def metric(server: ServerProcess, name: str) -> float | None:
    status, text = ask(server, "/metrics")
    found = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0]) if status == 200 and found else None


def until_replaced(server: ServerProcess) -> None:
    """Ready means ready in every worker, so it is the sign that the new one serves."""
    while metric(server, "headrace_worker_restarts_total") != 1:
        assert server.process.poll() is None
    while ask(server, "/v2/health/ready")[0] != 200:
        assert server.process.poll() is None


def test_a_killed_worker_loses_only_its_own_requests(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        server_process("--workers", "2", program=program(tmp_path)) as server,
        ThreadPoolExecutor(8) as clients,
    ):
        before = workers(server)
        sent = [clients.submit(predict, server, str(gate)) for _ in range(8)]
        # one call at a time runs in each worker; the rest wait behind it
        while not (started := list(tmp_path.glob("gate.*"))):
            assert server.process.poll() is None
        victim = int(started[0].name.split(".")[1])
        os.kill(victim, signal.SIGKILL)
        while victim in workers(server):  # until its parent has seen it
            assert server.process.poll() is None
        gate.touch()
        answers = [each.result() for each in sent]
        lost = [each for each in answers if each[0] != 200]
        assert len(lost) >= 1
        assert all(status == 0 for status, _ in lost)  # the connection ended; no wrong answer
        assert all(
            json.loads(body)["predictions"] != [victim] for status, body in answers if status == 200
        )
        until_replaced(server)
        after = workers(server)
        assert victim in before
        assert len(after) == 2
        assert before - after == {victim}
        assert predict(server)[0] == 200


def test_metrics_and_statistics_are_of_all_workers(tmp_path: Path) -> None:
    with server_process("--workers", "2", program=program(tmp_path)) as server:
        answers = [predict(server) for _ in range(40)]
        assert {status for status, _ in answers} == {200}
        assert len({body for _, body in answers}) == 2  # both workers answered
        assert metric(server, "asked_total") == 40
        assert metric(server, 'request_predict_seconds_count{model_name="m"}') == 40
        rows = json.loads(ask(server, "/v2/models/stats")[1])["model_stats"]
        assert [row["inference_stats"]["success"]["count"] for row in rows] == [40]


def test_an_unload_reaches_every_worker_and_the_next_one(tmp_path: Path) -> None:
    with server_process("--workers", "2", program=program(tmp_path)) as server:
        assert ask(server, "/v2/repository/models/m/unload", {})[0] == 200
        assert {predict(server)[0] for _ in range(20)} == {503}
        os.kill(min(workers(server)), signal.SIGKILL)
        while metric(server, "headrace_worker_restarts_total") != 1:
            assert server.process.poll() is None
        while len(workers(server)) != 2 or ask(server, "/v2/health/ready")[0] != 200:
            assert server.process.poll() is None
        assert {predict(server)[0] for _ in range(20)} == {503}


def test_log_settings_reach_every_worker(tmp_path: Path) -> None:
    with server_process("--workers", "2", "--model", f"m=echo:{tmp_path}") as server:
        assert ask(server, "/v2/logging", {"log_verbose_level": 1})[0] == 200
        told = [json.loads(ask(server, "/v2/logging")[1]) for _ in range(20)]
        assert {each["log_verbose_level"] for each in told} == {1}


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    with server_process("--workers", "2", "--model", f"m=echo:{tmp_path}") as server:
        children = psutil.Process(server.process.pid).children()
        server.process.kill()
        _, alive = psutil.wait_procs(children, timeout=15)
        assert alive == []


def test_sigterm_drains_every_worker(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flags = ["--workers", "2", "--drain_delay", "1"]
    with (
        server_process(*flags, program=program(tmp_path)) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        sent = [clients.submit(predict, server, str(gate)) for _ in range(4)]
        while not list(tmp_path.glob("gate.*")):
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        while (told := readiness(server))[0] == 200:
            assert server.process.poll() is None
        assert told == (503, "close")  # so clients go elsewhere
        gate.touch()
        assert {each.result()[0] for each in sent} == {200}
        assert server.process.wait(20) == 0


ONCE_ONLY = '''
"""A repository whose load works in the first process that tries, and in no other."""
import os

from headrace.server import Model, ModelRepository, ModelServer


class Versioned(Model):
    number = 1

    def predict(self, payload, headers=None):
        return {"predictions": [self.number]}


class OnceOnly(ModelRepository):
    def load(self, name):
        os.close(os.open(os.environ["MARKER"], os.O_CREAT | os.O_EXCL))
        model = Versioned(name)
        model.number = 2
        model.load()
        self.update(model)
        return True


model = Versioned("v")
model.load()
ModelServer(registered_models=OnceOnly()).start([model])
'''


def test_a_load_that_fails_in_one_worker_is_undone_in_all(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ONCE_ONLY)
    marker = tmp_path / "marker"
    flags = ["--workers", "2", "--allow_repository"]
    program = (str(tmp_path / "program.py"),)
    with server_process(*flags, program=program, env={"MARKER": str(marker)}) as server:
        status, body = ask(server, "/v2/repository/models/v/load", {})
        assert status == 500
        assert json.loads(body)["error"] == (
            "Model with name v did not load: FileExistsError : [Errno 17] File exists: "
            f"'{marker}'; what was loaded before goes on serving"
        )
        assert marker.exists()  # one worker did load it
        asked = [ask(server, "/v1/models/v:predict", {"instances": [1]}) for _ in range(20)]
        assert set(asked) == {(200, '{"predictions":[1]}')}
        assert ask(server, "/v2/health/ready")[0] == 200
