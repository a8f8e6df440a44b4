"""The same work for people who prefer Locust's UI: users by protocol, load by shape.

locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 --model tiny V2User
… --grpc 127.0.0.1:8081 GrpcUser
… --shape step|spike|soak --peak 100 --minutes 5     instead of --users and --run-time
"""

import time
from typing import Any

import numpy as np
from locust import FastHttpUser, LoadTestShape, User, constant, events, task

from loadtests import shapes
from loadtests.wires import RPC, Request, Wire, encode

ROW = np.array([[6.8, 2.8, 4.8, 1.4]], np.float32)


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--model", default="tiny", help="takes FP32[rows, 4]")
    parser.add_argument("--grpc", default="127.0.0.1:8081", help="host:port of gRPC")
    parser.add_argument("--shape", default="", help=", ".join(shapes.SHAPES))
    parser.add_argument("--peak", type=int, default=50, help="users at the top of the shape")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the shape")


class HttpUser(FastHttpUser):
    abstract = True
    wait_time = constant(0)
    wire: Wire

    def on_start(self) -> None:
        self.asked: Request = encode(self.wire, self.environment.parsed_options.model, ROW)

    @task
    def infer(self) -> None:
        self.client.post(
            self.asked.path, data=self.asked.body, headers=dict(self.asked.headers), name=self.wire
        )


class V1User(HttpUser):
    wire = Wire.V1


class V2User(HttpUser):
    wire = Wire.V2


class BinaryUser(HttpUser):
    wire = Wire.BINARY


class GrpcUser(User):
    wait_time = constant(0)

    def on_start(self) -> None:
        import grpc
        import grpc.experimental.gevent

        grpc.experimental.gevent.init_gevent()
        options = self.environment.parsed_options
        self.channel = grpc.insecure_channel(options.grpc)
        self.call = self.channel.unary_unary(RPC)
        self.message = encode(Wire.GRPC, options.model, ROW).body

    def on_stop(self) -> None:
        self.channel.close()

    @task
    def infer(self) -> None:
        start, error, answer = time.perf_counter(), None, b""
        try:
            answer = self.call(self.message, timeout=60)
        except Exception as raised:  # Locust counts it
            error = raised
        self.environment.events.request.fire(
            request_type="grpc",
            name=Wire.GRPC,
            response_time=(time.perf_counter() - start) * 1e3,
            response_length=len(answer),
            exception=error,
        )


class Shape(LoadTestShape):
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        options = self.runner.environment.parsed_options
        if not options.shape:  # --users, --spawn-rate and --run-time as without a shape
            is_over = options.run_time and self.get_run_time() > options.run_time
            return None if is_over else (options.num_users or 1, options.spawn_rate or 1)
        share = self.get_run_time() / (options.minutes * 60)
        users = shapes.users(options.shape, share, options.peak)
        return None if users is None else (users, max(1.0, options.peak / 5))
