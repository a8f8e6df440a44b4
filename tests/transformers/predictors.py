"""Serves a fitted estimator as the predictor that a transformer or explainer stands before.

python predictors.py model.joblib --model_name iris --http_port …
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib

from headrace.server import Model, ModelServer, args, get_predict_input, get_predict_response


class Estimator(Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.estimator: Any = None
        self.path = path

    def load(self) -> bool:
        self.estimator = joblib.load(self.path)
        self.ready = True
        return True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        result = self.estimator.predict(get_predict_input(payload))
        return get_predict_response(payload, result, self.name)


def program(folder: Path, estimator: Any) -> Sequence[str]:
    """A command that serves estimator as "iris"."""
    joblib.dump(estimator, folder / "model.joblib")
    return [sys.executable, __file__, str(folder / "model.joblib"), "--model_name", "iris"]


if __name__ == "__main__":
    model = Estimator(args.model_name, sys.argv[1])
    model.load()
    ModelServer().start([model])
