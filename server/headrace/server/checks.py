"""A request against what its model declares: pure checks with whole-sentence errors.

Order and texts: data-plane contract §2.5. A model that declares nothing gets structural checks only
(its codec's); one that does is strict about names, datatypes and shapes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from headrace.server.errors import InvalidInput
from headrace.server.request import Request
from headrace.server.tensor import Tensor, TensorSpec


def check_inputs(request: Request, declared: Sequence[TensorSpec]) -> None:
    """Raises InvalidInput for an unknown, missing or ill-typed input; declared empty: no check."""
    if not declared or _fit_in_order(request.inputs, declared):
        return
    declared = as_columns(declared, [tensor.name for tensor in request.inputs])
    specs = {spec.name: spec for spec in declared}
    model = request.model_name
    for tensor in request.inputs:
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidInput(
                f"unexpected inference input '{tensor.name}' for model '{model}'; "
                f"expected {', '.join(describe(spec) for spec in declared)}"
            )
        if tensor.datatype is not spec.datatype and tensor.datatype not in spec.accepts:
            raise InvalidInput(
                f"inference input '{tensor.name}' data-type is '{tensor.datatype}', "
                f"but model '{model}' expects '{spec.datatype}'"
            )
        if not fits(tensor.shape, spec.shape):
            raise InvalidInput(
                f"unexpected shape for input '{tensor.name}' for model '{model}'. "
                f"Expected {list(spec.shape)}, got {list(tensor.shape)}."
            )
    given = {tensor.name for tensor in request.inputs}
    missing = [spec for spec in declared if spec.name not in given and not spec.is_optional]
    if missing:
        raise InvalidInput(
            f"expected {len(declared)} inputs but got {len(given)} inputs for model '{model}': "
            f"missing required input(s) {', '.join(describe(spec) for spec in missing)}"
        )


def _fit_in_order(inputs: Sequence[Tensor], declared: Sequence[TensorSpec]) -> bool:
    """The common case at little cost: all inputs, in the order declared, and nothing wrong."""
    if len(inputs) != len(declared):
        return False
    for tensor, spec in zip(inputs, declared, strict=True):
        if (
            tensor.name != spec.name
            or tensor.datatype is not spec.datatype
            or not fits(tensor.array.shape, spec.shape)
        ):
            return False
    return True


def as_columns(declared: Sequence[TensorSpec], names: Iterable[str]) -> Sequence[TensorSpec]:
    """declared; of a model whose only input is a table, its columns where names has one of them."""
    columns = declared[0].columns if len(declared) == 1 else ()
    if columns and not {spec.name for spec in columns}.isdisjoint(names):
        return columns
    return declared


def check_requested_outputs(request: Request, declared: Sequence[TensorSpec]) -> None:
    """Raises InvalidInput for a requested output the model is known not to have."""
    if not declared or not request.outputs:
        return
    names = {spec.name for spec in declared}
    for output in request.outputs:
        if output.name not in names:
            raise _unexpected_output(output.name, request.model_name, sorted(names))


def select_outputs(outputs: Sequence[Tensor], request: Request) -> list[Tensor]:
    """Exactly the requested outputs, in the order requested. Raises InvalidInput for another."""
    by_name = {tensor.name: tensor for tensor in outputs}
    for output in request.outputs:
        if output.name not in by_name:
            raise _unexpected_output(output.name, request.model_name, list(by_name))
    return [by_name[output.name] for output in request.outputs]


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """True if shape has declared's rank and its fixed dimensions (-1 is free)."""
    if len(shape) != len(declared):
        return False
    for got, want in zip(shape, declared, strict=True):  # noqa: SIM110 - a generator costs more
        if got != want != -1:
            return False
    return True


def describe(spec: TensorSpec) -> str:
    """A declared tensor in an error text: name (datatype, shape)."""
    return f"'{spec.name}' ({spec.datatype}, {list(spec.shape)})"


def row_count(inputs: Sequence[Tensor]) -> int:
    """Rows of a request: the first dimension of its first input; a scalar or nothing counts 1."""
    return inputs[0].array.shape[0] if inputs and inputs[0].array.ndim else 1


def v1_row_count(payload: Any) -> int:
    """Rows of a V1 payload: the length of its `inputs` or `instances` list, else 1."""
    if isinstance(payload, dict):
        rows = payload.get("inputs", payload.get("instances"))
        if isinstance(rows, list):
            return len(rows)
    return 1


def _unexpected_output(name: str, model_name: str, known: Sequence[str]) -> InvalidInput:
    return InvalidInput(
        f"Unexpected inference output '{name}' for model '{model_name}'; "
        f"it has {', '.join(known) or 'none'}"
    )
