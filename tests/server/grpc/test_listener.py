"""The port: TLS, addresses, and a stop that loses nothing."""

import asyncio
import datetime
import ipaddress
import socket
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
from headrace.server.grpc.errors import STOPPING
from headrace.server.grpc.listener import GrpcListener
from headrace.server.metrics import InferenceMetrics
from headrace.server.ports import bind
from headrace.server.repository import Repository, ServedModel
from headrace.server.request import Request
from tests.server.grpc.client import Blocks, Client, Double, connected, fp32, status_of
from tests.server.grpc.test_streaming import until
from tests.serving import running, served, settings

REQUEST = Request("m", [fp32([1, 2])])


def listener(*more: ServedModel, **given: Any) -> GrpcListener:
    repository = Repository()
    for model in (served("m", Double()), *more):
        repository.add(model)
    plane = DataPlane(repository, InferenceMetrics(CollectorRegistry()))
    return GrpcListener(plane, LocalControl(repository), settings(**given))


async def infer_at(address: str) -> list[list[float]]:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await Client(channel).infer(REQUEST)
        return list(answer.outputs[0].array.tolist())


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0", "localhost"])
def test_it_listens_where_host_says(host: str) -> None:
    async def main() -> None:
        grpc_ = listener(host=host)
        port = await grpc_.start()
        assert await infer_at(f"127.0.0.1:{port}") == [[2, 4]]
        await grpc_.stop(0)

    asyncio.run(main())


def test_the_kernel_notices_clients_that_are_gone() -> None:
    for each in bind(settings(), 0, "gRPC", "--grpc_port"):
        with each, socket.create_connection(each.getsockname()):
            accepted, _ = each.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_a_taken_port_is_named_with_its_flag() -> None:
    async def main() -> None:
        first = listener()
        port = await first.start()
        second = listener(grpc_port=port)
        with pytest.raises(OSError, match="cannot listen") as caught:
            await second.start()
        assert caught.value.strerror == (
            f"cannot listen on 127.0.0.1:{port} for gRPC: Address already in use; choose another "
            "with --grpc_port or --host"
        )
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
        await grpc_.stop(0)

    asyncio.run(main())


def test_a_tls_handshake_has_the_time_of_a_preface(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)

    async def main() -> None:
        given = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
        grpc_ = listener(header_timeout_s=0.05, **given)
        port = await grpc_.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
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
        grpc_ = listener(served("slow", slow, Mode.THREAD))
        port = await grpc_.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = Client(channel).infer_call(codec.encode_request(Request("slow", [fp32([1])])))
            await until(slow.started.is_set)
            await grpc_.stop(0.05)
            assert await status_of(call) == ("UNAVAILABLE", STOPPING)
        slow.may_end.set()

    asyncio.run(main())


def test_stopping_waits_until_a_large_answer_is_read() -> None:
    """It ends for us as it is written; the client's windows let it come later."""

    async def main() -> None:
        slow = Blocks()
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
        async with running(served("m", slow, Mode.THREAD)) as server:
            target = f"127.0.0.1:{server.ports.grpc}"
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                request = codec.encode_request(Request("m", [fp32([1.0] * 5_000_000)]))
                call = Client(channel).infer_call(request)
                await until(slow.started.is_set)
                stopping = asyncio.create_task(server.stop())
                await until(lambda: server.control.is_draining)
                slow.may_end.set()
                assert await status_of(call) == ("OK", "")
                await stopping

    asyncio.run(main())


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
