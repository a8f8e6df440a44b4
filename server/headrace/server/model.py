"""`Model`: KServe's base class, the only one users inherit from (data-plane contract §6.1)."""

from typing import Any


class Model:
    """A custom model: hooks in KServe's signatures, sync or async."""

    def __init__(self, name: str, return_response_headers: bool = False) -> None:
        self.name = name
        self.ready = False
        self.return_response_headers = return_response_headers

    def load(self) -> bool:
        self.ready = True
        return self.ready

    def predict(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        raise NotImplementedError
