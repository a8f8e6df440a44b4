"""MLflow model folders: the flavour is read from the MLmodel file and loaded by our own predictor.

sklearn, xgboost, lightgbm, onnx and pytorch are loaded under the rules of those predictors: a
pickled estimator goes through the allow list, a pickled torch module is refused. A folder that has
only `python_function` runs code of its own and needs --trust-code and MLflow itself.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from headrace.predictors import lightgbm, onnx, sklearn, torch, xgboost
from headrace.server import (
    GpuUse,
    InvalidInput,
    LoadOptions,
    Model,
    ModelLoadError,
    Predictor,
    PredictorFormat,
    Tensor,
    TensorSpec,
    UntrustedModel,
    tables,
)

MLMODEL = "MLmodel"
PYFUNC = "python_function"
# flavour → the keys of its block that name the file, and the predictor
FLAVOURS: Mapping[str, tuple[tuple[str, ...], PredictorFormat]] = {
    "sklearn": (("pickled_model",), sklearn.FORMAT),
    "xgboost": (("data",), xgboost.FORMAT),
    "lightgbm": (("data",), lightgbm.FORMAT),
    "onnx": (("data",), onnx.FORMAT),
    "pytorch": (("model_data", "data"), torch.FORMAT),
}


class PyfuncPredictor:
    """A folder that only MLflow itself can run."""

    platform = "mlflow"
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, model: Any) -> None:
        self._model = model
        schema = model.metadata.get_input_schema()
        self._columns = (
            schema.input_names() if schema is not None and schema.has_input_names() else []
        )

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self._columns:
            rows = tables.to_frame(inputs, self._columns)
        elif len(inputs) == 1:
            rows = tables.to_numpy(inputs[0])
        else:
            raise InvalidInput(
                f"the MLflow model names no columns, so it takes one input, got {len(inputs)}"
            )
        result = self._model.predict(rows)
        return [Tensor("output-0", np.asarray(result))]


def load(path: Path, options: LoadOptions) -> Predictor | Model:
    """Raises ModelLoadError naming the flavours found, UntrustedModel for code not trusted."""
    flavours = read_flavours(path)
    for name, (keys, model_format) in FLAVOURS.items():
        if name in flavours:
            file = _file(path, name, flavours[name], keys)
            return model_format.load(file, options)
    if PYFUNC not in flavours:
        raise ModelLoadError(
            f"{path / MLMODEL}: none of the flavours {sorted(flavours)} is served; "
            f"expected one of {', '.join(FLAVOURS)} or {PYFUNC}"
        )
    return _pyfunc(path, options)


def read_flavours(path: Path) -> dict[str, dict[str, Any]]:
    """Raises ModelLoadError for a folder without a readable MLmodel."""
    try:
        content = yaml.safe_load((path / MLMODEL).read_text())
    except (OSError, yaml.YAMLError) as err:
        raise ModelLoadError(f"{path / MLMODEL}: {err}") from err
    flavours = content.get("flavors") if isinstance(content, dict) else None
    if not isinstance(flavours, dict):
        raise ModelLoadError(f"{path / MLMODEL}: expected a mapping with 'flavors'")
    return {str(name): block or {} for name, block in flavours.items()}


def _file(path: Path, flavour: str, block: Mapping[str, Any], keys: Sequence[str]) -> Path:
    named = next((block[key] for key in keys if block.get(key)), None)
    if named is None:
        raise ModelLoadError(
            f"{path / MLMODEL}: flavour {flavour} names no model file; expected {' or '.join(keys)}"
        )
    file = (path / str(named)).resolve()
    if not file.is_relative_to(path.resolve()):
        raise ModelLoadError(f"{path / MLMODEL}: {named!r} is outside the folder")
    if file.is_dir():  # pytorch: data/model.pth, onnx with external data
        suffixes = FLAVOURS[flavour][1].extensions
        found = sorted(each for each in file.iterdir() if each.suffix.lower() in suffixes)
        if len(found) != 1:
            names = [each.name for each in found] or "none"
            raise ModelLoadError(f"{file}: expected one model file of {flavour}, found {names}")
        return found[0]
    if file.suffix == ".skops":  # the block says skops of a booster saved as text too
        raise ModelLoadError(
            f"{file}: saved with skops, which is not read here; "
            "log the model with serialization_format='cloudpickle' or 'pickle'"
        )
    return file


def _pyfunc(path: Path, options: LoadOptions) -> PyfuncPredictor:
    if not options.trust_code:
        raise UntrustedModel(
            f"{path}: only the flavour {PYFUNC} is there, which runs code of the folder; "
            "start with --trust-code (in a manifest: args: [--trust-code])"
        )
    try:
        from mlflow import pyfunc
    except ImportError as err:
        raise ModelLoadError(
            f"the flavour {PYFUNC} needs mlflow: pip install 'headrace[mlflow]'"
        ) from err
    return PyfuncPredictor(pyfunc.load_model(str(path)))


FORMAT = PredictorFormat(
    "mlflow",
    load,
    claims=lambda path: (path / MLMODEL).is_file(),
    wants_folder=True,
    gpu=GpuUse.AUTO,
)
