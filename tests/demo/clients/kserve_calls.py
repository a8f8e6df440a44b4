"""Runs in the kserve environment: `python kserve_calls.py CALLS.json`, one JSON answer a line.

Each call: {name, http, grpc, input_name, rows: PATH.npy, repeats}. Protocols: V1 and V2 JSON over
REST, V2 over gRPC (typed contents), all with kserve's own clients.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)


async def timed(repeats, call):
    answer = await call()
    times_s = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        answer = await call()
        times_s.append(time.perf_counter() - started_s)
    return answer, sorted(times_s)[len(times_s) // 2] * 1e3


def report(call, protocol, values, p50_ms):
    row = {"name": call["name"], "client": "kserve", "protocol": protocol}
    print(json.dumps({**row, "answers": np.asarray(values).tolist(), "p50_ms": p50_ms}), flush=True)


async def run(call):
    rows = np.load(call["rows"])
    url = f"http://{call['http']}"
    body = {"instances": rows.tolist()}
    async with _rest("v1") as client:
        answer, p50_ms = await timed(
            call["repeats"], lambda: client.infer(url, body, model_name=call["name"])
        )
        predictions = answer["predictions"]
        if isinstance(predictions[0], dict):  # a model of several outputs
            predictions = [row[call["output_name"]] for row in predictions]
        report(call, "V1", predictions, p50_ms)

    def request(binary):
        tensor = InferInput(call["input_name"], list(rows.shape), "FP32")
        if binary:
            tensor.set_data_from_numpy(rows)
        else:
            tensor.data = rows.ravel().tolist()
        return InferRequest(call["name"], [tensor])

    async with _rest("v2") as client:
        answer, p50_ms = await timed(
            call["repeats"], lambda: client.infer(url, request(False), model_name=call["name"])
        )
        report(call, "V2 JSON", chosen(call, answer), p50_ms)
    client = InferenceGRPCClient(call["grpc"])
    answer, p50_ms = await timed(call["repeats"], lambda: client.infer(request(False)))
    report(call, "gRPC typed", chosen(call, answer), p50_ms)
    await client.close()


def chosen(call, answer):
    for output in answer.outputs:
        if output.name == call["output_name"]:
            return output.as_numpy()
    return answer.outputs[0].as_numpy()


class _rest:
    def __init__(self, protocol):
        self.client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=60))

    async def __aenter__(self):
        return self.client

    async def __aexit__(self, *error):
        await self.client.close()


async def main(calls):
    for call in calls:
        await run(call)


asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
