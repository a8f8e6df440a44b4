"""One file over http or https: resumed where the server allows it.

KServe's rules (control-plane contract §7.1): the content must be an archive or an octet stream, and
extra headers come from the environment variable `<host>-headers`, a JSON object or `name: value`
lines.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from headrace.server.storage.remote import CHUNK_BYTES, Advance, RemoteFile, StorageError
from headrace.server.storage.uri import Location

TIMEOUT_S = 30.0
ATTEMPTS = 4
ARCHIVES = frozenset(
    {
        "application/gzip",
        "application/tar",
        "application/tar+gzip",
        "application/x-compressed-tar",
        "application/x-gtar",
        "application/x-gzip",
        "application/x-tar",
        "application/x-tgz",
        "application/x-zip",
        "application/x-zip-compressed",
        "application/zip",
        "application/zip-compressed",
    }
)
ACCEPTED = ARCHIVES | {"application/octet-stream", "binary/octet-stream"}


def listed(location: Location, env: Mapping[str, str]) -> list[RemoteFile]:
    """The one file behind the URI. Raises StorageError if it is not there, or is a web page."""
    headers = headers_of(location.uri, env)
    with _open(location, headers, {}) as answer:
        kind = (answer.headers.get_content_type() or "").lower()
        if answer.headers.get("Content-Type") and kind not in ACCEPTED:
            raise StorageError(
                f"{location.shown}: the server sent {kind}; expected an archive "
                "(zip, tar, gzip) or application/octet-stream"
            )
        length = answer.headers.get("Content-Length")
        etag = answer.headers.get("ETag") or ""

    def fetch(target: Path, advance: Advance) -> None:
        _fetch(location, headers, "" if etag.startswith("W/") else etag, target, advance)

    return [
        RemoteFile(
            location.path,
            fetch,
            int(length) if length else None,
            tag=f"{location.uri}|{etag}|{length}" if etag else "",
        )
    ]


def headers_of(uri: str, env: Mapping[str, str]) -> dict[str, str]:
    """The operator's headers for this host. Raises StorageError if they are no JSON object."""
    name = f"{urlsplit(uri).hostname}-headers"
    text = env.get(name, "").strip()
    if not text:
        return {}
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError as err:
            raise StorageError(f"environment {name}: expected a JSON object: {err}") from err
        return {str(key): str(value) for key, value in found.items()}
    # a Secret's value arrives as written: one `name: value` a line
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _fetch(
    location: Location, headers: dict[str, str], etag: str, target: Path, advance: Advance
) -> None:
    """Write the file to target, going on from what is there; a broken connection is taken up."""
    is_first = True
    for _ in range(ATTEMPTS):
        have = target.stat().st_size if target.exists() else 0
        asked = {"Range": f"bytes={have}-", "If-Range": etag} if have and etag else {}
        with _open(location, headers, asked) as answer:
            resumes = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            if is_first and resumes:
                advance(have)
            is_first = False
            if _receive(answer, target, "ab" if resumes else "wb", advance):
                return
    raise StorageError(f"{location.shown}: the connection broke off {ATTEMPTS} times")


def _receive(answer: http.client.HTTPResponse, target: Path, mode: str, advance: Advance) -> bool:
    """Append or write the body; False if the connection ended before it did."""
    left = int(answer.headers.get("Content-Length") or 0)
    with target.open(mode) as file:
        try:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
                left -= len(chunk)
        except (http.client.HTTPException, OSError):
            return False
    return left <= 0  # http.client ends a short body without an error


def _open(
    location: Location, headers: Mapping[str, str], asked: Mapping[str, str]
) -> http.client.HTTPResponse:
    """headers are the operator's, for this host alone: a redirect does not carry them on."""
    request = urllib.request.Request(location.uri, headers=dict(asked))
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as err:
        with err:
            if err.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked:
                return _open(location, headers, {})
        raise StorageError(
            f"{location.shown}: the server answered {err.code} {err.reason}"
        ) from err
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException) as err:
        raise StorageError(f"{location.shown}: cannot be reached: {err}") from err
    return answer
