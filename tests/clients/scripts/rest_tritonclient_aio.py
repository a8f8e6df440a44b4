"""tritonclient.http.aio against a server: `python rest_tritonclient_aio.py HOST:PORT`."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as aio


async def main() -> None:
    x = np.array([[1, 2]], np.float32)
    async with aio.InferenceServerClient(sys.argv[1]) as client:

        async def doubled(binary: bool, **more: object) -> list[list[float]]:
            tensor = aio.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(x, binary_data=binary)
            answer = await client.infer("m", [tensor], **more)
            return answer.as_numpy("y").tolist()

        async def error_of(call: object) -> str:
            try:
                await call
            except triton.InferenceServerException as err:
                return f"{err.status()} {err.message()}"
            return "none"

        asked = [aio.InferRequestedOutput("y", binary_data=False)]
        print(
            json.dumps(
                {
                    "live": await client.is_server_live(),
                    "ready": await client.is_server_ready(),
                    "model_ready": await client.is_model_ready("m x"),
                    "server": (await client.get_server_metadata())["name"],
                    "json": await doubled(False, outputs=asked),
                    "binary": await doubled(True),
                    "gzip": await doubled(
                        True,
                        request_compression_algorithm="gzip",
                        response_compression_algorithm="gzip",
                    ),
                    "index": [row["name"] for row in await client.get_model_repository_index()],
                    "log": (await client.get_log_settings())["log_format"],
                    "unload": await client.unload_model("stats"),
                    "unknown load": await error_of(client.load_model("zz")),
                }
            )
        )


asyncio.run(main())
