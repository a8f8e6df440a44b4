"""The README's blocks run as they stand, in order, in one empty folder; only ports are replaced."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PORTS = ("8080", "8081", "8090", "8091")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def on_free_ports(text: str) -> str:
    for documented, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        text = text.replace(documented, str(free))
    return text


@contextmanager
def shell_environment() -> Iterator[dict[str, str]]:
    """The environment of a shell in which .venv is active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, "PATH": path}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.timeout(180)
def test_the_shell_blocks(tmp_path: Path) -> None:
    """As one script; a block that fails ends it."""
    script = "set -e\n" + on_free_ports("\n".join(blocks("bash")))
    with shell_environment() as env, (tmp_path / "out").open("w+") as out:
        running = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=env,
            stdout=out,
            stderr=out,
            start_new_session=True,  # what a block leaves running ends with its session
        )
        try:
            code = running.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        out.seek(0)
        said = out.read()
    assert code == 0, said
    assert len(re.findall(r'"predictions":\s*\[', said)) == 2, said
    assert re.search(r'"outputs":\s*\[', said), said


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shares", [False, True], ids=["alone", "shares calls"])
def test_the_custom_model(shares: bool, tmp_path: Path) -> None:
    code, batched = blocks("python")
    if shares:
        main = code[code.index("if __name__") :]
        code = f"from headrace.server import ModelServer\n{batched}\n\n{main}"
    (tmp_path / "doubler.py").write_text(code)
    http_port, grpc_port = free_ports(2)
    flags = ["--http_port", str(http_port), "--grpc_port", str(grpc_port)]
    with shell_environment() as env:
        running = subprocess.Popen([sys.executable, "doubler.py", *flags], cwd=tmp_path, env=env)
        try:
            ask = ["curl", "--silent", "--fail", "--retry", "60", "--retry-delay", "1"]
            ask += ["--retry-all-errors", f"localhost:{http_port}/v1/models/doubler:predict"]
            body = ["-d", '{"instances": [1, 2]}']
            done = subprocess.run([*ask, *body], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout) == {"predictions": [2, 4]}
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == 0
