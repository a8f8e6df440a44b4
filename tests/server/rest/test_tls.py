"""The HTTP port with --ssl_certfile and --ssl_keyfile."""

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

from tests.server.rest.client import parse, request
from tests.server.rest.models import usual
from tests.serving import running


def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )

    async def run() -> bytes:
        files: dict[str, Any] = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
        async with running(*usual(), enable_grpc=False, **files) as server:
            context = ssl.create_default_context(cafile=certificate)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.ports.http, ssl=context, server_hostname="localhost"
            )
            writer.write(request("POST", "/v1/models/m%20x:predict", b'{"instances":[[1]]}'))
            received = await reader.read()
            writer.close()
            await writer.wait_closed()
            return received

    assert parse(asyncio.run(run())).json() == {"predictions": [[1]]}
