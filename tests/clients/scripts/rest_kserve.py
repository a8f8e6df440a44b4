"""kserve.InferenceRESTClient against a server: `python rest_kserve.py http://HOST:PORT`."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferOutput, InferRequest
from kserve.inference_client import RESTConfig


async def main() -> None:
    base = sys.argv[1]
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    v2 = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    def request(binary: bool, model: str = "m") -> InferRequest:
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.array([[1, 2]], np.float32), binary_data=binary)
        return InferRequest(model, [tensor])

    async def doubled(sent: InferRequest) -> list[list[float]]:
        answer = await v2.infer(base, sent, model_name="m")
        output: InferOutput = answer.outputs[0]
        return output.as_numpy().tolist()

    binary_out = request(True)
    binary_out.parameters = {"binary_data_output": True}

    async def error_of(call: object) -> str:
        try:
            await call
        except httpx.HTTPStatusError as err:
            return str(err)
        return "none"

    print(
        json.dumps(
            {
                "v1 live": await v1.is_server_live(base),
                "live": await v2.is_server_live(base),
                "ready": await v2.is_server_ready(base),
                "v1 model ready": await v1.is_model_ready(base, "m"),
                "model ready": await v2.is_model_ready(base, "m"),
                "v1": await v1.infer(base, {"instances": [[1, 2]]}, model_name="m"),
                "v1 explain": await v1.explain(base, "returning", {"instances": [[1, 2]]}),
                "json": await doubled(request(False)),
                "binary": await doubled(request(True)),
                "binary out": await doubled(binary_out),
                "unknown": await error_of(v2.infer(base, request(False, "zz"), model_name="zz")),
            }
        )
    )


asyncio.run(main())
