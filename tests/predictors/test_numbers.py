"""Each predictor answers what its framework answers when called directly, to the bit."""

import asyncio
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import xgboost
from onnx import TensorProto, helper
from sklearn import compose, linear_model, pipeline, preprocessing
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer

from headrace.server import (
    Datatype,
    InvalidInput,
    LoadOptions,
    ModelLoadError,
    Predictor,
    Tensor,
    TensorSpec,
)
from headrace.server.checks import check_inputs
from headrace.server.loading import ModelSource, load_instances, load_servable
from headrace.server.request import Context, Request

X, Y = load_iris(return_X_y=True)
NUMERIC = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def loaded(path: Path, **options: Any) -> Any:
    [instance] = load_instances("m", ModelSource(path, options=LoadOptions(**options)))
    assert isinstance(instance, Predictor)
    return instance


def v1(path: Path, payload: Any, **options: Any) -> Any:
    async def call() -> Any:
        source = ModelSource(path, options=LoadOptions(**options))
        servable = await load_servable("m", source)
        answer = await servable.predict(payload, Context())
        await servable.stop()
        return answer

    return asyncio.run(call())


def one(predictor: Any, array: Any, name: str = "input-0") -> Any:
    [output] = predictor.predict([Tensor(name, array)])
    assert output.name == "output-0"
    return output.array


def refusal(predictor: Any, tensors: Sequence[Tensor]) -> str:
    with pytest.raises(InvalidInput) as refused:
        check_inputs(Request("m", list(tensors)), predictor.inputs)
    return str(refused.value)


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    return xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "max_depth": 2},
        xgboost.DMatrix(X, Y),
        4,
    )


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    return RandomForestClassifier(8, random_state=0, n_jobs=-1).fit(X, Y)


@pytest.mark.parametrize("dtype", NUMERIC)
def test_sklearn(dtype: str, forest: RandomForestClassifier, tmp_path: Path) -> None:
    joblib.dump(forest, tmp_path / "model.joblib")
    rows = X.astype(dtype)
    np.testing.assert_array_equal(one(loaded(tmp_path), rows), forest.predict(rows))


def test_sklearn_declares_its_tensors(forest: RandomForestClassifier, tmp_path: Path) -> None:
    joblib.dump(forest, tmp_path / "model.joblib")
    predictor = loaded(tmp_path)
    [table] = predictor.inputs
    assert (table.name, table.datatype, table.shape) == ("input-0", Datatype.FP64, (-1, 4))
    assert predictor.outputs == [TensorSpec("output-0", Datatype.INT64, (-1,))]
    assert refusal(predictor, [Tensor("x", X)]) == (
        "unexpected inference input 'x' for model 'm'; expected 'input-0' (FP64, [-1, 4])"
    )
    assert refusal(predictor, [Tensor("input-0", X[:, :3])]) == (
        "unexpected shape for input 'input-0' for model 'm'. Expected [-1, 4], got [150, 3]."
    )
    assert refusal(predictor, [Tensor("input-0", X.astype(str))]) == (
        "inference input 'input-0' data-type is 'BYTES', but model 'm' expects 'FP64'"
    )


def test_sklearn_answers_probabilities_where_asked(
    forest: RandomForestClassifier, tmp_path: Path
) -> None:
    joblib.dump(forest, tmp_path / "model.joblib")
    forest.set_params(n_jobs=1)
    answer = v1(tmp_path, {"instances": X[:3].tolist()}, predict_proba=True)
    np.testing.assert_array_equal(answer["predictions"], forest.predict_proba(X[:3]))


def test_sklearn_cuts_stored_jobs(forest: RandomForestClassifier, tmp_path: Path) -> None:
    forest.set_params(n_jobs=-1)
    joblib.dump(forest, tmp_path / "model.joblib")
    assert loaded(tmp_path, threads=2)._call.__self__.n_jobs == 2


def test_sklearn_takes_columns_by_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [1.0, 2, 3, 4], "city": ["a", "b", "a", "b"]})
    model = pipeline.make_pipeline(
        compose.make_column_transformer(
            (preprocessing.StandardScaler(), ["age"]), (preprocessing.OneHotEncoder(), ["city"])
        ),
        linear_model.LogisticRegression(),
    ).fit(frame, ["no", "yes", "no", "yes"])
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    want = model.predict(frame)
    columns = [
        Tensor("city", np.array([b"a", b"b", b"a", b"b"], dtype=object)),
        Tensor("age", np.array([1, 2, 3, 4])),
    ]
    predictor = loaded(tmp_path)
    check_inputs(Request("m", columns), predictor.inputs)
    [output] = predictor.predict(columns)
    np.testing.assert_array_equal(output.array, want)
    rows = frame.to_dict(orient="records")
    assert v1(tmp_path, {"instances": rows})["predictions"] == want.tolist()
    assert refusal(predictor, columns[:1]) == (
        "expected 2 inputs but got 1 inputs for model 'm': "
        "missing required input(s) 'age' (FP64, [-1])"
    )


