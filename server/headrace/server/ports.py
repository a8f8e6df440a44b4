"""Where a server listens: bound sockets, and the TLS on them, from the settings."""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from tornado.netutil import bind_sockets, bind_unix_socket

from headrace.server.settings import Settings

UNIX = "unix:"
BACKLOG = 1024


def bind(settings: Settings, port: int, protocol: str, flag: str) -> list[socket.socket]:
    """Sockets of every address of --host on one port; port 0 takes a free one.

    Raises OSError naming the address and flag.
    """
    if settings.host.startswith(UNIX):
        return [bind_unix(settings.host.removeprefix(UNIX))]
    host = settings.host.strip("[]") or None
    family = socket.AF_UNSPEC if host is None or ":" in host else socket.AF_INET
    try:
        return bind_sockets(
            port,
            host,
            family=family,
            backlog=BACKLOG,
            reuse_port=settings.workers > 1,
        )
    except OSError as err:
        raise OSError(
            err.errno,
            f"cannot listen on {settings.host or '*'}:{port} for {protocol}: "
            f"{err.strerror}; choose another with {flag} or --host",
        ) from err


def bind_unix(path: str) -> socket.socket:
    """A socket that only this user may connect to; a left-over one is replaced."""
    where = Path(path)
    if where.exists() and not where.is_socket():
        raise OSError(f"cannot listen on --host {UNIX}{path}: it exists and is not a socket")
    try:
        return bind_unix_socket(path, mode=0o600, backlog=BACKLOG)
    except OSError as err:
        raise OSError(f"cannot listen on --host {UNIX}{path}: {err}") from err


def tls_context(settings: Settings, protocols: Sequence[str]) -> ssl.SSLContext | None:
    """Of --ssl_certfile, None without; protocols: what ALPN offers."""
    if not settings.ssl_certfile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    if settings.ssl_ca_certs:
        context.load_verify_locations(settings.ssl_ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(list(protocols))
    return context
