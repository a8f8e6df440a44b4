"""Each predictor through the real server: the framework's numbers, to the bit, on every way in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import ml_dtypes
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import xgboost
from onnx import TensorProto, helper
from sklearn import linear_model, pipeline, preprocessing
from sklearn.datasets import load_iris

from headrace.server import Datatype, Tensor
from tests.predictors.over_the_wire import answer, raw, refusal, v1, v2_binary, v2_json

X, Y = load_iris(return_X_y=True)
ROWS = X[:7]
TABLE = Tensor("input-0", ROWS)
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.layer(x))
"""


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def regressor(path: Path) -> Any:
    model = linear_model.LinearRegression().fit(X, Y + 0.5)
    joblib.dump(model, path / "model.joblib")
    return model.predict(ROWS)


def classifier(path: Path) -> Any:
    model = linear_model.LogisticRegression(max_iter=500).fit(X, Y)
    joblib.dump(model, path / "model.joblib")
    return model.predict(ROWS)


def boosted(suffix: str) -> Any:
    def write(path: Path) -> Any:
        model = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, Y), 3)
        written = path / ("model.json" if suffix == ".json" else "model.ubj")
        model.save_model(written)
        written.rename(path / f"model{suffix}")
        return model.predict(xgboost.DMatrix(ROWS))

    return write


def light(path: Path) -> Any:
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, Y), 3)
    model.save_model(path / "model.bst")
    return lightgbm.Booster(model_file=str(path / "model.bst")).predict(ROWS)


TABLES = [
    pytest.param(regressor, id="scikit-learn regressor"),
    pytest.param(classifier, id="scikit-learn classifier"),
    pytest.param(boosted(".json"), id="xgboost .json"),
    pytest.param(boosted(".ubj"), id="xgboost .ubj"),
    pytest.param(boosted(".bst"), id="xgboost .bst"),
    pytest.param(light, id="lightgbm .bst"),
]


@pytest.mark.parametrize("write", TABLES)
def test_tables(write: Any, tmp_path: Path) -> None:
    want = write(tmp_path)
    assert v2_binary(tmp_path, TABLE) == {"output-0": answer(want)}
    [output] = v2_json(tmp_path, TABLE)
    assert np.array(output["data"], want.dtype).tobytes() == want.tobytes()
    told = v1(tmp_path, {"instances": ROWS.tolist()})
    assert np.array(told, want.dtype).tobytes() == want.tobytes()


@pytest.mark.parametrize("write", TABLES)
def test_tables_name_what_they_expect(write: Any, tmp_path: Path) -> None:
    write(tmp_path)
    assert refusal(tmp_path, Tensor("x", ROWS)) == (
        "unexpected inference input 'x' for model 'm'; expected 'input-0' (FP64, [-1, 4])"
    )
    assert refusal(tmp_path, Tensor("input-0", ROWS[:, :3])) == (
        "unexpected shape for input 'input-0' for model 'm'. Expected [-1, 4], got [7, 3]."
    )
    assert refusal(tmp_path, Tensor("input-0", ROWS.astype(str).astype(object))) == (
        "inference input 'input-0' data-type is 'BYTES', but model 'm' expects 'FP64'"
    )


