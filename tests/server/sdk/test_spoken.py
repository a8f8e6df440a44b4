"""Which REST protocol a forwarded payload is sent in: its own, whatever the flag says."""

import pytest

from headrace.server import PredictorConfig
from headrace.server.forwarding import spoken


@pytest.mark.parametrize(
    ("configured", "is_v2", "sent"),
    [
        pytest.param("v1", False, "v1", id="a V1 body to the V1 path"),
        pytest.param("v1", True, "v2", id="a V2 body never goes to the V1 path"),
        pytest.param("v2", False, "v1", id="nor a V1 body to the V2 path"),
        pytest.param("v2", True, "v2", id="a V2 body to the V2 path"),
        pytest.param("grpc-v2", False, "grpc-v2", id="gRPC is a port of its own"),
        pytest.param("grpc-v2", True, "grpc-v2", id="gRPC takes V2"),
    ],
)
def test_spoken(configured: str, is_v2: bool, sent: str) -> None:
    config = PredictorConfig("host", configured)
    assert spoken(config, is_v2).protocol == sent
    assert config.protocol == configured
