"""/openapi.json, and /docs where it is enabled."""

from headrace.server.rest.routes import Route
from headrace.server.settings import Settings


class Documents:
    def __init__(self, settings: Settings) -> None:
        self._has_page = settings.enable_docs_url

    def routes(self) -> list[Route]:
        return []
