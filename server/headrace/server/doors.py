"""Operator calls that a client may make only where the operator opened the door (contract §8)."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from headrace.server.errors import InvalidInput, PermissionDenied
from headrace.server.settings import Settings


def check_repository(settings: Settings) -> None:
    """Raises PermissionDenied where models may not be loaded or unloaded over the network."""
    allowed = settings.allow_repository
    if allowed is None:
        allowed = is_loopback(settings.host)
    if not allowed:
        raise PermissionDenied(
            "loading and unloading models over the network is off; "
            "start the server with --allow_repository, or bind it to loopback (--host 127.0.0.1)"
        )


def check_load(settings: Settings, parameters: Mapping[str, Any]) -> None:
    """`check_repository`, and the rules of a load request's parameters (contract §4.1).

    Raises InvalidInput for a parameter there is not, or files without a config; PermissionDenied
    for files where uploads are off.
    """
    check_repository(settings)
    files = [key for key in parameters if key.startswith("file:")]
    for key in parameters:
        if key != "config" and key not in files:
            raise InvalidInput(
                f"unknown load parameter '{key}'; expected 'config' or 'file:<path>'"
            )
    if files and not settings.allow_file_upload:
        raise PermissionDenied(
            f"'{files[0]}': uploading model files is off; "
            "start the server with --allow_file_upload (it runs what it is sent)"
        )
    if files and "config" not in parameters:
        raise InvalidInput(f"'{files[0]}': files need a 'config' parameter beside them")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach what is bound to host; "" binds every address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
