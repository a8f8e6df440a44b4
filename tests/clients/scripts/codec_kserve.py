"""kserve's own request bodies to stdout, their answers from stdin: each must come back equal.

One line of JSON each way: [[body, JSON length or null], …] with the bodies in base64.
"""

import base64
import json
import sys

import numpy as np
from kserve import InferInput, InferRequest, InferResponse
from kserve.utils.numpy_codec import from_np_dtype

ARRAYS = [
    np.array([[True, False]]),
    *(np.array([[0, 1, 100]], f"u{size}") for size in (1, 2, 4, 8)),
    *(np.array([[-100], [100]], f"i{size}") for size in (1, 2, 4, 8)),
    np.array([1.5, -2], np.float16),
    np.array([[0.1, 6.8]], np.float32),
    np.array([[0.1, 6.8]], np.float64),
]


def main() -> None:
    requests = []
    sent = []
    for array in ARRAYS:
        datatype = from_np_dtype(array.dtype)
        for is_binary in (True, False):
            if datatype == "FP16" and not is_binary:
                continue
            tensor = InferInput("x", list(array.shape), datatype)
            tensor.set_data_from_numpy(array, binary_data=is_binary)
            parameters = {"binary_data_output": True} if is_binary else {}
            body, length = InferRequest("m", [tensor], "7", parameters=parameters).to_rest()
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            requests.append([base64.b64encode(body).decode(), length])
            sent.append(array)
    print(json.dumps(requests), flush=True)
    for array, (body, length) in zip(sent, json.loads(sys.stdin.readline()), strict=True):
        response = InferResponse.from_bytes(base64.b64decode(body), length)
        assert (response.id, response.model_name) == ("7", "m")
        back = response.outputs[0].as_numpy()
        assert back.shape == array.shape, (array, back)
        assert back.dtype == array.dtype, (array, back)
        assert back.tolist() == array.tolist(), (array, back)


main()
