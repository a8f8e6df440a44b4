"""A client package and our gRPC edge in one process, imported in either order, and an inference.

Run as `python grpc_beside.py kserve|tritonclient|mlserver client|server` from the repository's
root; the second word is what is imported first. Three packages register `inference.*` in
protobuf's default pool; ours does not, or one of the imports would raise TypeError.
"""

import asyncio
import importlib
import sys

import grpc

MODULES = {
    "kserve": (
        "kserve",
        "kserve.protocol.grpc.grpc_predict_v2_pb2",
        "kserve.protocol.grpc.grpc_predict_v2_pb2_grpc",
    ),
    "tritonclient": (
        "tritonclient.grpc",
        "tritonclient.grpc.service_pb2",
        "tritonclient.grpc.service_pb2_grpc",
    ),
    "mlserver": (
        "mlserver",
        "mlserver.grpc.dataplane_pb2",
        "mlserver.grpc.dataplane_pb2_grpc",
    ),
}


async def infer(messages, stubs):
    """y = 2 x through the client package's own messages and stub."""
    from tests.server.grpc.client import Double
    from tests.serving import running, served

    async with (
        running(served("m", Double())) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
    ):
        request = messages.ModelInferRequest(model_name="m")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        tensor.contents.fp32_contents.extend([1, 2])
        reply = await stubs.GRPCInferenceServiceStub(channel).ModelInfer(request)
        assert list(reply.outputs[0].contents.fp32_contents) == [2, 4], reply


def main(client, first):
    package, messages, stubs = MODULES[client]
    ours = "headrace.server.grpc.listener"
    order = [package, messages, ours] if first == "client" else [ours, package, messages]
    for name in order:
        importlib.import_module(name)
    asyncio.run(infer(importlib.import_module(messages), importlib.import_module(stubs)))
    import google.protobuf

    print(google.protobuf.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
