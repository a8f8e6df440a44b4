"""The gRPC port: grpc.aio over the inference, health and reflection services.

It listens on the TCP port and on a Unix socket only this user can reach; the HTTP port hands
HTTP/2 connections to the latter (`unix_address`), so that one port serves both.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import grpc

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.grpc import health, inference, reflection
from headrace.server.grpc.admin import Admin
from headrace.server.grpc.calls import Calls
from headrace.server.grpc.fields import message_sizes
from headrace.server.grpc.health import Health
from headrace.server.grpc.inference import Inference
from headrace.server.grpc.native import NativeServer
from headrace.server.grpc.reflection import Reflection
from headrace.server.grpc.streaming import StreamInfer
from headrace.server.ports import UNIX, bind, tls_context
from headrace.server.settings import GrpcServer, Settings

INT32_MAX = 2**31 - 1
MIN_PING_INTERVAL_MS = 10_000  # what gRPC clients are allowed to configure; Triton says 300 000
LAST_WORDS_S = 1.0  # for the statuses of the calls that stop() ends
MAX_SOCKET_PATH = 100  # the kernel takes 108


class GrpcListener:
    """start() returns the port; stop() ends what is open. unix_address: None until started."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.plane = plane
        self.control = control
        self.settings = settings
        self.unix_address: str | None = None
        self._calls = Calls()
        self._server: Any = None
        self.native: NativeServer | None = None
        self._folder: Path | None = None

    async def start(self) -> int:
        """Bind and serve. Raises OSError naming the address and the flag if it cannot be bound."""
        if self.settings.grpc_server is GrpcServer.NATIVE:
            return await self._start_native()
        self._server = grpc.aio.server(options=server_options(self.settings))
        for name, handlers in self._services().items():
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(name, handlers),)
            )
        try:
            port = self._bind()
            self._bind_socket()
        except BaseException:
            await self.stop(0)
            raise
        await self._server.start()
        return port

    async def _start_native(self) -> int:
        settings = self.settings
        self.native = NativeServer(
            self._services(),
            message_sizes(settings),
            settings.max_header_bytes,
            settings.header_timeout_s,
        )
        if settings.host.startswith(UNIX):
            return 0  # the HTTP socket takes gRPC too
        sockets = bind(settings, settings.grpc_port, "gRPC", "--grpc_port")
        await self.native.serve(sockets, tls_context(settings, ["h2"]))
        port: int = sockets[0].getsockname()[1]
        return port

    def drain(self) -> None:
        """Send clients elsewhere (GOAWAY) while calls go on; grpcio can only as it stops."""
        if self.native is not None:
            self.native.drain()

    async def stop(self, grace_s: float | None = None) -> None:
        """GOAWAY, no new calls; open ones have grace_s, then end UNAVAILABLE. Idempotent.

        grace_s None: the settings' grace period.
        """
        native, self.native = self.native, None
        if native is not None:
            self._calls.closing.set()
            await native.stop(
                self.settings.grace_period if grace_s is None else grace_s, self._calls
            )
        server, self._server = self._server, None
        if server is not None:
            await self._calls.refuse_new()
            await self._stop(server, self.settings.grace_period if grace_s is None else grace_s)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    async def _stop(self, server: Any, grace_s: float) -> None:
        """grpcio ends what is left with CANCELLED; ours is UNAVAILABLE, which clients retry."""
        stopping = asyncio.ensure_future(server.stop(grace_s + LAST_WORDS_S))
        await asyncio.wait([stopping], timeout=grace_s)
        self._calls.end_all()
        await stopping

    def _services(self) -> dict[str, dict[str, Any]]:
        calls = self._calls
        unary = Inference(self.plane, self.control, self.settings, self.settings.max_concurrency)
        parsed = {**unary.calls(), **Admin(self.plane, self.control, self.settings).calls()}
        names = [inference.SERVICE, health.SERVICE]
        names += [f"{package}.{reflection.NAME}" for package in reflection.PACKAGES]
        return {
            inference.SERVICE: {
                "ModelInfer": calls.unary_bytes(unary.model_infer),
                **{name: calls.unary("inference", name, call) for name, call in parsed.items()},
                **StreamInfer(unary, calls).handlers(),
            },
            health.SERVICE: Health(self.plane, self.control, self._calls).handlers(),
            **{
                f"{package}.{reflection.NAME}": Reflection(
                    package, tuple(names), self._calls
                ).handlers()
                for package in reflection.PACKAGES
            },
        }

    def _bind(self) -> int:
        """Every address where host is "": IPv6 and IPv4 in one socket, or IPv4 alone."""
        host, wanted = self.settings.host, self.settings.grpc_port
        if host.startswith("unix:"):
            return 0  # the HTTP socket takes gRPC too
        hosts = [f"[{host.strip('[]')}]" if ":" in host else host] if host else ["[::]", "0.0.0.0"]
        for each in hosts:
            try:
                port = self._add_port(f"{each}:{wanted}")
            except RuntimeError:
                continue
            if port:
                return port
        raise OSError(
            f"cannot listen on {hosts[-1]}:{wanted} for gRPC: the port is taken or the address is "
            "not ours; choose another with --grpc_port or --host, or --enable_grpc false"
        )

    def _add_port(self, address: str) -> int:
        certificate, key = self.settings.ssl_certfile, self.settings.ssl_keyfile
        if not certificate or not key:
            return int(self._server.add_insecure_port(address))
        ca_file = self.settings.ssl_ca_certs
        credentials = grpc.ssl_server_credentials(
            [(Path(key).read_bytes(), Path(certificate).read_bytes())],
            Path(ca_file).read_bytes() if ca_file else None,
            require_client_auth=bool(ca_file),
        )
        return int(self._server.add_secure_port(address, credentials))

    def _bind_socket(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="headrace-grpc-"))  # mode 0700
        path = folder / "grpc.sock"
        self._folder = folder
        if len(str(path)) <= MAX_SOCKET_PATH:
            self._server.add_insecure_port(f"unix:{path}")
            self.unix_address = str(path)


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """grpcio's channel arguments. Limits of 0 mean none."""
    sizes = message_sizes(settings)
    options = [
        ("grpc.max_receive_message_length", min(sizes.receive, INT32_MAX)),
        ("grpc.max_send_message_length", min(sizes.send, INT32_MAX)),
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.max_header_bytes:
        options += [
            ("grpc.max_metadata_size", settings.max_header_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ]
    return options
