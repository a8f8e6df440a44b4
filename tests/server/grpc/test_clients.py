"""The clients people have, each in its own environment, against our gRPC (contract §12, 1 and 2).

The environments are .venv/clients/{kserve,triton,mlserver}; together they also hold both ends of
the protobuf range we promise.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.server.repository import ServedModel
from tests.server.grpc.client import Counts, Double, Mirror
from tests.server.grpc.envoy import envoy
from tests.serving import running, served

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "tests/clients/scripts"


class Shelf:
    """What can be loaded: "good" from the start, "shelved" is taken down by the test."""

    def names(self) -> Sequence[str]:
        return ["good", "shelved"]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        return [served(name, Double())]


async def run(environment: str, script: str, *arguments: str) -> str:
    """The script's output; its error text is the assertion's if it fails."""
    python = ROOT / ".venv/clients" / environment / "bin/python"
    process = await asyncio.create_subprocess_exec(
        *[str(python), str(SCRIPTS / script), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("road", ["direct", "through Envoy and its HTTP/1.1 bridge"])
@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_an_unchanged_client_gets_what_it_expects(
    client: str, road: str, caplog: pytest.LogCaptureFixture
) -> None:
    """caplog: it puts back the log level that tritonclient changes in this process."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        models = (
            served("m", Double()),
            served("mirror", Mirror()),
            ServedModel("counts", Counts()),
        )
        async with running(*models, loader=Shelf()) as server:
            await server.repository.unload("shelved")
            script = f"grpc_{client}.py"
            if road == "direct":
                await run(client, script, f"127.0.0.1:{server.ports.grpc}")
                return
            assert server.ports.grpc is not None
            with envoy(server.ports.http, server.ports.grpc) as address:
                await run(client, script, address)

    asyncio.run(main())


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize(
    ("environment", "package", "protobuf"),
    [
        ("mlserver", "mlserver", "5.27.2"),
        ("kserve", "kserve", "6."),
        ("triton", "tritonclient", "7."),
    ],
)
def test_a_client_package_may_share_our_process(
    environment: str, package: str, protobuf: str, first: str
) -> None:
    """In either order of imports, and an inference works; with each protobuf that we promise."""
    out = asyncio.run(run(environment, "grpc_beside.py", package, first))
    assert out.strip().splitlines()[-1].startswith(protobuf)
