"""Small real models on scikit-learn's bundled data, each saved in its framework's own format."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import skl2onnx
import torch
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 7
HELD_BACK_ROWS = 40


@dataclass(frozen=True, slots=True)
class Data:
    """train_x, test_x: (rows, features) float32. train_y, test_y: (rows,)."""

    train_x: NDArray[Any]
    test_x: NDArray[Any]
    train_y: NDArray[Any]
    test_y: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """One saved model. model_format: the manifest's. score: "accuracy", or "r2" for a regression.

    path: the model file or folder; input_name, output_name: as the served model calls them.
    """

    name: str
    model_format: str
    path: Path
    data: Data
    score: str = "accuracy"
    input_name: str = "input-0"
    output_name: str = "output-0"


def data_of(load: Callable[..., Any]) -> Data:
    x, y = load(return_X_y=True)
    parts = train_test_split(x.astype(np.float32), y, test_size=HELD_BACK_ROWS, random_state=SEED)
    return Data(*parts)


def train_all(folder: Path) -> list[Trained]:
    """Train and save one model per predictor and form; a few seconds."""
    steps = [sklearn, onnx, xgboost_, lightgbm_, torchscript, torch_export, state_dict, mlflow_]
    return [step(folder) for step in [*steps, custom]]


def sklearn(folder: Path) -> Trained:
    data = data_of(load_iris)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    path = _folder(folder, "iris-sklearn") / "model.joblib"
    joblib.dump(model.fit(data.train_x, data.train_y), path)
    return Trained("iris-sklearn", "sklearn", path, data)


def onnx(folder: Path) -> Trained:
    data = data_of(load_digits)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(data.train_x, data.train_y)
    made = skl2onnx.to_onnx(model, data.train_x[:1], options={"zipmap": False}, target_opset=18)
    path = _folder(folder, "digits-onnx") / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return Trained("digits-onnx", "onnx", path, data, input_name="X", output_name="label")


def xgboost_(folder: Path) -> Trained:
    data = data_of(load_iris)
    model = xgboost.XGBClassifier(n_estimators=20, max_depth=3, random_state=SEED, n_jobs=1)
    model.fit(data.train_x, data.train_y)
    path = _folder(folder, "iris-xgboost") / "model.json"
    model.get_booster().save_model(path)
    return Trained("iris-xgboost", "xgboost", path, data)


def lightgbm_(folder: Path) -> Trained:
    data = data_of(load_breast_cancer)
    model = lightgbm.LGBMClassifier(n_estimators=30, random_state=SEED, n_jobs=1, verbose=-1)
    model.fit(data.train_x, data.train_y)
    path = _folder(folder, "cancer-lightgbm") / "model.bst"
    model.booster_.save_model(path)
    return Trained("cancer-lightgbm", "lightgbm", path, data)


NETWORK = '''"""The class of digits-state-dict's weights."""

import torch


class Network(torch.nn.Module):
    """(rows, 64) FP32 pixels to (rows, 10) FP32 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(64, 48)
        self.scores = torch.nn.Linear(48, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scores(torch.relu(self.hidden(pixels / 16)))
'''


def trained_network(data: Data) -> Any:
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(SEED)
    network = namespace["Network"]()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval()


def torchscript(folder: Path) -> Trained:
    data = data_of(load_digits)
    path = _folder(folder, "digits-torchscript") / "model.pt"
    example = torch.from_numpy(data.train_x[:1])
    torch.jit.trace(trained_network(data), example).save(str(path))
    return Trained("digits-torchscript", "pytorch", path, data)


def torch_export(folder: Path) -> Trained:
    data = data_of(load_digits)
    path = _folder(folder, "digits-export") / "model.pt2"
    example = (torch.from_numpy(data.train_x[:2]),)
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(trained_network(data), example, dynamic_shapes=({0: rows},))
    torch.export.save(program, path)
    return Trained("digits-export", "pytorch", path, data, input_name="pixels")


def state_dict(folder: Path) -> Trained:
    data = data_of(load_digits)
    path = _folder(folder, "digits-state-dict") / "model.pth"
    torch.save(trained_network(data).state_dict(), path)
    path.with_name("network.py").write_text(NETWORK)
    return Trained("digits-state-dict", "pytorch", path, data)


def mlflow_(folder: Path) -> Trained:
    import mlflow.sklearn  # seconds to import; only the demo's own process pays them

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # that pickles are pickles

    data = data_of(load_diabetes)
    model = make_pipeline(StandardScaler(), Ridge()).fit(data.train_x, data.train_y)
    path = folder / "diabetes-mlflow"
    mlflow.sklearn.save_model(
        model, path, serialization_format="pickle", pip_requirements=[], input_example=None
    )
    return Trained("diabetes-mlflow", "mlflow", path, data, score="r2")


CUSTOM = '''"""A custom model as KServe's users write it; only the import line is ours."""

import joblib

from headrace.server import Model, get_predict_input, get_predict_response


class IrisModel(Model):
    def load(self):
        self.estimator = joblib.load(self.model_dir + "/iris.joblib")
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None):
        rows = get_predict_input(payload)
        return get_predict_response(payload, self.estimator.predict(rows), self.name)
'''


def custom(folder: Path) -> Trained:
    data = data_of(load_iris)
    model = LogisticRegression(max_iter=500).fit(data.train_x, data.train_y)
    path = _folder(folder, "iris-custom")
    joblib.dump(model, path / "iris.joblib")
    (path / "model.py").write_text(CUSTOM)
    return Trained("iris-custom", "custom", path, data)


def score_of(trained: Trained, answers: NDArray[Any]) -> float:
    """Accuracy of labels or of (rows, classes) scores, or R² of a regression, on held-back rows."""
    expected = trained.data.test_y
    if trained.score == "r2":
        return float(r2_score(expected, answers.ravel()))
    if answers.ndim == 2 and answers.shape[1] > 1:
        answers = answers.argmax(axis=1)
    labels = np.rint(answers.ravel()).astype(expected.dtype)
    return float((labels == expected).mean())


def _folder(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    return path
