"""scikit-learn models saved with joblib or pickle, loaded through the allow list.

As KServe's server: `predict`, or with env PREDICT_PROBA `predict_proba`; one output, `output-0`.
The input is one table `input-0`; a model that knows its columns also takes one tensor per column,
or rows of objects over V1, and gets them as the DataFrame it was trained on.

Threads: every call runs with BLAS and OpenMP limited to `options.threads`, and an `n_jobs` stored
in the model is cut down to it.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.server import (
    InvalidInput,
    LoadOptions,
    ModelLoadError,
    PredictorFormat,
    Tensor,
    TensorSpec,
    load_pickle,
    tables,
)


class SklearnPredictor:
    def __init__(self, model: Any, call: Callable[[Any], Any], threads: int) -> None:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it has none

        self._call = call
        self._threads = threads
        self._pools = ThreadpoolController()
        self._limited = threading.local()  # OpenMP's limit is the calling thread's own
        names = getattr(model, "feature_names_in_", None)
        self._columns = [str(name) for name in names] if names is not None else []
        count = getattr(model, "n_features_in_", None)
        is_text = takes_text(model)
        self._is_list = count is None and is_text is True
        if self._is_list:  # a vectorizer: one document per row
            self.inputs: Sequence[TensorSpec] = [tables.texts()]
        elif count is None:
            self.inputs = []
        else:
            self.inputs = [tables.table(int(count), self._columns, with_text=is_text is not False)]
        self.outputs: Sequence[TensorSpec] = tables.probed(self.predict, self.inputs)

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if not getattr(self._limited, "is_set", False):
            self._pools.limit(limits=self._threads)
            self._limited.is_set = True
        try:
            result = self._call(self._rows(inputs))
        except (ValueError, TypeError) as err:  # what scikit-learn says of data it cannot take
            raise InvalidInput(f"scikit-learn: {err}") from err
        return [Tensor("output-0", np.asarray(result))]

    def _rows(self, inputs: Sequence[Tensor]) -> Any:
        if self._columns:
            return tables.to_frame(inputs, self._columns)
        rows = tables.to_numpy(inputs[0])
        return rows.tolist() if self._is_list else rows


def load(path: Path, options: LoadOptions) -> SklearnPredictor:
    """Raises UntrustedModel for a pickle that wants more than models need."""
    try:
        import sklearn  # noqa: F401
    except ImportError as err:
        raise ModelLoadError(
            "scikit-learn models need scikit-learn: pip install 'headrace[sklearn]'"
        ) from err
    model = load_pickle(path, options.trust_pickle)
    hook = "predict_proba" if options.predict_proba else "predict"
    call = getattr(model, hook, None)
    if not callable(call):
        raise ModelLoadError(f"{path}: {type(model).__name__} has no {hook}")
    limit_jobs(model, options.threads)
    return SklearnPredictor(model, call, options.threads)


def limit_jobs(model: Any, threads: int) -> None:
    """Cut every n_jobs stored in model, which counts from its training machine."""
    for estimator in [model, getattr(model, "best_estimator_", None)]:
        if not hasattr(estimator, "get_params"):
            continue
        for name, value in estimator.get_params(deep=True).items():
            if (name == "n_jobs" or name.endswith("__n_jobs")) and value is not None:
                estimator.set_params(**{name: threads if value < 0 else min(value, threads)})


def takes_text(model: Any) -> bool | None:
    """Whether model's first step reads text or categories; None where it does not say."""
    while getattr(model, "steps", None):
        model = model.steps[0][1]
    if hasattr(model, "transformers"):  # a ColumnTransformer: its columns may be anything
        return None
    tags = getattr(model, "__sklearn_tags__", None)
    if tags is None:
        return None
    found = tags().input_tags
    return bool(found.string or found.categorical)


EXTENSIONS = (".joblib", ".pkl", ".pickle")
FORMAT = PredictorFormat(
    "sklearn", load, EXTENSIONS, claims=lambda path: path.suffix.lower() in EXTENSIONS
)
