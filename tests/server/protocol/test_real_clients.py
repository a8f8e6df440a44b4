"""Bodies that tritonclient and kserve write and read themselves, without a server between.

What reaches a socket is tested where the sockets are; here every datatype goes through the
clients' own encoders, our decoder and encoder, and the clients' own decoders.
"""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from headrace.server.protocol import v2_rest
from headrace.server.protocol.limits import ParseLimits
from headrace.server.request import Response

ROOT = Path(__file__).parents[3]
LIMITS = ParseLimits()


def echoed(body: bytes, json_length: int | None) -> tuple[bytes, int | None]:
    """An answer of the request's own tensors, in the form that it asked for."""
    request = v2_rest.to_request(v2_rest.parse(body, json_length, LIMITS), "m", [], LIMITS)
    encoded = v2_rest.encode(Response("m", request.inputs, model_version="1"), request)
    return encoded.body, encoded.json_length


@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_every_datatype_comes_back_equal(client: str) -> None:
    with subprocess.Popen(
        [
            ROOT / f".venv/clients/{client}/bin/python",
            ROOT / f"tests/clients/scripts/codec_{client}.py",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline() or "[]"
        answers = []
        for body, json_length in json.loads(line):
            answer, length = echoed(base64.b64decode(body), json_length)
            answers.append([base64.b64encode(answer).decode(), length])
        _, errors = process.communicate(json.dumps(answers) + "\n")
    assert process.returncode == 0, errors
    assert len(answers) > 20
