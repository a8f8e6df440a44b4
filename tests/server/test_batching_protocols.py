"""V1, V2 REST, binary V2 and gRPC requests of one model meet in one batch; each gets its own."""

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.server.batching import BatchPolicy
from headrace.server.execution import Executor
from headrace.server.repository import ServedModel
from headrace.server.request import Request
from headrace.server.servable import TensorServable
from headrace.server.tensor import Datatype, Tensor, TensorSpec
from tests.server.grpc.client import connected
from tests.server.rest.client import ask
from tests.serving import running

ROWS = (TensorSpec("x", Datatype.FP32, (-1, 2)),)


class Doubling:
    """Doubles; the first call waits until it is let go."""

    inputs: Sequence[TensorSpec] = ROWS
    outputs: Sequence[TensorSpec] = (TensorSpec("y", Datatype.FP32, (-1, 2)),)

    def __init__(self) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        self.rows: list[int] = []

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self.rows.append(inputs[0].array.shape[0])
        self.started.set()
        assert self.go.wait(10)
        return [Tensor("y", inputs[0].array * 2)]


def v2_body(*rows: float) -> bytes:
    data = [[value, value] for value in rows]
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def test_all_protocols_meet_in_one_batch() -> None:
    async def main() -> None:
        model = Doubling()
        executor: Executor[Any] = Executor("m", [model])
        servable = TensorServable(executor, "test", policy=BatchPolicy(16))
        async with (
            running(ServedModel("m", servable)) as server,
            connected(server) as client,
        ):
            port = server.ports.http
            first = asyncio.create_task(ask(port, "POST", "/v2/models/m/infer", v2_body(1)))
            assert await asyncio.to_thread(model.started.wait, 10)
            v1 = asyncio.create_task(
                ask(port, "POST", "/v1/models/m:predict", b'{"instances": [[2, 2], [3, 3]]}')
            )
            v2 = asyncio.create_task(ask(port, "POST", "/v2/models/m/infer", v2_body(4, 5)))
            x = Tensor("x", np.full((1, 2), 6, np.float32))
            grpc = asyncio.create_task(client.infer(Request("m", [x])))
            async with asyncio.timeout(10):
                while executor.pending_requests < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)  # three sockets: no event of ours says so
            model.go.set()
            assert json.loads((await v1).body)["predictions"] == [[4, 4], [6, 6]]
            assert json.loads((await v2).body)["outputs"][0]["data"] == [8, 8, 10, 10]
            assert (await grpc).outputs[0].array.tolist() == [[12, 12]]
            await first
            assert model.rows == [1, 5]
            (row,) = await server.control.statistics("m")
            assert (row["inference_count"], row["execution_count"]) == (6, 2)
            sizes = {
                each["batch_size"]: each["compute_infer"]["count"] for each in row["batch_stats"]
            }
            assert sizes == {1: 1, 5: 1}
            told = json.loads((await ask(port, "GET", "/v2/models/m/batching")).body)
            assert (told["name"], told["dispatched"]) == ("m", {"idle_instance": 2})
            assert [batch["rows"] for batch in told["recent"]] == [1, 5]
            metrics = (await ask(port, "GET", "/metrics")).body.decode()
            for line in (
                'headrace_batches_total{model="m",reason="idle_instance",version="1"} 2.0',
                'headrace_batch_rows_bucket{le="1.0",model="m",version="1"} 1.0',
                'headrace_batch_rows_sum{model="m",version="1"} 6.0',
            ):
                assert line in metrics

    asyncio.run(main())
