"""kserve's InferenceGRPCClient against a server's gRPC port: typed and raw, and every question.

Run as `python grpc_kserve.py HOST:PORT`; the server serves "m" (y = 2 x, FP32 [-1, 2]), "mirror",
was told to unload "shelved", and can load and unload "good".
"""

import asyncio
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

ROWS = [[1.0, 2.0], [3.0, 4.0]]


async def fails(call, code, text):
    got = ("OK", "")
    try:
        await call
    except grpc.RpcError as err:
        got = (err.code().name, err.details())
    assert got == (code, text), got


async def infers(client):
    typed = InferInput("x", [2, 2], "FP32", data=[1.0, 2.0, 3.0, 4.0])
    answer = await client.infer(
        InferRequest(model_name="m", infer_inputs=[typed], request_id="7"),
        headers=[("x-tenant", "blue")],
    )
    assert (answer.model_name, answer.id, answer.outputs[0].data) == ("m", "7", [2, 4, 6, 8])
    raw = InferInput("x", [2, 2], "FP32")
    raw.set_data_from_numpy(np.array(ROWS, np.float32), binary_data=True)
    answer = await client.infer(InferRequest(model_name="m", infer_inputs=[raw]))
    np.testing.assert_array_equal(answer.outputs[0].as_numpy(), [[2, 4], [6, 8]])
    half = InferInput("x", [2, 2], "FP16")
    half.set_data_from_numpy(np.array(ROWS, np.float16), binary_data=True)
    answer = await client.infer(InferRequest(model_name="mirror", infer_inputs=[half]))
    np.testing.assert_array_equal(answer.outputs[0].as_numpy(), np.array(ROWS, np.float16))
    text = InferInput("x", [2], "BYTES", data=["a", "bc"])
    answer = await client.infer(InferRequest(model_name="mirror", infer_inputs=[text]))
    assert answer.outputs[0].as_numpy().tolist() == [b"a", b"bc"]
    other = InferInput("other", [2, 2], "FP32", data=[1.0, 2.0, 3.0, 4.0])
    await fails(
        client.infer(InferRequest(model_name="m", infer_inputs=[other])),
        "INVALID_ARGUMENT",
        "unexpected inference input 'other' for model 'm'; expected 'x' (FP32, [-1, 2])",
    )


async def asks(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("m")
    assert not await client.is_model_ready("shelved")
    unknown = "Model with name zz does not exist."
    await fails(client.is_model_ready("zz"), "NOT_FOUND", unknown)
    zz = InferRequest(model_name="zz", infer_inputs=[InferInput("x", [1], "FP32", data=[1.0])])
    await fails(client.infer(zz), "NOT_FOUND", unknown)


async def loads(url):
    """The client has no load call; its stub has, with the name in field 1."""
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as stubs

    async with grpc.aio.insecure_channel(url) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        reply = await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="good"))
        assert (reply.model_name, reply.isUnloaded) == ("good", True)
        reply = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="good"))
        assert (reply.model_name, reply.isLoaded) == ("good", True)


async def main(url):
    async with InferenceGRPCClient(url) as client:
        await infers(client)
        await asks(client)
    await loads(url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