def test_sklearn_takes_text(tmp_path: Path) -> None:
    texts = ["a good day", "a bad day", "good", "bad"]
    model = pipeline.make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression())
    joblib.dump(model.fit(texts, [1, 0, 1, 0]), tmp_path / "model.joblib")
    answer = v1(tmp_path, {"instances": texts})["predictions"]
    np.testing.assert_array_equal(answer, model.predict(texts))


@pytest.mark.parametrize("suffix", [".bst", ".json", ".ubj"])
@pytest.mark.parametrize("dtype", NUMERIC)
def test_xgboost(dtype: str, suffix: str, booster: xgboost.Booster, tmp_path: Path) -> None:
    written = tmp_path / ("model.json" if suffix == ".json" else "model.ubj")
    booster.save_model(written)
    written.rename(tmp_path / f"model{suffix}")  # xgboost itself warns of the name `.bst`
    rows = X.astype(dtype)
    want = booster.predict(xgboost.DMatrix(rows))
    np.testing.assert_array_equal(one(loaded(tmp_path), rows), want)


def test_xgboost_takes_its_features_by_name(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    matrix = xgboost.DMatrix(X, Y, feature_names=names)
    model = xgboost.train({"nthread": 1}, matrix, 3)
    model.save_model(tmp_path / "model.ubj")
    columns = [Tensor(name, X[:, i]) for i, name in reversed(list(enumerate(names)))]
    predictor = loaded(tmp_path)
    check_inputs(Request("m", columns), predictor.inputs)
    [output] = predictor.predict(columns)
    np.testing.assert_array_equal(output.array, model.predict(matrix))
    np.testing.assert_array_equal(one(predictor, X), model.predict(matrix))


@pytest.mark.parametrize("dtype", NUMERIC)
def test_lightgbm(dtype: str, tmp_path: Path) -> None:
    data = lightgbm.Dataset(X, Y)
    parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    model = lightgbm.train(parameters, data, 4)
    model.save_model(tmp_path / "model.bst")
    rows = X.astype(dtype)
    direct = lightgbm.Booster(model_file=str(tmp_path / "model.bst"))
    try:
        want = direct.predict(rows)
    except ValueError:
        pytest.skip(f"LightGBM itself takes no {dtype}")
    np.testing.assert_array_equal(one(loaded(tmp_path), rows), want)


ONNX = {
    "?": TensorProto.BOOL,
    "u1": TensorProto.UINT8,
    "u2": TensorProto.UINT16,
    "u4": TensorProto.UINT32,
    "u8": TensorProto.UINT64,
    "i1": TensorProto.INT8,
    "i2": TensorProto.INT16,
    "i4": TensorProto.INT32,
    "i8": TensorProto.INT64,
    "f2": TensorProto.FLOAT16,
    "f4": TensorProto.FLOAT,
    "f8": TensorProto.DOUBLE,
    "O": TensorProto.STRING,
}


def identity(kind: int, path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 2])],
        [helper.make_tensor_value_info("y", kind, ["N", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


@pytest.mark.parametrize("dtype", [kind for kind in ONNX if kind != "O"])
def test_onnx(dtype: str, tmp_path: Path) -> None:
    identity(ONNX[dtype], tmp_path / "model.onnx")
    rows = np.random.default_rng(0).integers(0, 100, (5, 2)).astype(dtype)
    predictor = loaded(tmp_path)
    [output] = predictor.predict([Tensor("x", rows)])
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert output.name == "y"
    assert output.array.tobytes() == session.run(None, {"x": rows})[0].tobytes()
    assert predictor.inputs == [TensorSpec("x", output.datatype, (-1, 2))]
    assert predictor.outputs == [TensorSpec("y", output.datatype, (-1, 2))]


def test_onnx_text(tmp_path: Path) -> None:
    identity(TensorProto.STRING, tmp_path / "model.onnx")
    rows = np.array([["é".encode(), b"b"]], dtype=object)
    [output] = loaded(tmp_path).predict([Tensor("x", rows)])
    assert output.array.tolist() == [["é", "b"]]
    with pytest.raises(InvalidInput) as refused:
        loaded(tmp_path).predict([Tensor("x", np.array([[b"\xff", b"b"]], dtype=object))])
    assert str(refused.value) == "'x': the model takes text, this is not UTF-8"


def test_onnx_refuses_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not onnx")
    with pytest.raises(ModelLoadError) as refused:
        loaded(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'model.onnx'}: onnxruntime cannot load it: ")
