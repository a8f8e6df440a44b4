"""What an encoder hands to an edge: the pieces of a body and what to say about them."""

from dataclasses import dataclass, field

from headrace.server.tensor import Buffer

JSON = "application/json"
OCTET_STREAM = "application/octet-stream"


@dataclass(slots=True)
class Encoded:
    """parts: to be sent one after the other, views of the tensors where the answer is binary.

    content_type None: none is sent. json_length: the value of Inference-Header-Content-Length,
    None where that header is not sent. headers: more of them, e.g. `ce-id`.
    """

    parts: list[Buffer]
    content_type: str | None = JSON
    json_length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The parts in one piece."""
        return b"".join(self.parts)
