"""Which handler answers a method and a path: one table of templates, matched segment by segment.

`/v2/models/{model}/infer` and `/v1/models/{model}:predict`. Segments are percent-decoded one by
one, so a name may hold anything, a slash included. Literal segments win over names.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from headrace.server.errors import InvalidInput
from headrace.server.rest.answer import Answer, error_answer
from headrace.server.rest.call import Call

Handler = Callable[[Call], Awaitable[Answer]]
REMEMBERED_CHARS = 256
_HEX = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Route:
    """is_probe: cheap, asked often, and left out of the access log.

    is_quick: the handler asks for no task of its own before it first waits (http/eager.py).
    """

    method: str
    template: str
    handler: Handler
    is_probe: bool = False
    is_quick: bool = False

    @property
    def segments(self) -> list[str]:
        return self.template.split("/")[1:]


@dataclass(frozen=True, slots=True)
class Match:
    """names: the decoded path parameters."""

    route: Route
    names: Mapping[str, str]


class Routes:
    """find() answers 404, 405 and 400 itself."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        ordered = sorted(self.routes, key=lambda route: [_openness(s) for s in route.segments])
        self._by_length: dict[int, list[Route]] = {}
        for route in ordered:
            self._by_length.setdefault(len(route.segments), []).append(route)
        self._remembered = lru_cache(maxsize=1024)(self._find)

    def find(self, method: str, target: str) -> Match | Answer:
        """target: as on the wire. Its query and a trailing slash are ignored."""
        if len(target) > REMEMBERED_CHARS:  # targets are the client's
            return self._find(method, target)
        return self._remembered(method, target)

    def _find(self, method: str, target: str) -> Match | Answer:
        path = path_of(target)
        try:
            segments = [decode(segment) for segment in path.split("/")[1:]]
        except InvalidInput as err:
            return error_answer(400, str(err))
        if len(segments) > 1 and not segments[-1]:
            segments.pop()
        wanted = "GET" if method == "HEAD" else method
        allowed: set[str] = set()
        best: list[int] | None = None
        for route in self._by_length.get(len(segments), []):
            names = _names(route.segments, segments)
            if names is None:
                continue
            openness = [_openness(segment) for segment in route.segments]
            if best is not None and openness != best:
                break  # a literal path is that path, also for methods it does not have
            best = openness
            if route.method == wanted:
                return Match(route, names)
            allowed.add(route.method)
        if not allowed:
            return error_answer(404, "Not Found")
        if "GET" in allowed:
            allowed.add("HEAD")
        return error_answer(405, "Method Not Allowed", Allow=", ".join(sorted(allowed)))


def path_of(target: str) -> str:
    """The path of a request target, also of one in absolute form."""
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2] if rest else "/" + target
    return target.partition("?")[0].partition("#")[0]


def decode(segment: str) -> str:
    """segment without percent escapes. Raises InvalidInput for a broken one, or not UTF-8."""
    if "%" not in segment:
        return segment
    for after in segment.split("%")[1:]:
        if len(after) < 2 or after[0] not in _HEX or after[1] not in _HEX:
            raise InvalidInput(f"the path holds a broken percent escape: {segment!r}")
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as err:
        raise InvalidInput(f"the path is not UTF-8 once decoded: {segment!r}") from err


def _names(template: list[str], segments: list[str]) -> dict[str, str] | None:
    """Path parameters if segments fit template. `{model}:predict` takes the last colon."""
    names: dict[str, str] = {}
    for wanted, segment in zip(template, segments, strict=True):
        if not wanted.startswith("{"):
            if wanted != segment:
                return None
            continue
        name, _, verb = wanted[1:].partition("}")
        if not segment.endswith(verb) or len(segment) == len(verb):
            return None
        names[name] = segment[: len(segment) - len(verb)]
    return names


def _openness(segment: str) -> int:
    """0: literal, 1: a name with a verb, 2: any name."""
    if not segment.startswith("{"):
        return 0
    return 2 if segment.endswith("}") else 1
