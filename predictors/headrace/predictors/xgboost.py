"""XGBoost boosters in their native formats: `.bst`, `.json` and `.ubj`.

As KServe's server: `Booster.predict` on a DMatrix, one output, `output-0`. `options.threads` is
xgboost's `nthread`, of the booster and of the matrix.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.server import LoadOptions, ModelLoadError, PredictorFormat, Tensor, TensorSpec, tables


class XgboostPredictor:
    def __init__(self, xgboost: Any, booster: Any, threads: int) -> None:
        self._xgboost = xgboost
        self._booster = booster
        self._threads = threads
        self._columns = list(booster.feature_names or [])
        count = int(booster.num_features())
        self.inputs: Sequence[TensorSpec] = [tables.table(count, self._columns)]
        self.outputs: Sequence[TensorSpec] = tables.probed(self.predict, self.inputs)

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        matrix = self._xgboost.DMatrix(
            tables.to_matrix(inputs, self._columns),
            nthread=self._threads,
            feature_names=self._columns or None,
            feature_types=self._booster.feature_types,
        )
        return [Tensor("output-0", self._booster.predict(matrix))]


def load(path: Path, options: LoadOptions) -> XgboostPredictor:
    """Raises ModelLoadError for a file xgboost does not take."""
    try:
        import xgboost
    except ImportError as err:
        raise ModelLoadError(
            "XGBoost models need xgboost: pip install 'headrace[xgboost]'"
        ) from err
    try:
        booster = xgboost.Booster({"nthread": options.threads})
        booster.load_model(bytearray(path.read_bytes()))  # by content: it knows no `.bst`
        booster.set_param({"nthread": options.threads})
    except Exception as err:
        reason = str(err).splitlines()[0]
        raise ModelLoadError(f"{path}: xgboost cannot load it: {reason}") from err
    return XgboostPredictor(xgboost, booster, options.threads)


def claims(path: Path) -> bool:
    """A `.ubj`; a `.bst` that is not LightGBM's; a `.json` only if it holds `learner`."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            return False
        return isinstance(content, dict) and "learner" in content
    if suffix == ".bst":
        with path.open("rb") as file:
            return file.read(4) != b"tree"
    return suffix == ".ubj"


FORMAT = PredictorFormat("xgboost", load, (".bst", ".json", ".ubj"), claims=claims)
