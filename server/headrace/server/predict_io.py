"""From what a model receives to what its framework predicts on, and back (contract §6.2).

KServe's `get_predict_input` and `get_predict_response`, for V1 dicts and `InferRequest`s alike.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.server.errors import InvalidInput
from headrace.server.infer_types import InferOutput, InferRequest, InferResponse
from headrace.server.protocol.v2_response import random_id
from headrace.server.settings import FALSE, TRUE
from headrace.server.tensor import datatype_of


def get_predict_input(payload: Any, columns: Sequence[str] | None = None) -> Any:
    """payload's rows: a pandas frame for rows of objects or `content_type: pd`, a list for
    strings, else an array in the shape the caller gave.

    columns: order and choice of a frame's columns. `inputs` wins over `instances`.
    """
    if isinstance(payload, dict):
        rows = payload["inputs"] if "inputs" in payload else payload["instances"]
        return _from_rows(rows, columns)
    if isinstance(payload, InferRequest):
        if (payload.parameters or {}).get("content_type") == "pd":
            return _chosen(payload.as_dataframe(), columns)
        first = payload.inputs[0]
        if first.datatype == "BYTES":
            # KServe flattens; here a caller's [2, 2] stays two rows of two (contract §11 row 17)
            flat = np.array(first.as_string(), dtype=object)
            return flat.reshape(first.shape).tolist()
        return first.as_numpy()
    return None


def get_predict_response(payload: Any, result: Any, model_name: str) -> Any:
    """result in the form of payload: `{"predictions": …}`, or an InferResponse with its id.

    A frame's columns become outputs of their names, anything else `output-0`.
    Raises InvalidInput for a payload that is neither.
    """
    if isinstance(payload, dict):
        return {"predictions": _v1_rows(result)}
    if not isinstance(payload, InferRequest):
        raise InvalidInput(f"unsupported payload type {type(payload)}")
    if _is_frame(result):
        outputs = [_output(str(name), result[name].to_numpy()) for name in result.columns]
    else:
        outputs = [_output("output-0", np.asarray(result))]
    response_id = payload.id or generate_uuid()
    return InferResponse(
        response_id,
        model_name,
        outputs,
        from_grpc=payload.from_grpc,
        use_binary_outputs=payload.use_binary_outputs,
        requested_outputs=payload.request_outputs,
    )


def _from_rows(rows: Any, columns: Sequence[str] | None) -> Any:
    first = rows[0] if isinstance(rows, list) and rows else None
    if isinstance(first, list) and first and isinstance(first[0], dict):
        rows = [row for group in rows for row in group]
        first = rows[0]
    if isinstance(first, dict):
        pandas = _pandas()
        # each row is a small frame of its own: its columns may be lists
        frames = [
            pandas.DataFrame(
                {k: v if isinstance(v, list) else [v] for k, v in row.items()}, columns=columns
            )
            for row in rows
        ]
        return pandas.concat(frames, axis=0)
    if isinstance(first, str):
        return rows
    return np.array(rows)


def _chosen(frame: Any, columns: Sequence[str] | None) -> Any:
    return frame if columns is None else frame[list(columns)]


def _v1_rows(result: Any) -> Any:
    if _is_frame(result):
        return result.to_dict(orient="records")
    return result.tolist() if isinstance(result, np.ndarray) else result


def _output(name: str, array: Any) -> InferOutput:
    output = InferOutput(name, list(array.shape), datatype_of(array))
    output.set_data_from_numpy(array, binary_data=False)
    return output


def _is_frame(result: Any) -> bool:
    return type(result).__module__.startswith("pandas") and hasattr(result, "columns")


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as err:
        raise ImportError("rows of objects need pandas: pip install 'headrace[pandas]'") from err
    return pandas


def generate_uuid() -> str:
    """A fresh request id."""
    return random_id()


def to_headers(context: Any) -> dict[str, str]:
    """The invocation metadata of a gRPC call, as hooks get it."""
    return dict(context.invocation_metadata())


def strtobool(val: str) -> bool:
    """KServe's spellings of a boolean. Raises ValueError for another."""
    word = val.lower()
    if word not in TRUE | FALSE:
        raise ValueError(f"invalid truth value {val!r}")
    return word in TRUE
