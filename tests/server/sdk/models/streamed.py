"""predict as an asynchronous generator: the answer is a stream."""

from collections.abc import AsyncIterator
from typing import Any

from kserve import Model


class Streamed(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None) -> AsyncIterator[str]:
        async def words() -> AsyncIterator[str]:
            for row in payload["instances"]:
                yield f"{row}\n"

        return words()


def models() -> list[Any]:
    return [Streamed("streamed")]
