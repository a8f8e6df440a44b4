"""The HTTP port with TLS, with clients' certificates, and as a Unix socket."""

import asyncio
import ssl
import subprocess
from http.client import BadStatusLine
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.server.settings import Settings, SettingsError
from tests.server.rest.client import parse, request
from tests.server.rest.models import usual
from tests.serving import running

PREDICT = request("POST", "/v1/models/m%20x:predict", b'{"instances":[[1]]}')


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate for localhost that signed itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


async def predicted(port: int, context: ssl.SSLContext) -> Any:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    writer.write(PREDICT)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return parse(received).json()


def test_tls(files: dict[str, str]) -> None:
    async def run() -> Any:
        given: dict[str, Any] = files
        async with running(*usual(), enable_grpc=False, **given) as server:
            context = ssl.create_default_context(cafile=files["ssl_certfile"])
            return await predicted(server.ports.http, context)

    assert asyncio.run(run()) == {"predictions": [[1]]}


def test_only_clients_with_a_certificate_that_the_ca_signed(files: dict[str, str]) -> None:
    async def run(root: bytes, private: bytes) -> None:
        certificate, key = files["ssl_certfile"], files["ssl_keyfile"]
        given: dict[str, Any] = {**files, "ssl_ca_certs": certificate}
        async with running(*usual(), **given) as server:
            context = ssl.create_default_context(cafile=certificate)
            with pytest.raises((OSError, BadStatusLine)):  # hung up on, early or late
                await predicted(server.ports.http, context)
            context.load_cert_chain(certificate, key)
            assert await predicted(server.ports.http, context) == {"predictions": [[1]]}
            with pytest.raises(grpc.aio.AioRpcError):
                await live(server.ports.grpc, grpc.ssl_channel_credentials(root))
            both = grpc.ssl_channel_credentials(root, private, root)
            assert await live(server.ports.grpc, both) == b"\x08\x01"

    asyncio.run(run(*(Path(file).read_bytes() for file in files.values())))


async def live(port: int | None, credentials: Any) -> bytes:
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        answer: bytes = await call(b"", timeout=10)
        return answer


def test_grpc_on_the_http_port_over_tls(files: dict[str, str]) -> None:
    """Clients that speak HTTP/1.1 as well, as curl and browsers do, are given that: it has REST."""

    async def run(root: bytes) -> None:
        given: dict[str, Any] = files
        async with running(*usual(), **given) as server:
            port = server.ports.http
            assert await live(port, grpc.ssl_channel_credentials(root)) == b"\x08\x01"
            context = ssl.create_default_context(cafile=files["ssl_certfile"])
            context.set_alpn_protocols(["h2", "http/1.1"])
            assert await predicted(port, context) == {"predictions": [[1]]}

    asyncio.run(run(Path(files["ssl_certfile"]).read_bytes()))


def test_a_unix_socket(tmp_path: Path) -> None:
    """HTTP and gRPC on one, which only its owner may open; a left-over one is replaced."""

    async def run() -> None:
        path = tmp_path / "headrace.sock"
        for _ in range(2):
            async with running(*usual(), host=f"unix:{path}") as server:
                assert server.ports.http == 0
                assert path.stat().st_mode & 0o777 == 0o600
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(PREDICT)
                assert parse(await reader.read()).json() == {"predictions": [[1]]}
                writer.close()
                await writer.wait_closed()
                async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                    call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                    assert await call(b"", timeout=10) == b"\x08\x01"

    asyncio.run(run())


def test_a_unix_socket_goes_with_its_server_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "headrace.sock"

    async def run() -> None:
        async with running(*usual(), host=f"unix:{path}"):
            with pytest.raises(OSError, match="another server listens there"):
                async with running(*usual(), host=f"unix:{path}"):
                    pass
            assert path.is_socket()
        assert not path.exists()

    asyncio.run(run())


def test_what_lies_where_the_socket_should(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")

    async def run() -> None:
        async with running(*usual(), enable_grpc=False, host=f"unix:{path}"):
            pass

    with pytest.raises(OSError, match="cannot listen on --host unix:") as caught:
        asyncio.run(run())
    assert "exists and is not a socket" in str(caught.value)
    assert path.read_text() == "mine"


def test_a_unix_socket_has_one_worker() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_sources(["--host", "unix:/x.sock", "--workers", "2"], {})
    assert str(caught.value) == (
        "--host unix:/x.sock: a Unix socket has one listener, --workers 2 needs a port; "
        "drop one of them"
    )
