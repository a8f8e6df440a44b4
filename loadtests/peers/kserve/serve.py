"""KServe's Python server, and headrace in its place (peers/headrace_model).

Its recommended settings (KServe's custom-model guide; `ModelServer` arguments): one worker per
core, latency logging and the access log off. V1, V2 and gRPC come with it.
"""

import os

os.environ.setdefault("HEADRACE_BENCH_LIBRARY", "kserve")

from loadtests.peers.command import arguments
from loadtests.peers.kserve.model import Bench, library

if __name__ == "__main__":
    given = arguments()
    library.ModelServer(
        http_port=given.http_port,
        grpc_port=given.grpc_port,
        workers=given.workers,
        enable_latency_logging=False,
        access_log_format=None,
    ).start([Bench(given.name)])
