"""The permutation-importance explainer: its arithmetic, and as a process before a predictor."""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression

from headrace.server import InferOutput, InferRequest, InferResponse, InvalidInput, PredictorConfig
from headrace.transformers.permutation_importance import (
    PermutationImportance,
    Plan,
    Score,
    distance,
    importances,
    main,
    score,
    shuffled,
    to_rows,
)
from tests.server.sdk.programs import Ports, serving
from tests.transformers.predictors import program

ROWS = np.arange(12, dtype=float).reshape(4, 3)


def test_one_feature_is_shuffled_and_the_others_stay() -> None:
    copies = shuffled(ROWS, 1, Plan(repeats=3, seed=1))
    assert copies.shape == (3, 4, 3)
    for copy in copies:
        assert sorted(copy[:, 1]) == sorted(ROWS[:, 1])
        np.testing.assert_array_equal(copy[:, [0, 2]], ROWS[:, [0, 2]])


def test_a_seed_shuffles_the_same_way_and_another_does_not() -> None:
    rows = np.arange(100, dtype=float).reshape(50, 2)
    one, same, other = (shuffled(rows, 0, Plan(seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("predicted", "targets", "kind", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 5], Score.ACCURACY, 0.75),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], Score.R2, 1.0),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], Score.R2, 0.0),
        ([1.0, 1.0], [1.0, 1.0], Score.R2, 0.0),
    ],
    ids=["accuracy", "perfect", "no better than the mean", "nothing to explain"],
)
def test_score(predicted: Any, targets: Any, kind: Score, expected: float) -> None:
    assert score(np.array(predicted), np.array(targets), kind) == expected


def test_distance_is_the_share_of_labels_that_differ_or_how_far_numbers_are() -> None:
    assert distance(np.array([1, 2]), np.array([1, 3])) == 0.5
    assert distance(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 1.0


def test_importances_are_what_the_score_loses() -> None:
    targets = np.array([0, 1])
    moved = np.array([[0, 1], [1, 1], [1, 0]])
    assert importances(targets, moved, targets, Score.ACCURACY) == [0.0, 0.5, 1.0]
    assert importances(targets, moved, None, Score.ACCURACY) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", 'expected a JSON object with a list "instances"'),
        ({"instances": 1}, 'expected a JSON object with a list "instances"'),
        (
            {"instances": [[1, 2]]},
            "instances: expected at least 2 rows of numbers to shuffle, got shape (1, 2)",
        ),
        (
            {"instances": [["a"], ["b"]]},
            "instances: expected rows of numbers: could not convert string to float: 'a'",
        ),
        (
            {"instances": [[1], [2]], "targets": [1]},
            "targets: expected 2, one per row, got (1,)",
        ),
    ],
)
def test_what_it_cannot_explain_is_refused(payload: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_rows(payload)
    assert str(caught.value) == message


def test_over_v2_it_sends_tensors_in_requests_of_a_bounded_size() -> None:
    sizes: list[int] = []

    class Sums(PermutationImportance):
        async def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:
            array = payload.inputs[0].as_numpy()
            sizes.append(len(array))
            assert (payload.inputs[0].name, payload.inputs[0].datatype) == ("x", "FP64")
            output = InferOutput("y", [len(array)], "FP64", array[:, 0] * 2)
            return InferResponse("1", "m", [output])

    model = Sums("m", Plan(repeats=2, batch_rows=3), "x", "FP64")
    model._predictor_config = PredictorConfig("nowhere", "v2")
    explained = asyncio.run(model.explain({"instances": ROWS.tolist()}))["explanations"]
    assert explained["importances_mean"][0] > 0
    assert explained["importances_mean"][1:] == [0, 0]
    assert sizes == [4, *([3, 3, 2] * 3)]


def test_without_a_predictor_it_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model_name", "m"]) == 2
    name = "headrace.transformers.permutation_importance"
    assert capsys.readouterr().err == f"{name}: needs --predictor_host\n"


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any, LogisticRegression]:
    features, labels = load_iris(return_X_y=True)
    return features, labels, LogisticRegression(max_iter=500).fit(features, labels)


@pytest.fixture(scope="module")
def explainer(
    tmp_path_factory: pytest.TempPathFactory, iris: tuple[Any, Any, LogisticRegression]
) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("iris")
    predictor = program(folder, iris[2])
    command = [sys.executable, "-m", "headrace.transformers.permutation_importance"]
    command += ["--model_name", "iris", "--repeats", "10"]
    with serving(predictor, folder, folder / "predictor.log") as behind:
        command += ["--predictor_host", f"127.0.0.1:{behind.http}"]
        with serving(command, folder, folder / "explainer.log") as ports:
            yield ports


def test_it_agrees_with_scikit_learn(
    explainer: Ports, iris: tuple[Any, Any, LogisticRegression]
) -> None:
    features, labels, model = iris
    body = {"instances": features.tolist(), "targets": labels.tolist()}
    explained = post(explainer, "/v1/models/iris:explain", body)["explanations"]
    own = permutation_importance(model, features, labels, n_repeats=10, random_state=0)
    np.testing.assert_allclose(explained["importances_mean"], own.importances_mean, atol=0.06)
    assert explained["baseline_score"] == model.score(features, labels)


def test_it_predicts_by_the_predictor(
    explainer: Ports, iris: tuple[Any, Any, LogisticRegression]
) -> None:
    features, _, model = iris
    body = {"instances": features[:5].tolist()}
    answer = post(explainer, "/v1/models/iris:predict", body)
    assert answer["predictions"] == model.predict(features[:5]).tolist()


def test_a_predictors_error_comes_through(explainer: Ports) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(explainer, "/v1/models/iris:explain", {"instances": [[1.0], [2.0]]})
    with caught.value as reply:
        assert (reply.code, json.load(reply)) == (
            500,
            {
                "error": "ValueError : X has 1 features, "
                "but LogisticRegression is expecting 4 features as input."
            },
        )


def post(ports: Ports, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{ports.http}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)
