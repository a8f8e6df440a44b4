"""An InferenceService for each trained model, as a user of KServe would write it."""

from typing import Any

from tests.demo.training import Trained

PIPELINE = "iris-pipeline"  # transformer → predictor, with an explainer beside


def predictor_only(trained: Trained) -> dict[str, Any]:
    """A predictor whose format selects the runtime."""
    return _service(trained.name, {"predictor": {"model": _model(trained)}})


def pipeline(trained: Trained) -> dict[str, Any]:
    """The same model behind the example transformer, explained by permutation importance.

    The transformer turns measurements in millimetres into the centimetres the model was trained on.
    """
    return _service(
        PIPELINE,
        {
            "predictor": {"model": _model(trained)},
            "transformer": {
                "containers": [_python("headrace.transformers.scaling", "--scale", "10")]
            },
            "explainer": {
                "containers": [
                    _python("headrace.transformers.permutation_importance", "--repeats", "5")
                ]
            },
        },
    )


def _model(trained: Trained) -> dict[str, Any]:
    source = trained.path.parent if trained.path.is_file() else trained.path
    return {"modelFormat": {"name": trained.model_format}, "storageUri": f"file://{source}"}


def _python(module: str, *args: str) -> dict[str, Any]:
    return {
        "image": "headrace/server",
        "command": ["python", "-m", module],
        "args": list(args),
    }


def _service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": spec,
    }
