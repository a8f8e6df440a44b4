"""tritonclient.grpc, blocking and aio, against a server's gRPC port: everything it can ask.

Run as `python grpc_triton.py HOST:PORT`; it fails with the assertion that does not hold. The server
serves "m" (y = 2 x, FP32 [-1, 2]), "mirror" and "counts" (streams), can load and unload "good", and
was told to unload "shelved".
"""

import asyncio
import queue
import sys

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

X = np.array([[1, 2], [3, 4]], np.float32)
ARRAYS = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "INT16": np.array([-32768, 7], np.int16),
    "UINT64": np.array([2**64 - 1, 0], np.uint64),
    "FP16": np.array([1.5, -2], np.float16),
    "BF16": np.array([1.5, -2], ml_dtypes.bfloat16),
    "FP64": np.array([1e300, np.nan]),
    "BYTES": np.array([[b"\xff\x00", b"a"], [b"", "é".encode()]], np.object_),
}


def tensor(array, datatype="FP32", name="x"):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def fails(call, code, text):
    got = ("OK", "")
    try:
        call()
    except InferenceServerException as err:
        got = (err.status().removeprefix("StatusCode."), err.message())
    assert got == (code, text), got


def describes(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "1")
    about = client.get_server_metadata(as_json=True)
    assert about["name"] == "headrace"
    assert "statistics" in about["extensions"]
    model = client.get_model_metadata("m", as_json=True)
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
    config = client.get_model_config("m", as_json=True)["config"]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    unknown = "Model with name zz does not exist."
    fails(lambda: client.is_model_ready("zz"), "NOT_FOUND", unknown)
    fails(lambda: client.get_model_metadata("zz"), "NOT_FOUND", unknown)
    fails(lambda: client.infer("zz", [tensor(X)]), "NOT_FOUND", unknown)
    fails(
        lambda: client.infer("m", [tensor(X)], model_version="9"),
        "NOT_FOUND",
        "Model with name m has no version '9' (versions: 1).",
    )


def infers(client):
    for compression in (None, "gzip", "deflate"):
        result = client.infer(
            "m",
            [tensor(X)],
            request_id="7",
            outputs=[triton.InferRequestedOutput("y")],
            priority=1,
            timeout=1_000_000,
            headers={"x-tenant": "blue"},
            parameters={"note": "text", "factor": 2, "is_new": True},
            compression_algorithm=compression,
        )
        assert result.get_response().id == "7"
        np.testing.assert_array_equal(result.as_numpy("y"), X * 2)
    for datatype, array in ARRAYS.items():
        result = client.infer("mirror", [tensor(array, datatype)])
        np.testing.assert_array_equal(result.as_numpy("x"), array)
        assert result.get_output("x").datatype == datatype
    best = client.infer(
        "m", [tensor(X)], outputs=[triton.InferRequestedOutput("y", class_count=1)]
    ).as_numpy("y")
    assert best.tolist() == [[b"4.000000:1"], [b"8.000000:1"]]
    answers = queue.Queue()
    client.async_infer("m", [tensor(X)], lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=20)
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("y"), X * 2)


def streams(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("m", [tensor(X)], request_id="one")
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.get_response().id == "one"
    assert result.get_response().parameters["triton_final_response"].bool_param
    np.testing.assert_array_equal(result.as_numpy("y"), X * 2)
    client.async_stream_infer(
        "counts",
        [tensor(np.array([2], np.int32), "INT32")],
        request_id="many",
        enable_empty_final_response=True,
    )
    told = []
    for _ in range(3):
        result, error = answers.get(timeout=20)
        assert error is None
        response = result.get_response()
        final = response.parameters["triton_final_response"].bool_param
        told.append((final, result.as_numpy("i").tolist() if response.outputs else None))
    assert told == [(False, [0]), (False, [1]), (True, None)], told
    client.async_stream_infer("zz", [tensor(X)], request_id="bad")
    _, error = answers.get(timeout=20)
    assert error.message() == "Model with name zz does not exist."
    client.async_stream_infer("m", [tensor(X)], request_id="after")
    assert answers.get(timeout=20)[0].get_response().id == "after"
    client.stop_stream()


def administers(client):
    index = client.get_model_repository_index(as_json=True)["models"]
    states = {row["name"]: row["state"] for row in index}
    assert (states["good"], states["shelved"]) == ("READY", "UNAVAILABLE")
    client.unload_model("good")
    assert not client.is_model_ready("good")
    client.load_model("good")
    assert client.is_model_ready("good")
    client.load_model("good", config="{}")
    fails(lambda: client.load_model("zz"), "NOT_FOUND", "Model with name zz does not exist.")
    (row,) = client.get_inference_statistics("m", as_json=True)["model_stats"]
    assert int(row["inference_stats"]["success"]["count"]) >= 3
    assert len(client.get_inference_statistics(as_json=True)["model_stats"]) >= 3
    none = "this server has no shared memory; send tensors in the request"
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.unregister_system_shared_memory,
        lambda: client.register_system_shared_memory("r", "/r", 64),
    ):
        fails(call, "UNIMPLEMENTED", none)
    shared = triton.InferInput("x", [1], "FP32")
    shared.set_shared_memory("r", 4)
    fails(
        lambda: client.infer("mirror", [shared]),
        "UNIMPLEMENTED",
        "'x': shared memory is not supported; send the tensor in the body, as JSON or binary",
    )


def changes_settings(client):
    settings = client.get_log_settings(as_json=True)["settings"]
    assert settings["log_error"] == {"bool_param": True}, settings
    changed = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert changed["log_verbose_level"] == {"uint32_param": 1}, changed
    client.update_log_settings({"log_verbose_level": 0})
    traces = client.get_trace_settings(as_json=True)["settings"]
    assert traces["trace_level"] == {"value": ["OFF"]}, traces
    traces = client.update_trace_settings("m", {"trace_level": ["OFF"]}, as_json=True)["settings"]
    assert traces["trace_level"] == {"value": ["OFF"]}, traces


async def works_with_aio(url):
    async with triton_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        result = await client.infer("m", [tensor(X)], compression_algorithm="gzip")
        np.testing.assert_array_equal(result.as_numpy("y"), X * 2)
        text = ""
        try:
            await client.infer("zz", [tensor(X)])
        except InferenceServerException as err:
            text = err.message()
        assert text == "Model with name zz does not exist."

        async def requests():
            for i in range(3):
                yield {"model_name": "m", "inputs": [tensor(X + i)], "request_id": str(i)}

        seen = {}
        async for result, error in client.stream_infer(requests()):
            assert error is None
            seen[result.get_response().id] = result.as_numpy("y")
        assert sorted(seen) == ["0", "1", "2"]
        np.testing.assert_array_equal(seen["2"], (X + 2) * 2)


def main(url):
    with triton.InferenceServerClient(url) as client:
        describes(client)
        infers(client)
        streams(client)
        administers(client)
        changes_settings(client)
    asyncio.run(works_with_aio(url))


if __name__ == "__main__":
    main(sys.argv[1])
