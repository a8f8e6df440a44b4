"""Folders as the real mlflow package saves them, through the real server."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
import torch
import xgboost
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression

from headrace.server import LoadOptions, ModelLoadError, Tensor, UntrustedModel
from headrace.server.loading import ModelSource, load_instances
from tests.predictors.over_the_wire import answer, v2_binary

with warnings.catch_warnings(action="ignore"):  # mlflow warns of its own types as it is imported
    import mlflow.lightgbm
    import mlflow.onnx
    import mlflow.pyfunc
    import mlflow.pytorch
    import mlflow.sklearn
    import mlflow.xgboost

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own, as it saves
X, Y = load_iris(return_X_y=True)
ROWS = X[:7]
PLAIN: dict[str, Any] = {"pip_requirements": []}  # else mlflow runs the model to find them


def save_sklearn(path: Path) -> Any:
    model = LinearRegression().fit(X, Y)
    mlflow.sklearn.save_model(model, path, serialization_format="pickle", **PLAIN)
    return model.predict(ROWS)


def save_xgboost(path: Path) -> Any:
    model = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, Y), 3)
    mlflow.xgboost.save_model(model, path, **PLAIN)
    return model.predict(xgboost.DMatrix(ROWS))


def save_lightgbm(path: Path) -> Any:
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, Y), 3)
    mlflow.lightgbm.save_model(model, path, **PLAIN)
    return model.predict(ROWS)


def save_onnx(path: Path) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Add", ["input-0", "input-0"], ["output-0"])],
        "g",
        [helper.make_tensor_value_info("input-0", TensorProto.DOUBLE, ["N", 4])],
        [helper.make_tensor_value_info("output-0", TensorProto.DOUBLE, ["N", 4])],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    mlflow.onnx.save_model(model, path, **PLAIN)
    return ROWS + ROWS


@pytest.mark.parametrize("save", [save_sklearn, save_xgboost, save_lightgbm, save_onnx])
def test_flavours(save: Any, tmp_path: Path) -> None:
    want = save(tmp_path / "m")
    assert v2_binary(tmp_path / "m", Tensor("input-0", ROWS)) == {"output-0": answer(want)}


def test_pytorch_as_exported_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, rows = torch.nn.Linear(4, 3), ROWS.astype("f4")
    mlflow.pytorch.save_model(
        net, tmp_path / "m", serialization_format="pt2", input_example=rows, **PLAIN
    )
    with torch.inference_mode():
        want = net(torch.from_numpy(rows)).numpy()
    assert v2_binary(tmp_path / "m", Tensor("input", rows)) == {"output-0": answer(want)}


def refusal(path: Path, kind: type[ModelLoadError], **options: Any) -> str:
    with pytest.raises(kind) as refused:
        load_instances("m", ModelSource(path, options=LoadOptions(**options)))
    return str(refused.value)


def test_a_pickled_torch_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    mlflow.pytorch.save_model(torch.nn.Linear(4, 3), path, serialization_format="pickle", **PLAIN)
    said = refusal(path, UntrustedModel)
    assert said.startswith(
        f"{path / 'data' / 'model.pth'}: torch does not load it as plain weights"
    )
    assert said.endswith(
        "Save a TorchScript (.pt), an exported program (.pt2), or a state dict with its class."
    )


def test_skops_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    mlflow.sklearn.save_model(LinearRegression().fit(X, Y), path, **PLAIN)
    assert refusal(path, ModelLoadError) == (
        f"{path / 'model.skops'}: saved with skops, which is not read here; "
        "log the model with serialization_format='cloudpickle' or 'pickle'"
    )


def test_python_function_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m"

    class Doubled(mlflow.pyfunc.PythonModel):  # here: mlflow warns of a class as it is made
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return np.asarray(model_input) * 2

    mlflow.pyfunc.save_model(path, python_model=Doubled(), **PLAIN)
    assert refusal(path, UntrustedModel) == (
        f"{path}: only the flavour python_function is there, which runs code of the folder; "
        "start with --trust-code (in a manifest: args: [--trust-code])"
    )
    outputs = v2_binary(path, Tensor("input-0", ROWS), trust_code=True)
    assert outputs == {"output-0": answer(ROWS * 2)}


def test_a_flavour_cannot_name_a_file_outside(tmp_path: Path) -> None:
    (tmp_path / "out.pkl").write_bytes(pickle.dumps(1))
    path = tmp_path / "m"
    path.mkdir()
    (path / "MLmodel").write_text("flavors: {sklearn: {pickled_model: ../out.pkl}}")
    assert (
        refusal(path, ModelLoadError) == f"{path / 'MLmodel'}: '../out.pkl' is outside the folder"
    )
