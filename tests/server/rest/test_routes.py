"""The paths of contract §1.1, §2.1, §4 and what each answers, over a real port."""

import asyncio
from typing import Any

import pytest

from headrace.server.rest.operator import SHARED_MEMORY
from tests.server.rest.client import Reply, ask, exchange, parse, request
from tests.server.rest.models import usual
from tests.serving import running

INFER = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
RAW = b'{"inputs":[{"name":"a","shape":[1],"datatype":"INT32","data":[7]}]}'
ROWS = b'{"instances":[[1,2]]}'


def asked(method: str, path: str, body: bytes = b"") -> Reply:
    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False) as server:
            return await ask(server.ports.http, method, path, body)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "answer"),
    [
        pytest.param("GET", "/", b"", 200, {"status": "alive"}, id="alive"),
        pytest.param(
            "GET", "/v1/models", b"", 200, {"models": ["m", "m x", "stats", "nr"]}, id="v1 list"
        ),
        pytest.param("GET", "/v1/models/m", b"", 200, {"name": "m", "ready": True}, id="v1 ready"),
        pytest.param(
            "GET",
            "/v1/models/zz",
            b"",
            404,
            {"error": "Model with name zz does not exist."},
            id="v1 unknown model",
        ),
        pytest.param(
            "GET",
            "/v1/models/nr",
            b"",
            503,
            {"error": "Model with name nr is not ready."},
            id="v1 model that is not ready",
        ),
        *[
            pytest.param(
                "POST", path, ROWS, 200, {"predictions": [[2.0, 4.0]]}, id=f"v1 predict {path}"
            )
            for path in (
                "/v1/models/m:predict",
                "/v1/models/m:predict/",
                "/v1/models/m%3Apredict",
                "/v1/models/m/versions/1:predict",
                "/v1/models/m/labels/1:predict",
                "/v1/models/m:predict?trace=1",
                "/v1/models/m:predict?%zz&=&;;",
                "http://elsewhere/v1/models/m:predict",
            )
        ],
        pytest.param(
            "POST",
            "/v1/models/m:explain",
            ROWS,
            501,
            {"error": "Could not find explainer_host."},
            id="v1 explain without an explainer",
        ),
        pytest.param("GET", "/v2/health/live", b"", 200, {"live": True}, id="live"),
        pytest.param(
            "GET",
            "/v2/health/ready",
            b"",
            503,
            {"error": "Server is not ready.", "ready": False},
            id="not ready, for one model is not",
        ),
        pytest.param(
            "GET", "/v2/models", b"", 200, {"models": ["m", "m x", "stats", "nr"]}, id="v2 list"
        ),
        pytest.param(
            "GET",
            "/v2/models/m",
            b"",
            200,
            {
                "name": "m",
                "versions": ["1"],
                "platform": "test",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
            },
            id="metadata",
        ),
        *[
            pytest.param("GET", path, b"", 200, {"name": "m x", "ready": True}, id=f"ready {path}")
            for path in (
                "/v2/models/m%20x/ready",
                "/v2/models/m%20x/ready/",
                "/v2/models/m%20x/versions/1/ready",
            )
        ],
        pytest.param(
            "GET",
            "/v2/models/m/versions/9/ready",
            b"",
            404,
            {"error": "Model with name m has no version '9' (versions: 1)."},
            id="unknown version",
        ),
        pytest.param(
            "GET",
            "/v2/models/stats/ready",
            b"",
            200,
            {"name": "stats", "ready": True},
            id="a model called stats",
        ),
        pytest.param(
            "POST",
            "/v2/repository/models/zz/load",
            b"",
            404,
            {"error": "Model with name zz does not exist."},
            id="load of an unknown model",
        ),
        pytest.param(
            "POST",
            "/v2/repository/models/m/unload",
            b"",
            200,
            {"name": "m", "unload": True},
            id="unload",
        ),
        pytest.param(
            "POST",
            "/v2/repository/mine/models/m/unload",
            b"{}",
            200,
            {"name": "m", "unload": True},
            id="unload with a repository's name",
        ),
        pytest.param(
            "POST",
            "/v2/repository/models/m/load",
            b'{"parameters":{"file:1/m.onnx":"AA=="}}',
            403,
            {
                "error": "'file:1/m.onnx': uploading model files is off; start the server with "
                "--allow_file_upload (it runs what it is sent)"
            },
            id="load with a file",
        ),
        pytest.param(
            "GET",
            "/v2/systemsharedmemory/status",
            b"",
            404,
            {"error": SHARED_MEMORY},
            id="shared memory",
        ),
        pytest.param(
            "POST",
            "/v2/cudasharedmemory/region/r/register",
            b"{}",
            404,
            {"error": SHARED_MEMORY},
            id="CUDA shared memory",
        ),
        pytest.param("GET", "/nope", b"", 404, {"error": "Not Found"}, id="no such path"),
        pytest.param("GET", "/v2//models", b"", 404, {"error": "Not Found"}, id="an empty segment"),
        pytest.param("POST", "/nope", ROWS, 404, {"error": "Not Found"}, id="no path for a body"),
        pytest.param(
            "GET",
            "/v2/models/%zz",
            b"",
            400,
            {"error": "the path holds a broken percent escape: '%zz'"},
            id="a broken percent escape",
        ),
        pytest.param(
            "GET",
            "/v2/models/%ff",
            b"",
            400,
            {"error": "the path is not UTF-8 once decoded: '%ff'"},
            id="a path that is not UTF-8",
        ),
        pytest.param(
            "GET",
            "/v2/models/a%2Fb",
            b"",
            404,
            {"error": "Model with name a/b does not exist."},
            id="a slash in a name",
        ),
    ],
)
def test_answer(method: str, path: str, body: bytes, status: int, answer: Any) -> None:
    reply = asked(method, path, body)
    assert (reply.status, reply.json()) == (status, answer)
    assert reply.header("content-type") == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        pytest.param("POST", "/v1/models/m", "GET, HEAD", id="POST where one reads"),
        pytest.param("GET", "/v1/models/m:predict", "POST", id="GET where one predicts"),
        pytest.param("PUT", "/v2/models/m/infer", "POST", id="PUT"),
        pytest.param("OPTIONS", "/v1/models", "GET, HEAD", id="OPTIONS"),
        pytest.param("POST", "/v2/models/stats", "GET, HEAD", id="stats is not a model's name"),
        pytest.param("DELETE", "/v2/logging", "GET, HEAD, POST", id="several are allowed"),
    ],
)
def test_method_not_allowed(method: str, path: str, allow: str) -> None:
    reply = asked(method, path)
    assert (reply.status, reply.error, reply.header("allow")) == (405, "Method Not Allowed", allow)


