"""Where a server listens: bound sockets, and the TLS on them, from the settings."""

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from headrace.server.settings import Settings

UNIX = "unix:"
BACKLOG = 1024
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}  # s, s, probes
NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def bind(settings: Settings, port: int, protocol: str, flag: str) -> list[socket.socket]:
    """Sockets of every address of --host on one port; port 0 takes a free one.

    Raises OSError naming the address and flag.
    """
    if settings.host.startswith(UNIX):
        return [bind_unix(settings.host.removeprefix(UNIX))]
    host = settings.host.strip("[]")
    families = [socket.AF_INET6 if ":" in host else socket.AF_INET]
    if not host and socket.has_ipv6:
        families.append(socket.AF_INET6)
    sockets: list[socket.socket] = []
    for family in families:
        try:
            sockets.append(_listening(host, port, family, settings.workers > 1))
        except OSError as err:
            if sockets and err.errno in NO_IPV6:
                continue
            for each in sockets:
                each.close()
            raise OSError(
                err.errno,
                f"cannot listen on {settings.host or '*'}:{port} for {protocol}: "
                f"{os.strerror(err.errno or 0)}; choose another with {flag} or --host",
            ) from err
        port = sockets[0].getsockname()[1]
    return sockets


def _listening(
    host: str, port: int, family: socket.AddressFamily, is_shared: bool
) -> socket.socket:
    """A socket whose connections the kernel probes: a client whose machine is gone is noticed."""
    found = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=is_shared)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEP_ALIVE.items():
        if hasattr(socket, option):  # macOS has other names
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return found


def bind_unix(path: str) -> socket.socket:
    """A socket that only this user may connect to; a left-over one is replaced, one in use is not.

    Raises OSError.
    """
    where = Path(path)
    if where.exists() and not where.is_socket():
        raise OSError(f"cannot listen on --host {UNIX}{path}: it exists and is not a socket")
    if where.is_socket() and _answers(path):
        raise OSError(f"cannot listen on --host {UNIX}{path}: another server listens there")
    found = socket.socket(socket.AF_UNIX)
    try:
        where.unlink(missing_ok=True)
        found.bind(path)
        where.chmod(0o600)
        found.listen(BACKLOG)
    except OSError as err:
        found.close()
        raise OSError(f"cannot listen on --host {UNIX}{path}: {err}") from err
    found.setblocking(False)
    return found


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(1.0)
        try:
            asked.connect(path)
        except OSError as err:
            return isinstance(err, TimeoutError)  # its backlog is full
    return True


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
