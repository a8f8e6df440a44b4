"""The model server's public names: what a custom model or a predictor file imports.

Nothing here imports tornado or grpc; `ModelServer.start` and `python -m headrace.server` do.
"""

from headrace.server.errors import (
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ModelMissingError,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    UntrustedModel,
)
from headrace.server.predictor import LoadOptions, Predictor, PredictorFormat
from headrace.server.tensor import Datatype, Tensor, TensorSpec

__all__ = [
    "Datatype",
    "InferenceError",
    "InvalidInput",
    "LoadOptions",
    "ModelLoadError",
    "ModelMissingError",
    "ModelNotFound",
    "ModelNotReady",
    "Predictor",
    "PredictorFormat",
    "ServingError",
    "Tensor",
    "TensorSpec",
    "UntrustedModel",
]
