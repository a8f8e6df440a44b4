"""Which HTTP status an error becomes, and its body: the one place (contract §1.5, D1)."""

import http.client
import logging
import math
import sys
from typing import TYPE_CHECKING, TypeGuard

from headrace.server.errors import Code, ServingError, failure
from headrace.server.protocol.compression import ACCEPTED
from headrace.server.rest.answer import Answer, json_answer

if TYPE_CHECKING:
    from tornado.web import HTTPError

log = logging.getLogger(__name__)

STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA: 415,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 403,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.OVERLOADED: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NO_MEMORY: 507,
    Code.INTERNAL: 500,
}


def to_answer(error: BaseException) -> Answer:
    """error as an answer; one that is nobody's but the server's is logged with its traceback."""
    if _is_tornados(error):
        return _tornado(error)
    found = failure(error)
    status = found.status or STATUS[found.code]
    if found.code is Code.INTERNAL and not isinstance(error, ServingError):
        log.error("request failed", exc_info=error)
    body = {"error": found.labelled}
    if found.detail is not None:
        body["detail"] = found.detail
    answer = json_answer(body, status)
    if status == 503:
        seconds = getattr(error, "retry_after_s", 1.0)
        answer.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if status == 415:
        answer.headers["Accept-Encoding"] = ACCEPTED
    return answer


def _is_tornados(error: BaseException) -> TypeGuard["HTTPError"]:
    """Nobody raises it who has not imported it, and to import it for that costs 4 MB."""
    tornado = sys.modules.get("tornado.web")
    return tornado is not None and isinstance(error, tornado.HTTPError)


def _tornado(error: "HTTPError") -> Answer:
    """User code may raise Tornado's own error; its text is the log message or the reason."""
    message = error.get_message() or error.reason or http.client.responses.get(error.status_code)
    answer = json_answer({"error": message, "detail": message}, error.status_code)
    if error.status_code == 503:
        answer.headers["Retry-After"] = "1"
    return answer
