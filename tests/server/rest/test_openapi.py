"""/openapi.json describes every route there is, and describes it truly; /docs shows it."""

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from openapi_spec_validator import validate
from schemathesis.checks import CHECKS

from tests.server.rest.client import Reply, ask
from tests.server.rest.models import Returning, model, usual
from tests.serving import running

NAMES = (
    "content_type_conformance",
    "not_a_server_error",
    "response_schema_conformance",
    "status_code_conformance",
    "unsupported_method",
)


def asked(path: str, **given: Any) -> Reply:
    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False, **given) as server:
            return await ask(server.ports.http, "GET", path)

    return asyncio.run(run())


def test_the_document_is_valid_and_describes_every_route() -> None:
    async def run() -> tuple[Any, set[tuple[str, str]]]:
        async with running(*usual(), enable_grpc=False, enable_docs_url=True) as server:
            table = server._rest.application.routes.routes
            reply = await ask(server.ports.http, "GET", "/openapi.json")
            return reply.json(), {(route.method.lower(), route.template) for route in table}

    document, routes = asyncio.run(run())
    validate(document)
    described = {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    assert described == routes
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))


def test_docs_are_one_page_with_nothing_from_elsewhere() -> None:
    reply = asked("/docs", enable_docs_url=True)
    page = reply.body.decode()
    assert reply.header("content-type") == "text/html; charset=utf-8"
    assert "/v2/models/{model}/infer" in page
    assert "curl" in page
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) == ["openapi.json"]
    assert "<script" not in page


def test_docs_are_off_by_default() -> None:
    reply = asked("/docs")
    assert (reply.status, reply.error) == (404, "Not Found")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server in a thread of its own: schemathesis is a blocking client."""
    started, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        models = [each for each in usual() if each.name != "nr"]
        async with running(*models, model(Returning()), enable_grpc=False) as server:
            found["port"], found["loop"] = server.ports.http, asyncio.get_running_loop()
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    yield found["port"]
    found["loop"].call_soon_threadsafe(stop.set)
    thread.join(10)


def test_answers_are_as_the_document_says(port: int) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    checks = [CHECKS.get_one(name) for name in NAMES]

    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith(("/unload", "explain")):
            continue  # it takes the models away; only some models explain

        @hypothesis_settings(max_examples=8, deadline=None, derandomize=True, database=None)
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.path_parameters = {
                **(case.path_parameters or {}),
                **({"model": "m"} if case.path_parameters else {}),
            }
            case.call_and_validate(checks=checks, timeout=10)

        check()
