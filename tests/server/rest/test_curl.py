"""curl as KServe's documentation uses it."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.server.rest.models import usual
from tests.serving import running

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

V1 = {"instances": [[6.8, 2.8], [6.0, 3.4]]}
V2 = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": V1["instances"]}]}
Y = [13.6, 5.6, 12.0, 6.8]
MANY = 200_000  # rows; over 1 MiB of JSON, for which curl waits for 100 Continue


def curl(*arguments: str) -> Any:
    async def run() -> Any:
        models = [each for each in usual() if each.name != "nr"]
        async with running(*models, enable_grpc=False) as server:
            *options, path = arguments
            process = await asyncio.create_subprocess_exec(
                "curl",
                "-sS",
                *options,
                f"http://127.0.0.1:{server.ports.http}{path}",
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return json.loads(out)

    return asyncio.run(run())


def in_file(tmp_path: Path, value: Any) -> str:
    path = tmp_path / "input.json"
    path.write_text(json.dumps(value))
    return f"@{path}"


def test_v1_predict_as_in_the_first_example(tmp_path: Path) -> None:
    host = "Host: sklearn-iris.kserve-test.example.com"
    found = curl("-H", host, "-d", in_file(tmp_path, V1), "/v1/models/m:predict")
    assert [round(y, 4) for row in found["predictions"] for y in row] == Y


def test_v1_predict_with_a_content_type(tmp_path: Path) -> None:
    kind = "Content-Type: application/json"
    found = curl("-H", kind, "-d", in_file(tmp_path, V1), "/v1/models/m:predict")
    assert len(found["predictions"]) == 2


def test_v2_infer(tmp_path: Path) -> None:
    found = curl("-d", in_file(tmp_path, V2), "/v2/models/m/infer")
    assert [round(y, 4) for y in found["outputs"][0]["data"]] == Y


def test_cloud_event_in_headers(tmp_path: Path) -> None:
    headers = ["Ce-Id: 1", "Ce-Source: curl", "Ce-Type: t", "Ce-Specversion: 1.0"]
    options = [part for header in headers for part in ("-H", header)]
    kind = ["-H", "Content-Type: application/json"]
    found = curl(*options, *kind, "-d", in_file(tmp_path, V1), "/v1/models/m:predict")
    assert len(found["predictions"]) == 2


def test_a_body_over_one_mebibyte(tmp_path: Path) -> None:
    rows = in_file(tmp_path, {"instances": [[1.25, 2.25]] * MANY})
    assert len(curl("-d", rows, "/v1/models/m:predict")["predictions"]) == MANY


def test_a_chunked_upload(tmp_path: Path) -> None:
    chunked = "Transfer-Encoding: chunked"
    found = curl("-H", chunked, "--data-binary", in_file(tmp_path, V2), "/v2/models/m/infer")
    assert found["model_name"] == "m"


def test_gzip_both_ways(tmp_path: Path) -> None:
    found = curl("--compressed", "-d", in_file(tmp_path, V2), "/v2/models/m/infer")
    assert found["model_name"] == "m"


def test_readiness() -> None:
    assert curl("/v2/health/ready") == {"ready": True}
    assert curl("/v1/models/m") == {"name": "m", "ready": True}
