"""Errors a client can see. They know no HTTP and no gRPC: rest/ and grpc/ each map `Code` once.

The names, constructors and messages that user code knows are KServe's (data-plane contract §6.2):

    ServingError
    ├── InvalidInput            INVALID_ARGUMENT    the caller's mistake
    │   └── PayloadTooLarge     TOO_LARGE
    ├── ModelNotFound           NOT_FOUND
    ├── ModelVersionNotFound    NOT_FOUND
    ├── ModelNotReady           UNAVAILABLE         known, but not able to answer now
    ├── ServerNotReady/Live     UNAVAILABLE
    ├── NoModelReady            UNAVAILABLE
    ├── QueueFull               OVERLOADED          refused at once; retry later
    ├── DeadlineExceeded        DEADLINE_EXCEEDED
    │   └── QueueTimeout        OVERLOADED          waited too long and did not run
    ├── Unsupported             UNIMPLEMENTED
    │   ├── UnsupportedProtocol
    │   └── NoSharedMemory  (404)
    ├── PermissionDenied        PERMISSION_DENIED   a door the operator has not opened
    ├── UpstreamError           (status of the upstream)
    ├── ModelLoadError          INTERNAL            a load that failed, with the reason
    │   └── NoMemory            NO_MEMORY           not tried: it would not fit
    └── InferenceError          INTERNAL            the model's mistake
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar


class Code(Enum):
    """What went wrong, in one word; each edge turns it into its own status once."""

    INVALID_ARGUMENT = auto()
    TOO_LARGE = auto()
    UNSUPPORTED_MEDIA = auto()
    NOT_FOUND = auto()
    PERMISSION_DENIED = auto()
    UNIMPLEMENTED = auto()
    UNAVAILABLE = auto()
    OVERLOADED = auto()
    DEADLINE_EXCEEDED = auto()
    NO_MEMORY = auto()
    INTERNAL = auto()


class ServingError(Exception):
    """Base of every error whose text may be shown to a client."""

    code: ClassVar[Code] = Code.INTERNAL
    status: int | None = None  # an HTTP status that overrides the one of `code`

    @property
    def reason(self) -> str:
        """The text shown to the client; KServe's handlers read it by this name."""
        return str(self)


class InvalidInput(ServingError):
    """The request is wrong. The text names where, what was expected and what came."""

    code = Code.INVALID_ARGUMENT

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class PayloadTooLarge(InvalidInput):
    """A body, header or message over a limit; the text names the limit, its flag and what came."""

    code = Code.TOO_LARGE


class UnsupportedMedia(InvalidInput):
    """A content coding or charset we do not read."""

    code = Code.UNSUPPORTED_MEDIA


class ModelNotFound(ServingError):
    code = Code.NOT_FOUND

    def __init__(self, model_name: str | None = None) -> None:
        super().__init__(f"Model with name {model_name} does not exist.")
        self.model_name = model_name


class ModelVersionNotFound(ServingError):
    code = Code.NOT_FOUND

    def __init__(self, model_name: str, version: str, versions: list[str]) -> None:
        known = ", ".join(versions) or "none"
        super().__init__(
            f"Model with name {model_name} has no version {version!r} (versions: {known})."
        )


class ModelNotReady(ServingError):
    code = Code.UNAVAILABLE

    def __init__(self, model_name: str, detail: str | None = None) -> None:
        self.model_name = model_name
        self.detail = detail
        self.error_msg = f"Model with name {model_name} is not ready."
        if detail:
            self.error_msg = f"{self.error_msg} {detail}"
        super().__init__(self.error_msg)


class NoModelReady(ServingError):
    """Kept for code that catches it; we register models that are not ready and answer 503."""

    code = Code.UNAVAILABLE

    def __init__(self, models: list[Any], detail: str | None = None) -> None:
        self.models = models
        names = ",".join(str(getattr(model, "name", model)) for model in models)
        are = (
            f"Model with name {names} is" if len(models) == 1 else f"Models with names {names} are"
        )
        self.error_msg = f"{are} not ready."
        if detail:
            self.error_msg = f"{self.error_msg} {detail}"
        super().__init__(self.error_msg)


class ServerNotReady(ServingError):
    code = Code.UNAVAILABLE

    def __init__(self, reason: str = "Server is not ready.") -> None:
        super().__init__(reason)


class ServerNotLive(ServingError):
    code = Code.UNAVAILABLE

    def __init__(self, reason: str = "Server is not live.") -> None:
        super().__init__(reason)


