"""An exception carried to another process of the same server: what an edge needs, no pickle."""

import msgspec

from headrace.server.errors import Code, ServingError, failure


class WireError(msgspec.Struct, frozen=True):
    """code: of `Code`, by name. class_name: of an exception that is not ours, else ""."""

    code: str
    message: str
    class_name: str = ""
    status: int | None = None


class RemoteError(ServingError):
    """What another process of this server raised, with its code, status and text."""

    def __init__(self, told: WireError) -> None:
        text = f"{told.class_name} : {told.message}" if told.class_name else told.message
        super().__init__(text)
        self.status = told.status
        self.code = Code[told.code]  # type: ignore[misc]  # its own, unlike the others'


def to_wire(error: BaseException) -> WireError:
    found = failure(error)
    return WireError(found.code.name, found.message, found.class_name, found.status)
