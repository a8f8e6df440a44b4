"""The classification extension (contract §4.8): scores to "<value>:<index>", highest first."""

import numpy as np

from headrace.server.errors import InvalidInput
from headrace.server.tensor import Datatype, Tensor, bytes_array


def top_classes(tensor: Tensor, count: int) -> Tensor:
    """BYTES of shape (count,), or (rows, count) where tensor has rows; fewer if it has fewer.

    Raises InvalidInput for a tensor of text or booleans, which have no order.
    """
    if tensor.datatype in (Datatype.BYTES, Datatype.BOOL):
        raise InvalidInput(
            f"output '{tensor.name}': classification needs numbers, it is {tensor.datatype}"
        )
    has_rows = tensor.array.ndim > 1
    scores = tensor.array.reshape(tensor.shape[0], -1) if has_rows else tensor.array.reshape(1, -1)
    kept = min(count, scores.shape[1])
    comparable = scores if tensor.datatype.startswith(("INT", "UINT")) else scores.astype("f8")
    # Stable from the end, then turned round: of equal scores the lower index comes first.
    order = scores.shape[1] - 1 - np.argsort(comparable[:, ::-1], axis=1, kind="stable")
    order = order[:, ::-1][:, :kept]
    elements = [
        f"{float(row[i]):f}:{i}".encode()
        for row, best in zip(comparable, order, strict=True)
        for i in best.tolist()
    ]
    shape = (scores.shape[0], kept) if has_rows else (kept,)
    return Tensor(tensor.name, bytes_array(elements, shape), Datatype.BYTES)
