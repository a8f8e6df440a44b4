"""The port: TLS, the private Unix socket, addresses, and a stop that loses nothing."""

import asyncio
import datetime
import ipaddress
import os
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from headrace.server.control import LocalControl
from headrace.server.dataplane import DataPlane
from headrace.server.execution import Mode
from headrace.server.grpc import codec
from headrace.server.grpc.calls import STOPPING
from headrace.server.grpc.listener import GrpcListener, server_options
from headrace.server.metrics import InferenceMetrics
from headrace.server.repository import Repository
from headrace.server.request import Request
from tests.server.grpc.client import Blocks, Client, Double, connected, fp32, status_of
from tests.server.grpc.test_streaming import until
from tests.serving import running, served, settings

REQUEST = Request("m", [fp32([1, 2])])


def listener(**given: Any) -> GrpcListener:

    repository = Repository()
    repository.add(served("m", Double()))
    plane = DataPlane(repository, InferenceMetrics(CollectorRegistry()))
    return GrpcListener(plane, LocalControl(repository), settings(**given))


async def infer_at(address: str) -> list[list[float]]:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await Client(channel).infer(REQUEST)
        return list(answer.outputs[0].array.tolist())


def test_the_unix_socket_serves_the_same_and_is_this_users_alone() -> None:
    async def main() -> None:
        grpc_ = listener()
        await grpc_.start()
        assert grpc_.unix_address is not None
        socket = Path(grpc_.unix_address)
        assert await infer_at(f"unix:{socket}") == [[2, 4]]
        folder = socket.parent.stat()
        assert (stat.S_IMODE(folder.st_mode), folder.st_uid) == (0o700, os.getuid())
        await grpc_.stop(0)
        assert not socket.parent.exists()

    asyncio.run(main())


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0", "localhost"])
def test_it_listens_where_host_says(host: str) -> None:
    async def main() -> None:
        grpc_ = listener(host=host)
        port = await grpc_.start()
        assert await infer_at(f"127.0.0.1:{port}") == [[2, 4]]
        await grpc_.stop(0)

    asyncio.run(main())


def test_a_taken_port_is_named_with_its_flag() -> None:
    async def main() -> None:
        first = listener()
        port = await first.start()
        second = listener(grpc_port=port)
        with pytest.raises(OSError, match="cannot listen") as caught:
            await second.start()
        assert str(caught.value) == (
            f"cannot listen on 127.0.0.1:{port} for gRPC: the port is taken or the address is "
            "not ours; choose another with --grpc_port or --host, or --enable_grpc false"
        )
        assert second.unix_address is None
        await first.stop(0)

    asyncio.run(main())


def test_two_processes_worth_of_listeners_share_a_port_with_workers() -> None:
    async def main() -> None:
        first = listener(workers=2)
        port = await first.start()
        second = listener(workers=2, grpc_port=port)
        assert await second.start() == port
        await first.stop(0)
        assert await infer_at(f"127.0.0.1:{port}") == [[2, 4]]
        await second.stop(0)

    asyncio.run(main())


def test_tls_serves_with_the_given_files(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)

    async def main() -> None:
        grpc_ = listener(ssl_certfile=str(certificate), ssl_keyfile=str(key))
        port = await grpc_.start()
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            answer = await Client(channel).infer(REQUEST)
            assert answer.outputs[0].array.tolist() == [[2, 4]]
        assert await infer_at(f"unix:{grpc_.unix_address}") == [[2, 4]]
        await grpc_.stop(0)

    asyncio.run(main())


def test_stopping_finishes_what_runs_and_refuses_what_comes() -> None:
    async def main() -> None:
        slow = Blocks()
        model = served("m", slow, Mode.THREAD)
        async with running(model) as server, connected(server) as client:
            message = codec.encode_request(Request("m", [fp32([1])]))
            call = client.infer_call(message)
            await until(slow.started.is_set)
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.control.is_draining)
            slow.may_end.set()
            assert codec.decode_response(await call).outputs[0].array.tolist() == [[1]]
            await stopping
            assert (await status_of(client.infer_call(message)))[0] == "UNAVAILABLE"

    asyncio.run(main())


def test_what_does_not_end_within_the_grace_ends_unavailable() -> None:
    async def main() -> None:
        slow = Blocks()
        grpc_ = listener()
        grpc_.plane.repository.add(served("slow", slow, Mode.THREAD))
        port = await grpc_.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = Client(channel).infer_call(codec.encode_request(Request("slow", [fp32([1])])))
            await until(slow.started.is_set)
            await grpc_.stop(0.05)
            assert await status_of(call) == ("UNAVAILABLE", STOPPING)
        slow.may_end.set()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "options"),
    [
        pytest.param(
            {},
            {
                "grpc.max_receive_message_length": 1 << 30,
                "grpc.max_send_message_length": -1,
                "grpc.so_reuseport": 0,
                "grpc.max_metadata_size": 65536,
            },
            id="by default: 1 GiB in, no limit out",
        ),
        pytest.param(
            {"max_body_bytes": 0, "workers": 2},
            {"grpc.max_receive_message_length": -1, "grpc.so_reuseport": 1},
            id="no limit; workers share the port",
        ),
        pytest.param(
            {"grpc_max_receive_message_length": 8388608, "grpc_max_send_message_length": 1024},
            {"grpc.max_receive_message_length": 8388608, "grpc.max_send_message_length": 1024},
            id="KServe's flags",
        ),
        pytest.param(
            {"max_body_bytes": 1 << 40},
            {"grpc.max_receive_message_length": 2**31 - 1},
            id="more than gRPC can count",
        ),
    ],
)
def test_settings_become_channel_arguments(given: dict[str, Any], options: dict[str, int]) -> None:
    found = dict(server_options(settings(**given)))
    assert {name: found.get(name) for name in options} == options


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "tls.crt", folder / "tls.key"
