"""`PredictorConfig`: where a transformer's or explainer's predictor is, and how it is spoken to.

KServe's class (data-plane contract §6.1, §6.5), and the one of this process: `ModelServer` and the
command line set it, every `Model` without one of its own uses it.
"""

from collections.abc import Sequence
from enum import Enum


class PredictorProtocol(Enum):
    REST_V1 = "v1"
    REST_V2 = "v2"
    GRPC_V2 = "grpc-v2"


class PredictorConfig:
    """predictor_host: host[:port], of the predictor that serves a model of the same name.

    forward_headers: request headers passed on besides the fixed list of forwarding.py.
    """

    def __init__(
        self,
        predictor_host: str,
        predictor_protocol: str = PredictorProtocol.REST_V1.value,
        predictor_use_ssl: bool = False,
        predictor_request_timeout_seconds: int = 600,
        predictor_request_retries: int = 0,
        predictor_health_check: bool = False,
        forward_headers: Sequence[str] = (),
    ) -> None:
        self.predictor_host = predictor_host
        self.predictor_protocol = predictor_protocol
        self.predictor_use_ssl = predictor_use_ssl
        self.predictor_request_timeout_seconds = predictor_request_timeout_seconds
        self.predictor_request_retries = predictor_request_retries
        self.predictor_health_check = predictor_health_check
        self.forward_headers = tuple(forward_headers)

    @property
    def protocol(self) -> str:
        return self.predictor_protocol

    @property
    def use_ssl(self) -> bool:
        return self.predictor_use_ssl

    @property
    def timeout(self) -> int:
        """Seconds, of one whole forwarded request."""
        return self.predictor_request_timeout_seconds

    @property
    def retries(self) -> int:
        return self.predictor_request_retries

    @property
    def predictor_base_url(self) -> str:
        return f"{'https' if self.use_ssl else 'http'}://{self.predictor_host}"

    def __repr__(self) -> str:
        return f"PredictorConfig({self.predictor_host!r}, {self.predictor_protocol!r})"


_of_process: PredictorConfig | None = None


def of_process() -> PredictorConfig | None:
    """What the command line or a `ModelServer` said; None where there is no predictor."""
    return _of_process


def set_of_process(config: PredictorConfig | None) -> None:
    global _of_process  # KServe's `Model.predictor_config` reads it from anywhere
    _of_process = config
