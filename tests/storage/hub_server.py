"""A server with the shape of the Hugging Face hub's API: one model repository, in memory."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping

COMMIT = "c0ffee" + "0" * 34


@contextlib.contextmanager
def hub(repository: str, files: Mapping[str, bytes], lfs: frozenset[str]) -> Iterator[str]:
    """Serves files of repository at revisions `main` and COMMIT; names in lfs have a sha256."""

    members = {"repository": repository, "files": files, "lfs": lfs}
    handler = type("RepositoryHandler", (Handler,), members)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    repository: str
    files: Mapping[str, bytes]
    lfs: frozenset[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for revision in ("main", COMMIT, "v1"):
            if path == f"/api/models/{self.repository}/revision/{revision}":
                return self._json(_model(self.repository, self.files, self.lfs))
            prefix = f"/{self.repository}/resolve/{revision}/"
            if path.startswith(prefix) and path.removeprefix(prefix) in self.files:
                return self._file(path.removeprefix(prefix))
        if path == f"/api/models/{self.repository}":
            return self._json(_model(self.repository, self.files, self.lfs))
        return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _file(self, name: str) -> None:
        content = self.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(content, name in self.lfs)}"'}
        self._answer(200, content, headers)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _etag(content: bytes, is_lfs: bool) -> str:
    return hashlib.sha256(content).hexdigest() if is_lfs else git_blob(content)


def _model(repository: str, files: Mapping[str, bytes], lfs: frozenset[str]) -> object:
    siblings = []
    for name, content in files.items():
        sibling: dict[str, object] = {
            "rfilename": name,
            "size": len(content),
            "blobId": git_blob(content),
        }
        if name in lfs:
            digest = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        siblings.append(sibling)
    return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
