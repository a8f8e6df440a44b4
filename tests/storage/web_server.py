"""A web server that can break off, change its mind, or count how often it was asked."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Site:
    """content by path. breaks: how many more answers end half-way. asked: paths with ranges."""

    content: dict[str, bytes]
    content_type: str = "application/octet-stream"
    breaks: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None  # answers wait here half-way
    half_way: threading.Event = field(default_factory=threading.Event)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append((self.path, self.headers.get("Range")))
        site.headers.append({key.lower(): value for key, value in self.headers.items()})
        if self.path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = site.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == '"v1"':
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Type", site.content_type)
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self._send(body[start:])

    def _send(self, body: bytes) -> None:
        half = len(body) // 2
        if self.site.hold is not None:
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.site.half_way.set()
            self.site.hold.wait(30)
            body = body[half:]
        elif self.site.breaks and len(self.site.asked) > 1:  # the first question is the listing
            self.site.breaks -= 1
            self.wfile.write(body[:half])
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):  # a client may have been killed
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@contextlib.contextmanager
def serving(site: Site) -> Iterator[str]:
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
