"""An InferenceService for each trained model, as a user of KServe would write it."""

from pathlib import Path
from typing import Any

from tests.demo.training import Trained

PIPELINE = "iris-pipeline"  # transformer → predictor, with an explainer beside


def predictor_only(trained: Trained) -> dict[str, Any]:
    """A predictor whose format selects the runtime."""
    return _service(trained.name, {"predictor": {"model": _model(trained)}})


def pipeline(trained: Trained, scaling: Path, background: Path) -> dict[str, Any]:
    """The same model behind the example transformer, explained by permutation importance.

    scaling: the transformer's settings file. background: rows for the explainer, a .npy file.
    """
    return _service(
        PIPELINE,
        {
            "predictor": {"model": _model(trained)},
            "transformer": {
                "containers": [_python("headrace.transformers.scaling", "--scaling", scaling)]
            },
            "explainer": {
                "containers": [
                    _python("headrace.transformers.importance", "--background", background)
                ]
            },
        },
    )


def _model(trained: Trained) -> dict[str, Any]:
    source = trained.path.parent if trained.path.is_file() else trained.path
    return {"modelFormat": {"name": trained.model_format}, "storageUri": f"file://{source}"}


def _python(module: str, flag: str, value: Path) -> dict[str, Any]:
    return {
        "image": "headrace/server",
        "command": ["python", "-m", module],
        "args": [flag, str(value)],
    }


def _service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": spec,
    }
