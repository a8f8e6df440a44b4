"""The access log and KServe's latency line (contract §6.6): both off unless asked for."""

import asyncio
import logging
from typing import Any

import pytest

from tests.server.rest.client import ask
from tests.server.rest.models import Returning, model
from tests.serving import running

ROWS = {"instances": [[1, 2]]}
PREDICT = "/v1/models/returning:predict"


def logged(caplog: pytest.LogCaptureFixture, name: str, **given: Any) -> list[logging.LogRecord]:
    """What logger name wrote of a prediction, an explanation, a probe and a wrong path."""
    caplog.set_level(logging.INFO, name)

    async def run() -> None:
        async with running(model(Returning()), enable_grpc=False, **given) as server:
            port = server.ports.http
            await ask(port, "POST", PREDICT, ROWS, [("X-Request-Id", "r-1"), ("User-Agent", "ua")])
            await ask(port, "POST", "/v1/models/returning:explain", ROWS)
            await ask(port, "GET", "/v2/health/live")
            await ask(port, "GET", "/nope?a=1")

    asyncio.run(run())
    return [record for record in caplog.records if record.name == name]


def test_access_log_without_probes(caplog: pytest.LogCaptureFixture) -> None:
    template = '%(h)s "%(r)s" %(s)s %(B)s "%(a)s" %(U)s %(q)s'
    lines = [
        record.getMessage()
        for record in logged(caplog, "headrace.access", access_log_format=template)
    ]
    assert lines == [
        f'127.0.0.1 "POST {PREDICT} HTTP/1.1" 200 21 "ua" {PREDICT} ',
        '127.0.0.1 "POST /v1/models/returning:explain HTTP/1.1" 200 24 "-" '
        "/v1/models/returning:explain ",
        '127.0.0.1 "GET /nope?a=1 HTTP/1.1" 404 21 "-" /nope a=1',
    ]


def test_a_wrong_access_log_format_says_so(caplog: pytest.LogCaptureFixture) -> None:
    record = logged(caplog, "headrace.access", access_log_format="%(nope)s")[0]
    assert record.getMessage() == (
        f"POST {PREDICT} HTTP/1.1 200 (--access_log_format: KeyError('nope'))"
    )


def test_latency_lines_are_kserves_text(caplog: pytest.LogCaptureFixture) -> None:
    predict, explain = logged(caplog, "headrace.trace", enable_latency_logging=True)
    fields = {key: getattr(predict, key) for key in (
        "preprocess_ms", "explain_ms", "predict_ms", "postprocess_ms")}  # fmt: skip
    assert predict.getMessage() == "requestId: r-1, " + ", ".join(
        f"{key}: {value}" for key, value in fields.items()
    )
    assert fields["predict_ms"] > 0
    assert fields["explain_ms"] == 0
    assert explain.getMessage().startswith("requestId: N.A., preprocess_ms: ")
    assert getattr(explain, "explain_ms") > 0  # noqa: B009 - a field of extra=


def test_both_are_off_by_default(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, "headrace.access") + logged(caplog, "headrace.trace") == []
