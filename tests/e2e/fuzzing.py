"""Recorded requests, and seeded ways to spoil them: pure functions of a random generator."""

import json
import random
import struct
from dataclasses import dataclass, field

ROW = struct.pack("<4f", 6.8, 2.8, 4.8, 1.4)
TOKENS = [
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 40, b"[]", b"{}", b'"', b"\\u0000"),
    *(b"\xff\xfe", b"\0", b"[" * 70, b"{" * 70, b'"FP32"', b'"BYTES"', b'"BF16"', b"[0]"),
    *(
        b'"shape"',
        b'"binary_data_size"',
        b"4294967295",
        b"-9223372036854775809",
        b"\xf0\x9f\x92\xa9",
    ),
]


@dataclass(frozen=True)
class Recording:
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def v2(data: object, **more: object) -> dict[str, object]:
    return {"name": "input-0", "shape": [1, 4], "datatype": "FP32", "data": data, **more}


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def binary(shape: list[int], blob: bytes) -> tuple[bytes, dict[str, str]]:
    head = dumped(
        {
            "inputs": [
                {
                    "name": "input-0",
                    "shape": shape,
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(blob)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    return head + blob, {"Inference-Header-Content-Length": str(len(head))}


def recordings(model: str) -> list[Recording]:
    """One honest request of every kind, to the model called model."""
    body, headers = binary([1, 4], ROW)
    row = [6.8, 2.8, 4.8, 1.4]
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    structured = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    return [
        Recording("POST", f"/v1/models/{model}:predict", dumped({"instances": [row]})),
        Recording("POST", f"/v1/models/{model}:predict", dumped({"inputs": [row]}), event),
        Recording(
            "POST",
            f"/v1/models/{model}:predict",
            dumped({**structured, "data": {"instances": [row]}}),
            {"Content-Type": "application/cloudevents+json"},
        ),
        Recording("POST", f"/v1/models/{model}:explain", dumped({"instances": [row]})),
        Recording("POST", f"/v2/models/{model}/infer", dumped({"inputs": [v2(row)]})),
        Recording(
            "POST",
            f"/v2/models/{model}/versions/1/infer",
            dumped({"id": "7", "inputs": [v2([row])], "outputs": [{"name": "output-0"}]}),
        ),
        Recording("POST", f"/v2/models/{model}/infer", body, headers),
        Recording("POST", f"/v2/models/{model}/generate", dumped({"input-0": row})),
        Recording("POST", f"/v2/models/{model}/generate_stream", dumped({"input-0": row})),
        Recording("POST", "/v2/repository/index", dumped({"ready": True})),
        Recording("POST", "/v2/logging", dumped({"log_verbose_level": 0})),
        Recording("GET", f"/v2/models/{model}"),
        Recording("GET", f"/v2/models/{model}/config"),
        Recording("GET", f"/v2/models/{model}/stats"),
        Recording("GET", f"/v1/models/{model}"),
        Recording("GET", "/v2/health/ready"),
        Recording("GET", "/metrics"),
    ]


def spoiled(rng: random.Random, content: bytes) -> bytes:
    """content with one to four small injuries."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 16)]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 32)]
            case 4:
                data[at : at + 4] = rng.choice(TOKENS)
            case _:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


def mutated(rng: random.Random, recording: Recording) -> Recording:
    """A recording with its body, a header or its path spoiled; one in eight stays honest."""
    body, headers, path = recording.body, dict(recording.headers), recording.path
    kind = rng.randrange(8)
    if kind < 4:
        body = spoiled(rng, body)
    elif kind == 4:
        noise = {
            "Content-Type": ["text/plain", "application/json; charset=latin-1", "x/y", ""],
            "Content-Encoding": ["gzip", "deflate", "br", "identity"],
            "Inference-Header-Content-Length": ["0", "-1", "99999", "x", str(rng.randrange(200))],
            "Accept": ["application/openmetrics-text", "*/*", "nonsense"],
            "traceparent": ["00-zz", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"],
        }
        name = rng.choice(list(noise))
        headers[name] = rng.choice(noise[name])
    elif kind == 5:
        cut = rng.randrange(1, len(path) + 1)
        path = path[:cut] + rng.choice(["%", "%2F", "%00", "/", "?x=%zz", "%ff", "..", ":", "é"])
        path = "".join(c if " " < c < "\x7f" else "%C3%A9" for c in path)
    elif kind == 6:
        body = rng.randbytes(rng.randrange(64))
    return Recording(recording.method, path, body, headers)


def grpc_message(model: str, raw: bool) -> bytes:
    """A ModelInferRequest, written out by hand."""

    def part(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    tensor = part(1, b"input-0") + part(2, b"FP32") + part(3, bytes([1, 4]))
    if not raw:
        tensor += part(5, part(6, ROW))
    message = part(1, model.encode()) + part(3, b"7") + part(5, tensor)
    return message + part(7, ROW) if raw else message
