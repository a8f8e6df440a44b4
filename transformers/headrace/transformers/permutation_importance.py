"""An explainer: how much each feature matters, by shuffling it and asking the predictor again.

python -m headrace.transformers.permutation_importance --model_name iris \
    --predictor_host localhost:8081

    POST /v1/models/iris:explain  {"instances": [[…], …], "targets": [0, 1, …]}
    → {"explanations": {"importances_mean": […], "importances_std": […], "baseline_score": 0.97}}

With `targets` an importance is how much the score falls when the feature is shuffled: accuracy, or
R² with `--score r2`. Without, it is how far predictions move: the share that changes, or the mean
distance where they are no whole numbers. Breiman, Random Forests (2001), §10, for any model.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.server import (
    InferInput,
    InferRequest,
    InferResponse,
    InvalidInput,
    Model,
    ModelServer,
    PredictorProtocol,
    Tensor,
    parser,
)


class Score(StrEnum):
    ACCURACY = "accuracy"
    R2 = "r2"


@dataclass(frozen=True, slots=True)
class Plan:
    """repeats: shuffles per feature. batch_rows: most rows of one request to the predictor."""

    repeats: int = 5
    seed: int = 0
    score: Score = Score.ACCURACY
    batch_rows: int = 10_000


def shuffled(rows: NDArray[Any], feature: int, plan: Plan) -> NDArray[Any]:
    """rows with one feature shuffled, once per repeat: shape (repeats, rows, features).

    The same plan shuffles the same way.
    """
    random = np.random.default_rng([plan.seed, feature])
    copies = np.repeat(rows[np.newaxis], plan.repeats, axis=0)
    for copy in copies:
        random.shuffle(copy[:, feature])
    return copies


def score(predicted: NDArray[Any], targets: NDArray[Any], kind: Score) -> float:
    """1 is perfect. R² of constant targets is 0, as there is nothing to explain."""
    if kind is Score.ACCURACY:
        return float(np.mean(predicted == targets))
    spread = float(np.sum((targets - targets.mean()) ** 2))
    return 1.0 - float(np.sum((targets - predicted) ** 2)) / spread if spread else 0.0


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """How far two sets of predictions are apart: the share that differs, or the mean distance."""
    if one.dtype.kind == "f":
        return float(np.mean(np.abs(one - other)))
    return float(np.mean(one != other))


def importances(
    baseline: NDArray[Any], moved: NDArray[Any], targets: NDArray[Any] | None, kind: Score
) -> list[float]:
    """One per repeat. baseline: predictions of shape (rows, …); moved: (repeats, rows, …), of the
    shuffled rows."""
    if targets is None:
        return [distance(baseline, each) for each in moved]
    whole = score(baseline, targets, kind)
    return [whole - score(each, targets, kind) for each in moved]


class PermutationImportance(Model):
    """`:explain` shuffles; `:predict` goes to the predictor as it is."""

    def __init__(
        self, name: str, plan: Plan, input_name: str = "input-0", datatype: str = "FP32"
    ) -> None:
        super().__init__(name)
        self.plan = plan
        self.input_name = input_name
        self.datatype = datatype

    async def explain(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        rows, targets = to_rows(payload)
        baseline = await self._predictions(rows, headers)
        found = np.array(
            [
                await self._importances(rows, feature, baseline, targets, headers)
                for feature in range(rows.shape[1])
            ]
        )
        explanations: dict[str, Any] = {
            "importances_mean": found.mean(axis=1).tolist(),
            "importances_std": found.std(axis=1).tolist(),
        }
        if targets is not None:
            explanations["baseline_score"] = score(baseline, targets, self.plan.score)
        return {"explanations": explanations}

    async def _importances(
        self,
        rows: NDArray[Any],
        feature: int,
        baseline: NDArray[Any],
        targets: NDArray[Any] | None,
        headers: dict[str, str] | None,
    ) -> list[float]:
        copies = await asyncio.to_thread(shuffled, rows, feature, self.plan)
        flat = copies.reshape(-1, rows.shape[1])
        step = max(self.plan.batch_rows, 1)
        parts = [
            await self._predictions(flat[start : start + step], headers)
            for start in range(0, len(flat), step)
        ]
        moved = np.concatenate(parts).reshape(len(copies), *baseline.shape)
        return importances(baseline, moved, targets, self.plan.score)

    async def _predictions(
        self, rows: NDArray[Any], headers: dict[str, str] | None
    ) -> NDArray[Any]:
        config = self.predictor_config
        if config is None or config.protocol == PredictorProtocol.REST_V1.value:
            answer = await self.predict({"instances": rows.tolist()}, headers)
            return np.array(answer["predictions"])
        array = InferInput(self.input_name, list(rows.shape), self.datatype, rows).as_numpy()
        tensor = InferInput.from_tensor(Tensor(self.input_name, array), is_binary=True)
        response: InferResponse = await self.predict(InferRequest(self.name, [tensor]), headers)
        return response.outputs[0].as_numpy()


def to_rows(payload: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Rows of shape (rows, features), and targets of shape (rows,) where there are any.

    Raises InvalidInput for anything else.
    """
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        raise InvalidInput('expected a JSON object with a list "instances"')
    try:
        rows = np.array(payload["instances"], dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise InvalidInput(f"instances: expected rows of numbers: {err}") from err
    if rows.ndim != 2 or len(rows) < 2:
        raise InvalidInput(
            f"instances: expected at least 2 rows of numbers to shuffle, got shape {rows.shape}"
        )
    if payload.get("targets") is None:
        return rows, None
    targets = np.array(payload["targets"])
    if targets.shape != (len(rows),):
        raise InvalidInput(f"targets: expected {len(rows)}, one per row, got {targets.shape}")
    return rows, targets


def main(argv: Sequence[str]) -> int:
    name = "headrace.transformers.permutation_importance"
    usual = Plan()
    flags = argparse.ArgumentParser(prog=name, parents=[parser])
    flags.add_argument("--repeats", type=int, default=usual.repeats, help="shuffles per feature")
    flags.add_argument("--seed", type=int, default=usual.seed)
    flags.add_argument("--score", type=Score, choices=list(Score), default=usual.score)
    flags.add_argument("--batch_rows", type=int, default=usual.batch_rows)
    flags.add_argument("--input_name", default="input-0", help="of the predictor, over v2")
    flags.add_argument("--datatype", default="FP32", help="of the predictor's input, over v2")
    known, _ = flags.parse_known_args(argv)  # a controller may append flags of its own
    if not known.predictor_host:
        print(f"{name}: needs --predictor_host", file=sys.stderr)
        return 2
    plan = Plan(known.repeats, known.seed, known.score, known.batch_rows)
    model = PermutationImportance(known.model_name, plan, known.input_name, known.datatype)
    model.load()
    ModelServer().start([model])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
