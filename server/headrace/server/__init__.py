"""The model server's public names: what a custom model or a predictor file imports.

KServe's names are here flat, with KServe's signatures (data-plane contract §6): user code changes
its import lines and nothing else. Nothing here imports tornado, grpc, aiohttp or pandas;
`ModelServer.start` and `python -m headrace.server` do. `parser` and `args` read the command line
when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from headrace.server import errors, model_server, tables
from headrace.server.batch_work import RowErrors
from headrace.server.errors import (
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ModelMissingError,
    ModelNotFound,
    ModelNotReady,
    NoModelReady,
    ServerNotLive,
    ServerNotReady,
    ServingError,
    UnsupportedProtocol,
    UntrustedModel,
    WorkersShouldBeLessThanMaxWorkersError,
)
from headrace.server.hooks import InferenceVerb
from headrace.server.infer_types import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    RequestedOutput,
)
from headrace.server.model import Model
from headrace.server.model_batching import Batching
from headrace.server.model_repository import ModelRepository
from headrace.server.model_server import ModelServer
from headrace.server.pickles import load_pickle
from headrace.server.placement import GpuUse
from headrace.server.predict_io import (
    generate_uuid,
    get_predict_input,
    get_predict_response,
    strtobool,
    to_headers,
)
from headrace.server.predictor import LoadOptions, Predictor, PredictorFormat
from headrace.server.predictor_config import PredictorConfig, PredictorProtocol
from headrace.server.settings import cpu_count
from headrace.server.shared_hooks import BatchHeaders
from headrace.server.tensor import Datatype, Tensor, TensorSpec

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    args: Namespace
    parser: ArgumentParser

__all__ = [
    "BatchHeaders",
    "Batching",
    "Datatype",
    "GpuUse",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceError",
    "InferenceVerb",
    "InvalidInput",
    "LoadOptions",
    "Model",
    "ModelLoadError",
    "ModelMissingError",
    "ModelNotFound",
    "ModelNotReady",
    "ModelRepository",
    "ModelServer",
    "NoModelReady",
    "Predictor",
    "PredictorConfig",
    "PredictorFormat",
    "PredictorProtocol",
    "RequestedOutput",
    "RowErrors",
    "ServerNotLive",
    "ServerNotReady",
    "ServingError",
    "Tensor",
    "TensorSpec",
    "UnsupportedProtocol",
    "UntrustedModel",
    "WorkersShouldBeLessThanMaxWorkersError",
    "args",
    "cpu_count",
    "errors",
    "generate_uuid",
    "get_predict_input",
    "get_predict_response",
    "load_pickle",
    "model_server",
    "parser",
    "strtobool",
    "tables",
    "to_headers",
]


def __getattr__(name: str) -> Any:
    if name in ("args", "parser"):
        return getattr(model_server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
