"""LightGBM boosters saved as text.

As KServe's server: `Booster.predict`, one output, `output-0`. `options.threads` is `num_threads`,
given with every call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.server import LoadOptions, ModelLoadError, PredictorFormat, Tensor, TensorSpec, tables


class LightgbmPredictor:
    def __init__(self, booster: Any, threads: int) -> None:
        self._booster = booster
        self._threads = threads
        names = list(booster.feature_name())
        is_unnamed = names == [f"Column_{i}" for i in range(len(names))]  # LightGBM's own
        self._columns = [] if is_unnamed else names
        self.inputs: Sequence[TensorSpec] = [tables.table(len(names), self._columns)]
        self.outputs: Sequence[TensorSpec] = tables.probed(self.predict, self.inputs)

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        rows = tables.to_matrix(inputs, self._columns)
        return [Tensor("output-0", self._booster.predict(rows, num_threads=self._threads))]


def load(path: Path, options: LoadOptions) -> LightgbmPredictor:
    """Raises ModelLoadError for a file LightGBM does not take."""
    try:
        import lightgbm
    except ImportError as err:
        raise ModelLoadError(
            "LightGBM models need lightgbm: pip install 'headrace[lightgbm]'"
        ) from err
    if not is_text_model(path):
        raise ModelLoadError(f"{path}: not a LightGBM model, which begins with 'tree'")
    try:
        booster = lightgbm.Booster(model_file=str(path))
    except Exception as err:
        raise ModelLoadError(f"{path}: LightGBM cannot load it: {err}") from err
    return LightgbmPredictor(booster, options.threads)


def is_text_model(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"tree"


def claims(path: Path) -> bool:
    """A `.bst` or `.txt` that begins as LightGBM's text does."""
    return path.suffix.lower() in (".bst", ".txt") and is_text_model(path)


FORMAT = PredictorFormat("lightgbm", load, (".bst",), claims=claims)
