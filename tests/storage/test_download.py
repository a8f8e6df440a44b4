"""The flow: whole or nothing, resumed after a break, shared through the cache, bounded."""

import base64
import http.server
import io
import os
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.server.storage import Options, StorageError, download, unfinished
from headrace.server.storage.cache import Cache
from headrace.server.storage.download import PARTIAL, SOURCE_MARK, is_downloaded
from headrace.server.storage.remote import Digest, Patterns, check_path
from tests.storage.web_server import Site, serving

CONTENT = bytes(range(256)) * 2000


def names(folder: Path) -> list[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return sorted(found - {SOURCE_MARK})


def test_a_local_folder_is_linked_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "1").mkdir(parents=True)
    (source / "model.onnx").write_bytes(b"m")
    target = download(f"file://{source}", tmp_path / "target", Options())
    assert (target / "model.onnx").is_symlink()
    assert (target / "model.onnx").read_bytes() == b"m"
    assert (target / "1").is_symlink()
    download(str(source), target, Options())  # again: the links are replaced


def test_what_was_downloaded_is_told_from_what_was_linked(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with serving(Site({"/m.onnx": b"m"})) as url:
        pulled = download(f"{url}/m.onnx", tmp_path / "pulled", Options())
        linked = download(str(tmp_path / "own"), tmp_path / "linked", Options())
        assert (pulled / SOURCE_MARK).read_text() == f"{url}/m.onnx\n"
    assert is_downloaded(pulled / "m.onnx")
    assert not is_downloaded(linked)
    assert is_downloaded(Path("/mnt/models/model.py"))


def test_a_local_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        download("file:///no/such", tmp_path, Options())
    assert str(caught.value) == ("file:///no/such: there is no such file or folder (/no/such)")


def test_a_broken_connection_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    site = Site({"/m.onnx": CONTENT}, breaks=2)
    with serving(site) as url:
        download(f"{url}/m.onnx", tmp_path / "t", Options())
    assert (tmp_path / "t/m.onnx").read_bytes() == CONTENT
    half = len(CONTENT) // 2
    quarter = half + (len(CONTENT) - half) // 2
    assert [asked for _, asked in site.asked] == [
        None,  # the listing
        None,
        f"bytes={half}-",
        f"bytes={quarter}-",
    ]


def test_a_connection_that_always_breaks_is_an_error_and_leaves_no_model(tmp_path: Path) -> None:
    with serving(Site({"/m.onnx": CONTENT}, breaks=100)) as url:
        with pytest.raises(StorageError) as caught:
            download(f"{url}/m.onnx", tmp_path / "t", Options())
        assert str(caught.value) == f"{url}/m.onnx: the connection broke off 4 times"
    assert unfinished(tmp_path / "t")
    assert not (tmp_path / "t/m.onnx").exists()


def test_a_killed_download_leaves_nothing_that_loads_and_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    site = Site({"/m.onnx": CONTENT}, hold=threading.Event())
    target = tmp_path / "t"
    code = (
        "import sys; from pathlib import Path; from headrace.server.storage import *; "
        "download(sys.argv[1], Path(sys.argv[2]), Options())"
    )
    with serving(site) as url:
        assert site.hold is not None
        child = subprocess.Popen([sys.executable, "-c", code, f"{url}/m.onnx", str(target)])
        assert site.half_way.wait(30)  # the listing's own body
        site.half_way.clear()
        assert site.half_way.wait(30)
        child.kill()
        child.wait()
        assert unfinished(target)
        assert [path.name for path in target.iterdir() if not path.name.startswith(PARTIAL)] == []
        site.hold.set()
        site.hold = None
        download(f"{url}/m.onnx", target, Options())
    assert names(target) == ["m.onnx"]
    assert (target / "m.onnx").read_bytes() == CONTENT
    assert not unfinished(target)


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("text/html; charset=utf-8", "text/html"),
        ("application/json", "application/json"),
    ],
)
def test_a_web_page_is_no_model(content_type: str, says: str, tmp_path: Path) -> None:
    with serving(Site({"/m.onnx": b"<html>"}, content_type)) as url:
        with pytest.raises(StorageError) as caught:
            download(f"{url}/m.onnx", tmp_path, Options())
        assert str(caught.value) == (
            f"{url}/m.onnx: the server sent {says}; expected an archive (zip, tar, gzip) "
            "or application/octet-stream"
        )


def test_what_the_server_refuses_is_told(tmp_path: Path) -> None:
    with serving(Site({})) as url:
        with pytest.raises(StorageError) as caught:
            download(f"{url}/m.onnx", tmp_path, Options())
        assert str(caught.value) == f"{url}/m.onnx: the server answered 404 Not Found"


