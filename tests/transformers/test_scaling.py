"""The scaling transformer: what it computes and refuses, and as a process before a predictor."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from headrace.server import InferInput, InferRequest, InvalidInput
from headrace.transformers.scaling import (
    Scaling,
    ScalingError,
    ScalingTransformer,
    main,
    to_scaling,
)
from tests.server.sdk.programs import Ports, serving
from tests.transformers.predictors import program

SCALING = Scaling(columns=(2, 0), mean=(1.0, 2.0), scale=(2.0, 4.0))


@pytest.mark.parametrize(
    ("scaling", "payload", "expected"),
    [
        pytest.param(
            SCALING, {"instances": [[6, 0, 3]]}, {"instances": [[1.0, 1.0]]}, id="columns by place"
        ),
        pytest.param(
            Scaling(mean=(1.0,)), {"inputs": [[1, 2]]}, {"inputs": [[0.0, 1.0]]}, id="all columns"
        ),
        pytest.param(
            Scaling(columns=("b", "a"), scale=(2.0,)),
            {"instances": [{"a": 1, "b": 4, "c": 9}]},
            {"instances": [[2.0, 0.5]]},
            id="columns by name",
        ),
        pytest.param(
            Scaling(), {"instances": [[1]], "k": 2}, {"instances": [[1.0]], "k": 2}, id="more keys"
        ),
    ],
)
def test_v1_rows(scaling: Scaling, payload: Any, expected: Any) -> None:
    assert ScalingTransformer("m", scaling).preprocess(payload) == expected


def test_v2_tensors_keep_their_datatype() -> None:
    tensor = InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[6, 0, 3]], np.float32))
    request = ScalingTransformer("m", SCALING).preprocess(InferRequest("m", [tensor]))
    [scaled] = request.inputs
    assert (scaled.name, scaled.shape, scaled.datatype) == ("x", [1, 2], "FP32")
    assert scaled.as_numpy().tolist() == [[1.0, 1.0]]
    assert scaled.is_binary


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"raw", "expected a JSON object, got bytes"),
        ({"instances": 5}, 'expected a list "instances"'),
        ({"foo": []}, 'expected a list "instances"'),
        (
            {"instances": [[1, 2]]},
            "instances: expected at least 3 features, got 2",
        ),
        (
            {"instances": [["a", "b", "c"]]},
            "instances: expected numbers of shape (rows, features), got <U1 of shape (1, 3)",
        ),
        ({"instances": [{"a": 1}]}, "instances: a row has no column 2"),
        (
            {"instances": [1, 2]},
            "instances: expected numbers of shape (rows, features), got int64 of shape (2,)",
        ),
    ],
)
def test_rows_it_cannot_scale_are_refused(payload: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ScalingTransformer("m", SCALING).preprocess(payload)
    assert str(caught.value) == message


def test_settings_come_from_a_file_and_the_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps({"columns": [1], "mean": [5], "scale": [2]}))
    assert to_scaling(str(file), None, None, "4") == Scaling((1,), (5.0,), (4.0,))
    assert to_scaling(None, "0,name", "1,2", None) == Scaling((0, "name"), (1.0, 2.0), (1.0,))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"columns": "0,1", "mean": "1,2,3"},
            "--mean: expected 1 or 2 numbers, as many as --columns, got 3",
        ),
        ({"scale": "0"}, "--scale: 0 is no scale; leave a constant column out of --columns"),
        ({"mean": "a"}, "--mean a: could not convert string to float: 'a'"),
    ],
)
def test_settings_that_make_no_scaling_are_refused(flags: dict[str, str], message: str) -> None:
    with pytest.raises(ScalingError) as caught:
        to_scaling(None, flags.get("columns"), flags.get("mean"), flags.get("scale"))
    assert str(caught.value) == message


def test_without_a_predictor_it_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model_name", "m"]) == 2
    assert capsys.readouterr().err == "headrace.transformers.scaling: needs --predictor_host\n"


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """`python -m headrace.transformers.scaling` before a model that knows only scaled iris."""
    folder = tmp_path_factory.mktemp("iris")
    features, labels = load_iris(return_X_y=True)
    scaler = StandardScaler().fit(features)
    predictor = program(folder, LogisticRegression().fit(scaler.transform(features), labels))
    flags = [
        "--mean",
        ",".join(map(str, scaler.mean_)),
        "--scale",
        ",".join(map(str, scaler.scale_)),
    ]
    # as KServe's controller starts a custom transformer; --workers is what it appends
    command = [sys.executable, "-m", "headrace.transformers.scaling", "--model_name", "iris"]
    with serving(predictor, folder, folder / "predictor.log") as behind:
        command += ["--predictor_host", f"127.0.0.1:{behind.http}", "--workers", "1", *flags]
        with serving(command, folder, folder / "transformer.log") as ports:
            yield ports


def test_raw_measurements_are_predicted_through_it(transformer: Ports) -> None:
    features, labels = load_iris(return_X_y=True)
    answer = post(transformer, "/v1/models/iris:predict", {"instances": features.tolist()})
    assert np.mean(np.array(answer["predictions"]) == labels) > 0.95


def post(ports: Ports, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{ports.http}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)
