"""Runs in the tritonclient environment: `python triton_calls.py CALLS.json`, as kserve_calls.py.

Protocols: V2 binary over HTTP and raw contents over gRPC, with tritonclient's own clients.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http


def timed(repeats, call):
    answer = call()
    times_s = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        answer = call()
        times_s.append(time.perf_counter() - started_s)
    return answer, sorted(times_s)[len(times_s) // 2] * 1e3


def run(call, module, target, protocol):
    rows = np.load(call["rows"])
    with module.InferenceServerClient(target) as client:
        tensor = module.InferInput(call["input_name"], list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        answer, p50_ms = timed(call["repeats"], lambda: client.infer(call["name"], [tensor]))
    values = answer.as_numpy(call["output_name"])
    row = {"name": call["name"], "client": "tritonclient", "protocol": protocol}
    print(json.dumps({**row, "answers": np.asarray(values).tolist(), "p50_ms": p50_ms}), flush=True)


for each in json.loads(Path(sys.argv[1]).read_text()):
    run(each, triton_http, each["http"], "V2 binary")
    run(each, triton_grpc, each["grpc"], "gRPC raw")