@pytest.mark.parametrize("path", ["/", "/v2/models/m", "/v1/models/zz", "/openapi.json", "/nope"])
def test_head_answers_like_get_without_a_body(path: str) -> None:
    async def run() -> tuple[Reply, bytes]:
        async with running(*usual(), enable_grpc=False) as server:
            got = await ask(server.ports.http, "GET", path)
            return got, await exchange(server.ports.http, request("HEAD", path))

    got, received = asyncio.run(run())
    head = parse(received, "HEAD")
    assert received.endswith(b"\r\n\r\n")
    assert (head.status, head.header("content-length")) == (got.status, str(len(got.body)))
    assert head.header("content-type") == got.header("content-type")


def test_stats_wins_over_a_model_of_that_name() -> None:
    reply = asked("GET", "/v2/models/stats")
    assert [row["name"] for row in reply.json()["model_stats"]] == ["m", "m x", "stats", "nr"]


def test_statistics_of_one_model() -> None:
    rows = asked("GET", "/v2/models/m/versions/1/stats").json()["model_stats"]
    assert [(row["name"], row["version"]) for row in rows] == [("m", "1")]
    assert asked("GET", "/v2/models/zz/stats").error == "Model with name zz does not exist."


def test_config() -> None:
    found = asked("GET", "/v2/models/m/config").json()
    assert found["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2], "optional": False}
    ]


def test_repository_index() -> None:
    rows = asked("POST", "/v2/repository/index", b"").json()
    assert rows[0] == {"name": "m", "version": "1", "state": "READY"}


def test_server_metadata_names_the_extensions() -> None:
    found = asked("GET", "/v2/").json()
    assert found["name"] == "headrace"
    assert {"model_repository_extension", "binary_tensor_data"} <= set(found["extensions"])


def test_repository_is_closed_where_others_can_reach_it() -> None:
    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False, host="0.0.0.0") as server:
            return await ask(server.ports.http, "POST", "/v2/repository/models/m/unload")

    reply = asyncio.run(run())
    assert (reply.status, reply.error) == (
        403,
        "loading and unloading models over the network is off; start the server with "
        "--allow_repository, or bind it to loopback (--host 127.0.0.1)",
    )


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", "text/plain; version=0.0.4; charset=utf-8", id="no Accept: text"),
        pytest.param(
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            id="OpenMetrics",
        ),
    ],
)
def test_metrics_by_accept(accept: str, content_type: str) -> None:
    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False) as server:
            await ask(server.ports.http, "POST", "/v2/models/m/infer", INFER)
            return await ask(server.ports.http, "GET", "/metrics", b"", [("Accept", accept)])

    reply = asyncio.run(run())
    assert (reply.header("content-type") or "").startswith(content_type)
    assert b'request_predict_seconds_count{model_name="m"} 1.0' in reply.body


def test_log_settings_answer_the_whole_object() -> None:
    found = asked("GET", "/v2/logging").json()
    assert list(found) == [
        "log_file",
        "log_info",
        "log_warning",
        "log_error",
        "log_verbose_level",
        "log_format",
    ]


def test_trace_settings() -> None:
    found = asked("GET", "/v2/models/m/trace/setting").json()
    assert (found["trace_level"], found["trace_rate"]) == (["OFF"], "1000")
    assert asked("POST", "/v2/trace/setting", b'{"trace_level":["OFF"]}').status == 200
    assert asked("POST", "/v2/trace/setting", b'{"trace_level":["TIMESTAMPS"]}').status == 400
