"""A Tornado application whose handlers show what of HTTP reaches them, and try what they may do."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import (
    Application,
    HTTPError,
    RequestHandler,
    StaticFileHandler,
    stream_request_body,
)

WITHHELD = {"host", "connection", "content-length", "transfer-encoding", "content-type", "expect"}


class Events:
    """What happened to handlers, in order, and who waits for it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.go = asyncio.Event()  # what a waiting handler waits for

    def add(self, event: str) -> None:
        self.seen.append(event)

    async def until(self, event: str) -> None:
        async with asyncio.timeout(20):
            while event not in self.seen:  # noqa: ASYNC110 - handlers tell nobody
                await asyncio.sleep(0)


class Handler(RequestHandler):
    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "PROPFIND")

    @property
    def events(self) -> Events:
        events: Events = self.settings["events"]
        return events

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish(f"error {status_code}")


class Echo(Handler):
    """The request as its handler sees it, as sorted JSON."""

    def answer(self) -> None:
        request = self.request
        said: dict[str, Any] = {
            "method": request.method,
            "uri": request.uri,
            "path": request.path,
            "query": request.query,
            "version": request.version,
            "arguments": {k: self.get_arguments(k) for k in request.arguments},
            "body": request.body.decode("latin1"),
            "headers": [[k, v] for k, v in request.headers.get_all() if k.lower() not in WITHHELD],
        }
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({k: v for k, v in said.items() if v}, sort_keys=True))

    get = head = post = put = patch = delete = options = propfind = answer


class Peer(Handler):
    def get(self) -> None:
        request = self.request
        self.finish(f"{request.remote_ip} {request.protocol} {request.host} {request.host_name}")


class Cookies(Handler):
    def get(self) -> None:
        self.set_cookie("seen", "yes")
        self.finish(" ".join(f"{k}={v.value}" for k, v in sorted(self.cookies.items())))


class Form(Handler):
    def post(self) -> None:
        files = [
            f"{name}:{one.filename}:{one.content_type}:{one.body!r}"
            for name, several in sorted(self.request.files.items())
            for one in several
        ]
        fields = [f"{name}={self.get_body_arguments(name)}" for name in self.request.body_arguments]
        self.finish(";".join([*sorted(fields), *files]))


class Pieces(Handler):
    """An answer of no announced length, flushed piece by piece."""

    async def get(self) -> None:
        for piece in (b"one,", b"", b"two,", b"three"):
            self.write(piece)
            await self.flush()

    head = get


class FlushedEmpty(Handler):
    """flush() before anything is written sends the head alone."""

    async def get(self) -> None:
        await self.flush()
        self.finish("late")


class Size(Handler):
    """An answer of n bytes, its length announced, in one piece."""

    def get(self, count: str) -> None:
        self.finish(bytes(int(count)))


class Known(Handler):
    """A length announced by the handler, met in pieces, or not."""

    async def get(self, said: str, sent: str) -> None:
        self.set_header("Content-Length", said)
        self.write(b"x" * int(sent))
        await self.flush()
        self.finish()

    head = get


class Status(Handler):
    def get(self, status: str) -> None:
        self.set_status(int(status))
        self.finish()

    head = get


class Reason(Handler):
    def get(self) -> None:
        self.set_status(299, self.get_argument("say"))
        self.finish("ok")


class Tagged(Handler):
    def get(self) -> None:
        self.finish("tagged")

    head = get


class Closing(Handler):
    def get(self) -> None:
        self.set_header("Connection", "close")
        self.finish("bye")


class Failing(Handler):
    async def get(self, kind: str) -> None:
        if kind == "late":
            self.write("begun")
            await self.flush()
        if kind == "http":
            raise HTTPError(418)
        raise RuntimeError("the handler failed")


class Headers(Handler):
    """Sets the header it is asked for; several values where there are several."""

    def get(self) -> None:
        for value in self.get_arguments("value", strip=False):
            self.add_header(self.get_argument("name"), value)
        self.finish("set")


class Twice(Handler):
    """What finish, write and flush do once the answer is finished."""

    async def get(self, what: str) -> None:
        self.finish("once")
        try:
            match what:
                case "finish":
                    self.finish("twice")
                case "write":
                    self.write("more")
                case "flush":
                    await self.flush()
        except Exception as err:
            self.events.add(f"{what}: {type(err).__name__}")


class Waiting(Handler):
    """Answers when it is told to; says when its client has gone."""

    async def get(self) -> None:
        self.events.add("entered")
        await self.events.go.wait()
        self.finish("waited")
        self.events.add("finished")

    def on_connection_close(self) -> None:
        self.events.add("gone")


class Endless(Handler):
    """Writes until its client goes."""

    async def get(self) -> None:
        try:
            while True:
                self.write(bytes(1 << 16))
                await self.flush()
                self.events.add("piece")
                await asyncio.sleep(0)
        except StreamClosedError:
            self.events.add("closed")


@stream_request_body
class Upload(Handler):
    """Takes a body as it comes."""

    def prepare(self) -> None:
        self.size_bytes = 0
        self.is_asynchronous = self.get_query_argument("slow", "") == "yes"
        if most := self.get_query_argument("most", ""):
            connection: Any = self.request.connection
            connection.set_max_body_size(int(most))
        if self.get_query_argument("early", ""):
            self.set_status(403)
            self.finish("not you")
        self.events.add("prepared")

    async def data_received(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        self.events.add("data")
        if self.get_query_argument("gated", ""):
            await self.events.go.wait()
        if self.is_asynchronous:
            await asyncio.sleep(0)

    def post(self) -> None:
        self.finish(f"{self.size_bytes} bytes")

    put = post

    def on_connection_close(self) -> None:
        self.events.add("gone")


class FinishInPrepare(Handler):
    def prepare(self) -> None:
        self.finish("prepared")

    def get(self) -> None:
        raise AssertionError("reached the method of a finished request")


def application() -> Application:
    """`settings["events"]` holds its Events."""
    return Application(
        [
            (r"/+echo.*", Echo),
            (r"http://[^/]+/echo", Echo),
            (r"\*", Echo),
            (r"/peer", Peer),
            (r"/cookies", Cookies),
            (r"/form", Form),
            (r"/pieces", Pieces),
            (r"/flushed", FlushedEmpty),
            (r"/size/([0-9]+)", Size),
            (r"/known/([0-9]+)/([0-9]+)", Known),
            (r"/status/([0-9]+)", Status),
            (r"/reason", Reason),
            (r"/tagged", Tagged),
            (r"/closing", Closing),
            (r"/failing/(.+)", Failing),
            (r"/headers", Headers),
            (r"/twice/(.+)", Twice),
            (r"/waiting", Waiting),
            (r"/endless", Endless),
            (r"/upload", Upload),
            (r"/prepared", FinishInPrepare),
            (r"/files/(.*)", StaticFileHandler, {"path": str(Path(__file__).parent)}),
        ],
        events=Events(),
        default_handler_class=NotFound,
        compress_response=False,
    )


class NotFound(Handler):
    def prepare(self) -> None:
        raise HTTPError(404)
