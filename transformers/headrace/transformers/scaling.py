"""A transformer that chooses and scales features before the predictor sees them.

python -m headrace.transformers.scaling --model_name iris --predictor_host localhost:8081 \
    --columns 0,2 --mean 5.8,3.8 --scale 0.8,1.8

Each row becomes `(row[columns] - mean) / scale`, so raw measurements can be sent to a model trained
on standardised ones. `--scaling_file` reads the same three from JSON: {"columns": [0, 2], …}.
V1 rows (lists, or objects with columns by name) and V2 tensors of shape (rows, features) alike.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.server import InferInput, InferRequest, InvalidInput, Model, ModelServer, parser

Column = int | str  # a position, or a key of rows that are objects


class ScalingError(ValueError):
    """Settings that make no scaling; the text names the flag."""


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """columns empty: all, in their order. mean and scale: one number each, or one per column."""

    columns: tuple[Column, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if 0.0 in self.scale:
            raise ScalingError("--scale: 0 is no scale; leave a constant column out of --columns")
        for name in ("mean", "scale"):
            count = len(getattr(self, name))
            if self.columns and count not in (1, len(self.columns)):
                raise ScalingError(
                    f"--{name}: expected 1 or {len(self.columns)} numbers, as many as --columns, "
                    f"got {count}"
                )

    def chosen(self, rows: NDArray[Any], at: str) -> NDArray[Any]:
        """The columns of rows, of shape (rows, features), by position.

        at: where the rows stood in the request, for the error text. Raises InvalidInput.
        """
        positions = [column for column in self.columns if isinstance(column, int)]
        if len(positions) < len(self.columns):
            raise InvalidInput(f"{at}: the columns {list(self.columns)} need rows of objects")
        if not positions:
            return rows
        check_numbers(rows, at)
        if max(positions) >= rows.shape[1]:
            raise InvalidInput(
                f"{at}: expected at least {max(positions) + 1} features, got {rows.shape[1]}"
            )
        return rows[:, positions]

    def scaled(self, rows: NDArray[Any], at: str) -> NDArray[Any]:
        """rows of the chosen columns, scaled: FP64. Raises InvalidInput where they do not fit."""
        check_numbers(rows, at)
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in (1, rows.shape[1]):
                raise InvalidInput(
                    f"{at}: expected {len(values)} features, one per --{name}, got {rows.shape[1]}"
                )
        result: NDArray[Any] = (rows - np.array(self.mean)) / np.array(self.scale)
        return result


def check_numbers(rows: NDArray[Any], at: str) -> None:
    if rows.ndim != 2 or rows.dtype.kind not in "biuf":
        raise InvalidInput(
            f"{at}: expected numbers of shape (rows, features), "
            f"got {rows.dtype} of shape {rows.shape}"
        )


class ScalingTransformer(Model):
    """predict is not overridden: it asks the predictor."""

    def __init__(self, name: str, scaling: Scaling) -> None:
        super().__init__(name)
        self.scaling = scaling

    def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        if isinstance(payload, InferRequest):
            return self._of_tensors(payload)
        if not isinstance(payload, dict):
            raise InvalidInput(f"expected a JSON object, got {type(payload).__name__}")
        key = "inputs" if "inputs" in payload else "instances"
        if not isinstance(payload.get(key), list):
            raise InvalidInput(f'expected a list "{key}"')
        rows = self._chosen(payload[key], key)
        return {**payload, key: self.scaling.scaled(rows, key).tolist()}

    def _chosen(self, rows: list[Any], key: str) -> NDArray[Any]:
        """rows as an array; of objects, the chosen columns in their order."""
        names = self.scaling.columns
        is_objects = bool(rows) and isinstance(rows[0], dict)
        try:
            if is_objects:
                names = names or tuple(rows[0])
                return np.array([[row[name] for name in names] for row in rows])
            array = np.array(rows)
        except KeyError as err:
            raise InvalidInput(f"{key}: a row has no column {err}") from err
        except (TypeError, ValueError) as err:
            raise InvalidInput(f"{key}: the rows make no array: {err}") from err
        return self.scaling.chosen(array, key)

    def _of_tensors(self, request: InferRequest) -> InferRequest:
        """request with its first input scaled, in the datatype it had."""
        first = request.inputs[0]
        array = first.as_numpy()
        at = f"input '{first.name}'"
        scaled = self.scaling.scaled(self.scaling.chosen(array, at), at).astype(array.dtype)
        tensor = InferInput(first.name, list(scaled.shape), first.datatype)
        tensor.set_data_from_numpy(scaled, binary_data=first.is_binary)
        request.inputs = [tensor, *request.inputs[1:]]
        return request


def main(argv: Sequence[str]) -> int:
    flags = argparse.ArgumentParser(prog="headrace.transformers.scaling", parents=[parser])
    flags.add_argument("--columns", help="comma-separated positions or names; default: all")
    flags.add_argument("--mean", help="comma-separated, or one for all; default 0")
    flags.add_argument("--scale", help="comma-separated, or one for all; default 1")
    flags.add_argument("--scaling_file", help="JSON of the three; the flags win over it")
    known, _ = flags.parse_known_args(argv)  # a controller may append flags of its own
    try:
        scaling = to_scaling(known.scaling_file, known.columns, known.mean, known.scale)
    except ScalingError as err:
        print(f"headrace.transformers.scaling: {err}", file=sys.stderr)
        return 2
    if not known.predictor_host:
        print("headrace.transformers.scaling: needs --predictor_host", file=sys.stderr)
        return 2
    model = ScalingTransformer(known.model_name, scaling)
    model.load()
    ModelServer().start([model])
    return 0


def to_scaling(
    path: str | None, columns: str | None, mean: str | None, scale: str | None
) -> Scaling:
    """The settings of a file and the flags over it. Raises ScalingError."""
    given: dict[str, Any] = {}
    if path:
        try:
            given = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as err:
            raise ScalingError(f"--scaling_file {path}: {err}") from err
    if columns is not None:
        given["columns"] = [int(c) if c.isdigit() else c for c in columns.split(",")]
    for name, text in (("mean", mean), ("scale", scale)):
        if text is not None:
            try:
                given[name] = [float(number) for number in text.split(",")]
            except ValueError as err:
                raise ScalingError(f"--{name} {text}: {err}") from err
    try:
        return msgspec.convert(given, Scaling)
    except msgspec.ValidationError as err:  # wraps what __post_init__ raises
        raise ScalingError(str(err)) from err


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