@pytest.mark.parametrize("headers", ['{"Authorization": "Bearer t"}', "Authorization: Bearer t\n"])
def test_the_operators_headers_go_to_their_host_and_no_further(
    headers: str, tmp_path: Path
) -> None:
    site = Site({"/m.onnx": b"m"})
    with serving(site) as url:
        site.redirects["/old.onnx"] = f"{url}/m.onnx"
        options = Options(env={"127.0.0.1-headers": headers})
        download(f"{url}/old.onnx", tmp_path / "t", options)
    sent = [
        (path, each.get("authorization"))
        for (path, _), each in zip(site.asked, site.headers, strict=True)
    ]
    assert sent == [("/old.onnx", "Bearer t"), ("/m.onnx", None)] * 2


def test_a_lone_archive_is_unpacked_and_removed(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("1/model.onnx", b"m")
    with serving(Site({"/m.zip": packed.getvalue()}, "application/zip")) as url:
        target = download(f"{url}/m.zip", tmp_path / "t", Options())
    assert names(target) == ["1", "1/model.onnx"]


def test_the_cache_answers_the_second_time(tmp_path: Path) -> None:
    site = Site({"/m.onnx": CONTENT})
    options = Options(cache=Cache(tmp_path / "cache"))
    with serving(site) as url:
        download(f"{url}/m.onnx", tmp_path / "a", options)
        download(f"{url}/m.onnx", tmp_path / "b", options)
    assert (tmp_path / "b/m.onnx").read_bytes() == CONTENT
    assert len(site.asked) == 3  # two listings, one content


def test_the_cache_keeps_to_its_bound(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=250)
    for i in range(5):
        path = tmp_path / f"file{i}"
        path.write_bytes(bytes([i]) * 100)
        cache.add(f"md5-{i}", path)
    kept = [i for i in range(5) if cache.take(f"md5-{i}", tmp_path / "out")]
    assert kept == [3, 4]
    assert not cache.take("md5-absent", tmp_path / "out")


def test_two_processes_fetch_the_same_content_once(tmp_path: Path) -> None:
    site = Site({"/m.onnx": CONTENT})
    code = (
        "import sys; from pathlib import Path; from headrace.server.storage import *; "
        "from headrace.server.storage.cache import Cache; "
        "download(sys.argv[1], Path(sys.argv[2]), Options(cache=Cache(Path(sys.argv[3]))))"
    )
    with serving(site) as url:
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    code,
                    f"{url}/m.onnx",
                    str(tmp_path / name),
                    str(tmp_path / "c"),
                ]
            )
            for name in ("a", "b")
        ]
        assert [child.wait(60) for child in children] == [0, 0]
    assert len(site.asked) == 3  # two listings, one content
    assert (tmp_path / "a/m.onnx").read_bytes() == (tmp_path / "b/m.onnx").read_bytes() == CONTENT


def test_an_object_name_may_not_leave_the_target() -> None:
    for name in ("../x", "/x", "a/../../x", "a\0b"):
        with pytest.raises(StorageError) as caught:
            check_path(name, "s3://b/p")
        expected = f"s3://b/p: the object name {name!r} would leave the target folder"
        assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("digest", "holds"),
    [
        (Digest("md5", "900150983cd24fb0d6963f7d28e17f72"), True),
        (Digest("git-blob", "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"), True),
        (Digest("sha256", "00" * 32), False),
    ],
)
def test_digest(digest: Digest, holds: bool, tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert digest.matches(path) is holds


def test_patterns_ignore_wins_over_allow() -> None:
    patterns = Patterns.from_env(
        {"STORAGE_ALLOW_PATTERNS": "*.bin, *.json", "STORAGE_IGNORE_PATTERNS": '["secret*"]'}
    )
    admitted = [n for n in ("a.bin", "x/secret.json", "x/b.json", "c.txt") if patterns.admit(n)]
    assert admitted == ["a.bin", "x/b.json"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and key for 127.0.0.1, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path.write_text(path.read_text() + done.stdout)
    return path


class GitHandler(http.server.BaseHTTPRequestHandler):
    """git's own CGI program behind HTTP, with a login."""

    root: Path

    def do_GET(self) -> None:
        login = base64.b64encode(b"me:secret").decode()
        if self.headers.get("Authorization") != f"Basic {login}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        done = subprocess.run(
            ["git", "http-backend"], env=env, input=body, capture_output=True, check=True
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def git_url(tmp_path: Path, certificate: Path) -> Iterator[str]:
    work = tmp_path / "work"
    work.mkdir()
    (work / "model.onnx").write_bytes(b"m")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=work, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, tmp_path / "repo.git"], check=True)
    handler = type("RepositoryHandler", (GitHandler,), {"root": tmp_path})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/repo.git"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_git_over_https_with_a_login(git_url: str, certificate: Path, tmp_path: Path) -> None:
    env = {**os.environ, "GIT_SSL_CAINFO": str(certificate)}
    login = {"GIT_USERNAME": "me", "GIT_PASSWORD": "secret"}
    target = download(git_url, tmp_path / "t", Options(env={**env, **login}))
    assert names(target) == ["model.onnx"]
    with pytest.raises(StorageError) as caught:
        download(git_url, tmp_path / "u", Options(env=env))
    assert str(caught.value).startswith(f"{git_url}: git clone failed: ")
