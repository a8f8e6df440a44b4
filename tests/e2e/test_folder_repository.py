"""`headrace serve ./folder`: models laid out for Triton, for MLServer and plain, in one folder."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
import xgboost
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.server.rest.client import Reply, ask
from tests.serving import ServerProcess, server_process

X, Y = load_iris(return_X_y=True)
HEADRACE = str(Path(sys.executable).parent / "headrace")
CONFIG = """
name: "scale"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
version_policy { all { } }
"""


def scale(by: float, path: Path) -> None:
    """An ONNX model: y = x · by."""
    path.parent.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "by"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor("by", TensorProto.FLOAT, [], [by])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(X, Y)


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    return xgboost.train({"nthread": 1}, xgboost.DMatrix(X, Y), 3)


@pytest.fixture(scope="module")
def folder(
    classifier: LogisticRegression,
    booster: xgboost.Booster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    root = tmp_path_factory.mktemp("models")
    scale(2.0, root / "scale" / "1" / "model.onnx")
    scale(3.0, root / "scale" / "2" / "model.onnx")
    (root / "scale" / "config.pbtxt").write_text(CONFIG)
    (root / "iris").mkdir()
    joblib.dump(classifier, root / "iris" / "iris.joblib")
    settings = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./iris.joblib", "version": "v0.1.0"},
    }
    (root / "iris" / "model-settings.json").write_text(json.dumps(settings))
    (root / "plain").mkdir()
    booster.save_model(root / "plain" / "model.ubj")
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with server_process(program=(HEADRACE, "serve", str(folder))) as running:
        yield running


def post(server: ServerProcess, path: str, body: Any = None) -> Reply:
    sent = json.dumps(body).encode() if body is not None else b""
    return asyncio.run(ask(server.http, "POST", path, sent))


def index(server: ServerProcess) -> set[tuple[str, str | None, str | None]]:
    listed = post(server, "/v2/repository/index").json()
    return {(each["name"], each.get("version"), each.get("state")) for each in listed}


def infer(server: ServerProcess, model: str, name: str, datatype: str, rows: Any) -> Any:
    tensor = {"name": name, "datatype": datatype, "shape": list(rows.shape), "data": rows.tolist()}
    reply = post(server, f"/v2/models/{model}/infer", {"inputs": [tensor]})
    assert reply.status == 200, reply.body
    [output] = reply.json()["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


def test_index_lists_every_version(server: ServerProcess) -> None:
    assert index(server) == {
        ("iris", "v0.1.0", "READY"),
        ("plain", "1", "READY"),
        ("scale", "1", "READY"),
        ("scale", "2", "READY"),
    }


@pytest.mark.parametrize(
    ("model", "factor"), [("scale", 3), ("scale/versions/1", 2), ("scale/versions/2", 3)]
)
def test_tritons_versions(model: str, factor: int, server: ServerProcess) -> None:
    rows = np.array([[1.5, 2.0], [3.0, 4.0]])
    assert infer(server, model, "x", "FP32", rows).tolist() == (rows * factor).tolist()


def test_mlservers_folder(server: ServerProcess, classifier: LogisticRegression) -> None:
    answer = infer(server, "iris", "input-0", "FP64", X)
    assert answer.tolist() == classifier.predict(X).tolist()


def test_plain_folder(server: ServerProcess, booster: xgboost.Booster) -> None:
    answer = infer(server, "plain", "input-0", "FP64", X).astype("f4")
    assert answer.tobytes() == booster.predict(xgboost.DMatrix(X)).tobytes()


def test_unload_then_load(server: ServerProcess) -> None:
    assert post(server, "/v2/repository/models/plain/unload").status == 200
    assert ("plain", "1", "READY") not in index(server)
    body = {"instances": X[:1].tolist()}
    refused = post(server, "/v1/models/plain:predict", body)
    assert (refused.status, refused.error) == (503, "Model with name plain is not ready. unloaded")
    assert post(server, "/v2/repository/models/plain/load").status == 200
    assert ("plain", "1", "READY") in index(server)
    assert post(server, "/v1/models/plain:predict", body).status == 200


def test_a_new_model_and_a_reload_of_a_changed_one(server: ServerProcess, folder: Path) -> None:
    scale(5.0, folder / "late" / "model.onnx")
    assert ("late", None, None) in index(server)  # there, never loaded
    assert post(server, "/v2/repository/models/late/load").status == 200
    rows = np.array([[1.0, 2.0]])
    assert infer(server, "late", "x", "FP32", rows).tolist() == [[5.0, 10.0]]
    (folder / "late" / "model.onnx").unlink()
    (folder / "late").rmdir()
    scale(7.0, folder / "late" / "model.onnx")
    assert post(server, "/v2/repository/models/late/load").status == 200
    assert infer(server, "late", "x", "FP32", rows).tolist() == [[7.0, 14.0]]


def test_a_reload_that_fails_leaves_the_served_version(server: ServerProcess, folder: Path) -> None:
    path = folder / "plain" / "model.ubj"
    good = path.read_bytes()
    path.write_bytes(b"broken")
    try:
        reply = post(server, "/v2/repository/models/plain/load")
        assert reply.status != 200
        assert reply.error.startswith(f"{path}: xgboost cannot load it: ")
        assert reply.error.endswith("; what was loaded before goes on serving")
        assert infer(server, "plain", "input-0", "FP64", X[:1]).shape == (1,)
    finally:
        path.write_bytes(good)


def test_a_model_that_is_nowhere(server: ServerProcess) -> None:
    reply = post(server, "/v2/repository/models/absent/load")
    assert (reply.status, reply.error) == (404, "Model with name absent does not exist.")


MIB = 1 << 20


def heavy(path: Path, size: int) -> None:
    """An ONNX model with size bytes of weights, all 1: y = weights[x]."""
    path.parent.mkdir(parents=True)
    weights = np.ones(size // 4, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def test_a_model_that_would_not_fit_is_refused_before_memory_runs_out(tmp_path: Path) -> None:
    scale(2.0, tmp_path / "small" / "model.onnx")
    limit = 1024 * MIB
    with server_process(
        *("--memory_limit_bytes", str(limit)), program=(HEADRACE, "serve", str(tmp_path))
    ) as running:
        huge = tmp_path / "huge" / "model.onnx"
        huge.parent.mkdir()
        with huge.open("wb") as file:
            file.truncate(4 * limit)  # a file of holes: reading it would be enough
        reply = post(running, "/v2/repository/models/huge/load")
        assert reply.status == 507
        assert reply.error.startswith(f"model huge needs about {8 * limit} bytes, and ")
        assert f"are free of the {limit} this process may use" in reply.error
        assert ("small", "1", "READY") in index(running)
        assert asyncio.run(ask(running.http, "GET", "/v2/health/ready", b"")).status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_the_model_longest_unused_makes_room_for_another(workers: int, tmp_path: Path) -> None:
    """200 MiB each, of 620 for each worker: one fits beside the server, two do not."""
    heavy(tmp_path / "first" / "model.onnx", 200 * MIB)
    with server_process(
        *("--memory_limit_bytes", str(workers * 620 * MIB), "--evict_models"),
        *("--workers", str(workers)),
        program=(HEADRACE, "serve", str(tmp_path)),
    ) as running:
        heavy(tmp_path / "second" / "model.onnx", 200 * MIB)
        reply = post(running, "/v2/repository/models/second/load")
        assert reply.status == 200, reply.body
        states = {name: state for name, _, state in index(running)}
        assert states == {"first": "UNAVAILABLE", "second": "READY"}
        assert infer(running, "second", "x", "INT64", np.array([3])).tolist() == [1.0]
