"""Who may load and unload models over the network (contract §8 *open doors*)."""

from typing import Any

import pytest

from headrace.server import doors
from headrace.server.errors import PermissionDenied
from tests.serving import settings


@pytest.mark.parametrize(
    ("given", "is_open"),
    [
        pytest.param({"host": "127.0.0.1"}, True, id="bound to loopback"),
        pytest.param({"host": "::1"}, True, id="bound to IPv6 loopback"),
        pytest.param({"host": "localhost"}, True, id="bound to localhost"),
        pytest.param({"host": ""}, False, id="bound to every address"),
        pytest.param({"host": "0.0.0.0"}, False, id="bound to every IPv4 address"),
        pytest.param({"host": "10.1.2.3"}, False, id="bound to the network"),
        pytest.param({"host": "example.test"}, False, id="bound to a name"),
        pytest.param({"host": "", "allow_repository": True}, True, id="opened by the flag"),
        pytest.param({"host": "127.0.0.1", "allow_repository": False}, False, id="closed by it"),
    ],
)
def test_the_repository_door(given: dict[str, Any], is_open: bool) -> None:
    if is_open:
        doors.check_repository(settings(**given))
        return
    with pytest.raises(PermissionDenied):
        doors.check_repository(settings(**given))
