"""Real clients, each in its own environment, because their packages clash in one process."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.rest.models import Returning, model, usual
from tests.serving import running

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "tests/clients/scripts"
Y = [[2.0, 4.0]]
Y2 = [[2.0, 4.0], [6.0, 8.0]]
UNKNOWN = "Model with name zz does not exist."


def run_client(environment: str, script: str, address: str) -> Any:
    """What script printed. address: with {} for the port."""
    python = ROOT / ".venv/clients" / environment / "bin/python"
    if not python.exists():
        pytest.skip(f"no client environment {environment}")

    async def run() -> Any:
        models = [each for each in usual() if each.name != "nr"]
        async with running(*models, model(Returning()), enable_grpc=False) as server:
            process = await asyncio.create_subprocess_exec(
                str(python),
                str(SCRIPTS / script),
                address.format(server.ports.http),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert process.returncode == 0, err.decode()
            return json.loads(out)

    return asyncio.run(run())


def test_tritonclient() -> None:
    assert run_client("triton", "rest_tritonclient.py", "127.0.0.1:{}") == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "unknown_ready": False,
        "server": "headrace",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "config": "m",
        "json": Y2,
        "json in, binary out": Y2,
        "binary": Y2,
        "version": Y2,
        "gzip": Y2,
        "deflate": Y2,
        "bytes": ["a", "é"],
        "classes": ["4.000000:1", "8.000000:1"],
        "async": Y2,
        "statistics": "m",
        "index": ["m", "m x", "stats", "returning"],
        "log": "default",
        "trace": ["OFF"],
        "unknown model": f"404 {UNKNOWN}",
        "unknown load": f"404 {UNKNOWN}",
        "shared memory": "404 shared memory is not supported; "
        "send tensors in the body, as JSON or binary",
        "unload": None,
    }


def test_tritonclient_aio() -> None:
    assert run_client("triton", "rest_tritonclient_aio.py", "127.0.0.1:{}") == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "server": "headrace",
        "json": Y,
        "binary": Y,
        "gzip": Y,
        "index": ["m", "m x", "stats", "returning"],
        "log": "default",
        "unload": None,
        "unknown load": f"404 {UNKNOWN}",
    }


def test_kserve() -> None:
    found = run_client("kserve", "rest_kserve.py", "http://127.0.0.1:{}")
    unknown = found.pop("unknown")
    assert UNKNOWN in unknown
    assert found == {
        "v1 live": True,
        "live": True,
        "ready": True,
        "v1 model ready": True,
        "model ready": True,
        "v1": {"predictions": Y},
        "v1 explain": {"explanations": [[1, 2]]},
        "json": Y,
        "binary": Y,
        "binary out": Y,
    }