def test_sklearn_columns_and_probabilities(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    steps = preprocessing.StandardScaler(), linear_model.LogisticRegression()
    model = pipeline.make_pipeline(*steps).fit(frame, Y)
    joblib.dump(model, tmp_path / "model.joblib")
    some = frame[:7]
    columns = [Tensor(name, some[name].to_numpy()) for name in "dbca"]
    assert v2_binary(tmp_path, *columns) == {"output-0": answer(model.predict(some))}
    want = model.predict_proba(some)
    assert v2_binary(tmp_path, *columns, predict_proba=True) == {"output-0": answer(want)}
    rows = some.to_dict(orient="records")
    assert v1(tmp_path, {"instances": rows}, predict_proba=True) == want.tolist()
    [output] = v2_json(tmp_path, *columns, predict_proba=True)
    assert output["data"] == want.ravel().tolist()


ONNX = {
    Datatype.BOOL: TensorProto.BOOL,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.UINT16: TensorProto.UINT16,
    Datatype.UINT32: TensorProto.UINT32,
    Datatype.UINT64: TensorProto.UINT64,
    Datatype.INT8: TensorProto.INT8,
    Datatype.INT16: TensorProto.INT16,
    Datatype.INT32: TensorProto.INT32,
    Datatype.INT64: TensorProto.INT64,
    Datatype.FP16: TensorProto.FLOAT16,
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
    Datatype.BYTES: TensorProto.STRING,
}


def sample(datatype: Datatype) -> Any:
    if datatype is Datatype.BYTES:
        return np.array([["", "é"], ["a\nb", "\U0001f600"]], dtype=object)
    if datatype is Datatype.BOOL:
        return np.array([[True, False], [False, True]])
    if datatype.name.startswith("FP"):
        kind = datatype.name.replace("FP", "float")
        info = np.finfo(kind)
        return np.array([[info.max, info.smallest_subnormal], [-0.0, 1 / 3]], dtype=kind)
    kind = datatype.name.lower()
    limits = np.iinfo(kind)
    return np.array([[limits.min, limits.max], [0, 1]], dtype=kind)


def identity(datatypes: Sequence[Datatype], path: Path) -> Path:
    """path with one graph that hands on an input of each of datatypes."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"x_{d.name}"], [f"y_{d.name}"]) for d in datatypes],
        "g",
        [info(f"x_{d.name}", ONNX[d], ["N", 2]) for d in datatypes],
        [info(f"y_{d.name}", ONNX[d], ["N", 2]) for d in datatypes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path / "model.onnx")
    return path


@pytest.fixture(scope="module")
def every_datatype(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return identity(list(ONNX), tmp_path_factory.mktemp("onnx"))


def test_onnx_hands_on_every_datatype_over_v2_binary(every_datatype: Path) -> None:
    arrays = {d.name: sample(d) for d in ONNX}
    tensors = [Tensor(f"x_{name}", array) for name, array in arrays.items()]
    assert v2_binary(every_datatype, *tensors) == {
        f"y_{name}": answer(array) for name, array in arrays.items()
    }


def test_onnx_hands_on_every_datatype_of_json(tmp_path: Path) -> None:
    datatypes = [each for each in ONNX if each is not Datatype.FP16]  # V2 has no FP16 in JSON
    arrays = {d.name: sample(d) for d in datatypes}
    tensors = [Tensor(f"x_{name}", array) for name, array in arrays.items()]
    for output in v2_json(identity(datatypes, tmp_path), *tensors):
        array = arrays.pop(output["datatype"])
        back = np.array(output["data"], dtype=array.dtype)
        assert raw(Tensor("y", back)) == raw(Tensor("y", array))
    assert arrays == {}


@pytest.mark.parametrize(
    ("array", "said"),
    [
        pytest.param(
            np.zeros((2, 2), "f8"),
            "inference input 'x_FP32' data-type is 'FP64', but model 'm' expects 'FP32'",
            id="datatype",
        ),
        pytest.param(
            np.zeros((2, 3), "f4"),
            "unexpected shape for input 'x_FP32' for model 'm'. Expected [-1, 2], got [2, 3].",
            id="shape",
        ),
    ],
)
def test_onnx_names_what_it_expects(array: Any, said: str, every_datatype: Path) -> None:
    tensors = [Tensor(f"x_{d.name}", sample(d)) for d in ONNX if d is not Datatype.FP32]
    assert refusal(every_datatype, *tensors, Tensor("x_FP32", array)) == said


def script(net: Net, path: Path) -> str:
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, 4)), str(path / "model.pt"))
    return "x"


def program(net: Net, path: Path) -> str:
    free = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=(free,))
    torch.export.save(exported, path / "model.pt2")
    return "x"


def state(net: Net, path: Path) -> str:
    torch.save(net.state_dict(), path / "weights.pt")
    (path / "net.py").write_text(NET)
    return "x"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("save", [script, program, state])
def test_torch(save: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    name = save(net, tmp_path)
    rows = ROWS.astype("f4")
    with torch.inference_mode():
        want = net(torch.from_numpy(rows)).numpy()
    tensor = Tensor(name, rows)
    assert v2_binary(tmp_path, tensor) == {"output-0": answer(want)}
    [output] = v2_json(tmp_path, tensor)
    assert np.array(output["data"], "f4").tobytes() == want.tobytes()
    if save is not program:  # an exported program wants its FP32 said, V1 says no datatype
        told = v1(tmp_path, {"instances": rows.tolist()})
        assert np.array(told, "f4").tobytes() == want.tobytes()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
def test_torch_hands_on_half_widths(kind: Any, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Same()), str(tmp_path / "model.pt"))
    bits = np.arange(2**16, dtype="u2").reshape(-1, 4)  # every number there is, NaNs too
    array = bits.view(kind)
    [(_, shape, back)] = v2_binary(tmp_path, Tensor("x", array)).values()
    assert (shape, back) == (array.shape, bits.tobytes())


def test_echo(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from headrace.predictors.echo import EchoPredictor\n\n"
        "def load(path, options):\n    return EchoPredictor()\n"
    )
    array = np.arange(6, dtype="i2").reshape(2, 3)
    assert v2_binary(tmp_path, Tensor("a", array)) == {"a": answer(array)}


PLAIN = """
from headrace.server import Tensor

class Double:
    inputs = outputs = ()

    def predict(self, inputs):
        return [Tensor("output-0", inputs[0].array * 2)]
"""
MODEL = """
from headrace.server import Model

class Double(Model):
    def load(self):
        self.ready = True
        return True

    def predict(self, payload, headers=None):
        return {"predictions": [[2 * x for x in row] for row in payload["instances"]]}
"""
FUNCTION = PLAIN.replace("class Double", "class Made") + (
    "\nclass Other(Made):\n    pass\n\ndef load(path, options):\n    return Made()\n"
)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(PLAIN, id="a plain class"),
        pytest.param(MODEL, id="a subclass of Model"),
        pytest.param(FUNCTION, id="a function"),
    ],
)
def test_custom_code(code: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(code)
    assert v1(tmp_path, {"instances": ROWS.tolist()}) == (ROWS * 2).tolist()
    if code is not MODEL:
        assert v2_binary(tmp_path, Tensor("x", ROWS)) == {"output-0": answer(ROWS * 2)}