class QueueFull(ServingError):
    """A bounded queue is full. Nothing was executed, so a retry later is safe."""

    code = Code.OVERLOADED

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServingError):
    """The request took longer than it may."""

    code = Code.DEADLINE_EXCEEDED


class QueueTimeout(DeadlineExceeded):
    """Its time passed while it waited, so it did not run: a retry later is safe (contract D16)."""

    code = Code.OVERLOADED

    def __init__(self, reason: str = "Request timeout expired", retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unsupported(ServingError):
    """A known request this model or server cannot do."""

    code = Code.UNIMPLEMENTED


class UnsupportedProtocol(Unsupported):
    def __init__(self, protocol_version: str | None = None) -> None:
        super().__init__(f"Unsupported protocol {protocol_version}.")


class NoSharedMemory(Unsupported):
    """A tensor said to lie in shared memory (contract §12: 404, gRPC UNIMPLEMENTED)."""

    status = 404

    def __init__(self, tensor_name: str) -> None:
        super().__init__(
            f"'{tensor_name}': shared memory is not supported; "
            f"send the tensor in the body, as JSON or binary"
        )


class PermissionDenied(ServingError):
    """A door the operator has not opened; the text names the flag that opens it."""

    code = Code.PERMISSION_DENIED


class InferenceError(ServingError):
    """The model failed. `status` and `debug_details` are KServe's fields."""

    def __init__(self, reason: str, status: Any = None, debug_details: Any = None) -> None:
        self._reason = reason
        self.inference_status = status
        self.debug_details = debug_details
        super().__init__(f"[{status}] {reason}" if status else reason)

    @property
    def reason(self) -> str:
        return str(self)


class UpstreamError(ServingError):
    """A predictor, transformer or explainer behind us answered with an error: its status is kept.

    http_status: the upstream's HTTP status (a gRPC upstream's mapped once), e.g. 404, 503, 504.
    """

    def __init__(self, reason: str, http_status: int) -> None:
        super().__init__(reason)
        self.status = http_status
        self.code = code_of_status(http_status)  # type: ignore[misc]  # its own, unlike the others'


class ModelLoadError(ServingError):
    """A model did not load; the text says why and, where there is one, what to do."""


class ModelMissingError(ModelLoadError):
    def __init__(self, path: object, known: str = "") -> None:
        """known: what would have been a model there."""
        self.path = path
        text = f"Missing model under path {path}"
        super().__init__(f"{text}; {known}" if known else text)


class NoMemory(ModelLoadError):
    """A load that was not tried, because the model would not fit; nothing has changed."""

    code = Code.NO_MEMORY


class UntrustedModel(ModelLoadError):
    """A file wants more than loading data: the text names the global, the flag and the manifest."""


class WorkersShouldBeLessThanMaxWorkersError(ServingError):
    def __init__(self, max_workers: int) -> None:
        super().__init__(f"Workers cannot be greater than {max_workers}")


@dataclass(frozen=True, slots=True)
class Failure:
    """What an edge tells its caller of any exception, a user's own included.

    message: the exception's text. class_name: of an exception that is not ours, else "".
    status, detail: what a `fastapi.HTTPException`-like error asks for, else None.
    """

    code: Code
    message: str
    class_name: str = ""
    status: int | None = None
    detail: Any = None

    @property
    def labelled(self) -> str:
        """The text of a REST error body: KServe writes `<ClassName> : <message>` for others' errors
        (contract §1.5); over gRPC it is `message` alone."""
        return f"{self.class_name} : {self.message}" if self.class_name else self.message


def failure(error: BaseException) -> Failure:
    """error as both edges report it; the one place that knows exceptions that are not ours."""
    if isinstance(error, ServingError):
        return Failure(error.code, error.reason, status=error.status)
    if isinstance(error, NotImplementedError):
        return Failure(Code.UNIMPLEMENTED, str(error))
    status, detail = getattr(error, "status_code", None), getattr(error, "detail", None)
    if isinstance(status, int) and detail is not None:  # fastapi's and starlette's HTTPException
        text = detail if isinstance(detail, str) else str(error)
        return Failure(code_of_status(status), text, status=status, detail=detail)
    return Failure(Code.INTERNAL, str(error), type(error).__name__)


_BY_STATUS = {
    401: Code.PERMISSION_DENIED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    413: Code.TOO_LARGE,
    415: Code.UNSUPPORTED_MEDIA,
    429: Code.OVERLOADED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def code_of_status(status: int) -> Code:
    """Our word for an HTTP status somebody else chose."""
    return _BY_STATUS.get(status, Code.INVALID_ARGUMENT if 400 <= status < 500 else Code.INTERNAL)
