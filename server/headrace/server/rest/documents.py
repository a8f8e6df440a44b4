"""/openapi.json always, and /docs where it is enabled."""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from headrace.server.protocol.json_text import dumps
from headrace.server.rest import docs_page, openapi
from headrace.server.rest.answer import Answer
from headrace.server.rest.call import Call
from headrace.server.rest.routes import Route
from headrace.server.settings import Settings


class Documents:
    """described: every other route."""

    def __init__(self, described: Sequence[Route], settings: Settings) -> None:
        self._described = described
        self._has_page = settings.enable_docs_url

    def routes(self) -> list[Route]:
        found = [Route("GET", "/openapi.json", self.openapi)]
        return [*found, Route("GET", "/docs", self.page)] if self._has_page else found

    @cached_property
    def document(self) -> dict[str, Any]:
        return openapi.document([*self._described, *self.routes()], version("headrace"))

    async def openapi(self, call: Call) -> Answer:
        return Answer([dumps(self.document)])

    async def page(self, call: Call) -> Answer:
        text = docs_page.render(self.document).encode()
        return Answer([text], content_type="text/html; charset=utf-8")
