"""tritonclient.http against a server: `python rest_tritonclient.py HOST:PORT`; prints JSON."""

import json
import sys

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1], concurrency=2)
x = np.array([[1, 2], [3, 4]], np.float32)


def tensor(binary: bool) -> triton.InferInput:
    found = triton.InferInput("x", [2, 2], "FP32")
    found.set_data_from_numpy(x, binary_data=binary)
    return found


def doubled(binary: bool, **more: object) -> list[list[float]]:
    outputs = more.pop("outputs", None)
    answer = client.infer("m", [tensor(binary)], outputs=outputs, **more)
    return answer.as_numpy("y").tolist()


def error_of(call: object) -> str:
    try:
        call()
    except triton.InferenceServerException as err:
        return f"{err.status()} {err.message()}"
    return "none"


words = triton.InferInput("words", [2], "BYTES")
words.set_data_from_numpy(np.array([b"a", "é".encode()], np.object_))
asked = triton.InferRequestedOutput("y", binary_data=False)
top = triton.InferRequestedOutput("y", class_count=1)

print(
    json.dumps(
        {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready("m x"),
            "unknown_ready": client.is_model_ready("zz"),
            "server": client.get_server_metadata()["name"],
            "inputs": client.get_model_metadata("m")["inputs"],
            "config": client.get_model_config("m")["name"],
            "json": doubled(False, outputs=[asked]),
            "json in, binary out": doubled(False),
            "binary": doubled(True, request_id="7", timeout=5_000_000),
            "version": doubled(True, model_version="1"),
            "gzip": doubled(
                True, request_compression_algorithm="gzip", response_compression_algorithm="gzip"
            ),
            "deflate": doubled(
                True,
                request_compression_algorithm="deflate",
                response_compression_algorithm="deflate",
            ),
            "bytes": [
                word.decode() for word in client.infer("m x", [words]).as_numpy("words").tolist()
            ],
            "classes": [
                row[0].decode()
                for row in client.infer("m", [tensor(True)], outputs=[top]).as_numpy("y").tolist()
            ],
            "async": client.async_infer("m", [tensor(True)]).get_result().as_numpy("y").tolist(),
            "statistics": client.get_inference_statistics("m")["model_stats"][0]["name"],
            "index": [row["name"] for row in client.get_model_repository_index()],
            "log": client.get_log_settings()["log_format"],
            "trace": client.get_trace_settings()["trace_level"],
            "unknown model": error_of(lambda: client.infer("zz", [tensor(True)])),
            "unknown load": error_of(lambda: client.load_model("zz")),
            "shared memory": error_of(client.get_system_shared_memory_status),
            "unload": client.unload_model("stats"),
        }
    )
)
