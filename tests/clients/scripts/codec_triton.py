"""tritonclient's own request bodies to stdout, their answers from stdin: each must come back equal.

One line of JSON each way: [[body, JSON length or null], …] with the bodies in base64.
"""

import base64
import json
import sys

import ml_dtypes
import numpy as np
import tritonclient.http as http
from tritonclient.utils import np_to_triton_dtype

ARRAYS = [
    np.array([[True, False]]),
    *(np.array([[0, 1, 100]], f"u{size}") for size in (1, 2, 4, 8)),
    *(np.array([[-100], [100]], f"i{size}") for size in (1, 2, 4, 8)),
    np.array([2**64 - 1], np.uint64),
    np.array([1.5, -2], np.float16),
    np.array([1.5, -2], ml_dtypes.bfloat16),
    np.array([[0.1, 6.8]], np.float32),
    np.array([[0.1, 6.8]], np.float64),
    np.array([[b"a", "ü".encode()], [b"", b"b"]], np.object_),
    np.zeros((0, 2), np.float32),
]
NOT_IN_JSON = ("FP16", "BF16")


def main() -> None:
    sent = []
    requests = []
    for array in ARRAYS:
        datatype = np_to_triton_dtype(array.dtype)
        for is_input_binary in (True, False):
            for is_output_binary in (
                True,
                False,
                None,
            ):  # None: no outputs named, tritonclient's default
                if datatype in NOT_IN_JSON and (not is_input_binary or is_output_binary is False):
                    continue
                tensor = http.InferInput("x", list(array.shape), datatype)
                tensor.set_data_from_numpy(array, binary_data=is_input_binary)
                outputs = None
                if is_output_binary is not None:
                    outputs = [http.InferRequestedOutput("x", binary_data=is_output_binary)]
                body, length = http.InferenceServerClient.generate_request_body(
                    [tensor], outputs, request_id="7", priority=1, timeout=5_000_000
                )
                body = body.encode() if isinstance(body, str) else body
                requests.append([base64.b64encode(body).decode(), length])
                sent.append((array, is_input_binary, is_output_binary))
    print(json.dumps(requests), flush=True)
    for (array, *how), (body, length) in zip(sent, json.loads(sys.stdin.readline()), strict=True):
        result = http.InferenceServerClient.parse_response_body(
            base64.b64decode(body), header_length=length
        )
        assert result.get_response()["id"] == "7"
        back = result.as_numpy("x")
        if array.dtype == np.object_ and back.dtype == np.object_ and how[1] is False:
            back = np.array([str(v).encode() for v in back.ravel()], object).reshape(back.shape)
        assert back.shape == array.shape, (array, how, back)
        assert back.dtype == array.dtype, (array, how, back)
        assert back.tolist() == array.tolist(), (array, how, back)


main()
