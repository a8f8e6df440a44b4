"""Tiny requests per second and latency beside KServe, both servers in one run.

    python -m loadtests.tiny                     # the table, 3 alternating rounds of 4 s each
    python -m loadtests.tiny --rounds 5 --seconds 10

The same model code runs on both (tiny_model.py), the server on core 0, the load (wrk, h2load) on
core 1. Prints a Markdown table of medians with their spread, and the ratio.
"""

import argparse
import contextlib
import http.client
import json
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = struct.pack("<4f", 6.8, 2.8, 4.8, 1.4)
PATH = "/v2/models/tiny/infer"
Figures = tuple[float, float]  # requests per second, milliseconds (wrk: median; h2load: mean)
RPC = "/inference.GRPCInferenceService/ModelInfer"
JSON_BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [6.8, 2.8, 4.8, 1.4]}]}
).encode()


def binary_body() -> tuple[bytes, int]:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 4],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(ROWS)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return head + ROWS, len(head)


def grpc_frame() -> bytes:
    """A length-prefixed ModelInferRequest with raw contents, written out by hand."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    tensor = field(1, b"x") + field(2, b"FP32") + field(3, bytes([1, 4]))
    message = field(1, b"tiny") + field(5, tensor) + field(7, ROWS)
    return b"\0" + struct.pack(">I", len(message)) + message


@contextlib.contextmanager
def server(library: str) -> Iterator[tuple[int, int]]:
    """library's server on core 0; yields its HTTP and gRPC ports."""
    python = ROOT / (
        ".venv/clients/kserve/bin/python" if library == "kserve" else ".venv/bin/python"
    )
    http_port, grpc_port = free_port(), free_port()
    script = Path(__file__).with_name("tiny_model.py")
    command = ["taskset", "-c", "0", str(python), str(script), library]
    command += ["--http_port", str(http_port), "--grpc_port", str(grpc_port)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(http_port, running)
        yield http_port, grpc_port
    finally:
        running.terminate()
        running.wait(60)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if running.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", "/v2/models/tiny/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{running.args!r} did not become ready")


def wrk(port: int, body: bytes, headers: dict[str, str], connections: int, seconds: int) -> Figures:
    lines = ['wrk.method = "POST"', f"wrk.body = {lua(body)}"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        command += ["--latency", "-s", script.name, f"http://127.0.0.1:{port}{PATH}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(f"the server refused requests:\n{text}")
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])
    return rate, milliseconds(re.findall(r"50%\s+([\d.]+\w+)", text)[0])


def h2load(port: int, connections: int, seconds: int) -> Figures:
    with tempfile.NamedTemporaryFile() as frame:
        frame.write(grpc_frame())
        frame.flush()
        command = ["taskset", "-c", "1", "h2load", "-t1", f"-c{connections}", "-m1"]
        command += [f"-D{seconds}", "--warm-up-time=1", "-d", frame.name]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += [f"http://127.0.0.1:{port}{RPC}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.findall(r"finished in [\d.]+\w+, ([\d.]+) req/s", text)[0])
    mean = re.findall(r"time for request:\s+\S+\s+\S+\s+(\S+)", text)[0]
    return rate, milliseconds(mean)


def lua(body: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in body) + '"'


def milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def works(seconds: int) -> dict[str, Callable[[int, int], Figures]]:
    binary, length = binary_body()
    json_headers = {"Content-Type": "application/json"}
    binary_headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(length),
    }
    return {
        "V2 JSON, 16 connections": lambda p, _: wrk(p, JSON_BODY, json_headers, 16, seconds),
        "V2 JSON, 1 connection": lambda p, _: wrk(p, JSON_BODY, json_headers, 1, seconds),
        "V2 binary, 16 connections": lambda p, _: wrk(p, binary, binary_headers, 16, seconds),
        "gRPC, 16 connections": lambda _, p: h2load(p, 16, seconds),
        "gRPC, 1 connection": lambda _, p: h2load(p, 1, seconds),
    }


def main() -> None:
    options = argparse.ArgumentParser(
        "loadtests.tiny", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=int, default=4)
    given = options.parse_args()
    for tool in ("wrk", "h2load", "taskset"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed: apt-get install wrk nghttp2-client")
    found: dict[str, dict[str, list[Figures]]] = {}
    with server("kserve") as kserve, server("headrace") as ours:
        for each in range(given.rounds):
            for name, work in works(given.seconds).items():
                for library, ports in (("kserve", kserve), ("headrace", ours)):
                    print(f"round {each + 1}: {name}: {library}", file=sys.stderr, flush=True)
                    found.setdefault(name, {}).setdefault(library, []).append(work(*ports))
    print("| work | kserve req/s (min-max) | ms | headrace req/s (min-max) | ms | ratio |")
    print("|---|---|---|---|---|---|")
    for name, by_library in found.items():
        cells = []
        for library in ("kserve", "headrace"):
            rates = [rate for rate, _ in by_library[library]]
            latency = statistics.median(ms for _, ms in by_library[library])
            spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
            cells += [f"{statistics.median(rates):,.0f} ({spread})", f"{latency:.2f}"]
        medians = [statistics.median(r for r, _ in by_library[x]) for x in ("kserve", "headrace")]
        print(f"| {name} | {' | '.join(cells)} | {medians[1] / medians[0]:.1f} |")


if __name__ == "__main__":
    main()
