"""The docs page in a real browser: it shows every route and asks nobody but us for anything."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving import server_process

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def test_the_page_renders_by_itself(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    flags = ["--enable_docs_url", "--access_log_format", "%(path)s"]
    with server_process("--model", f"m=echo:{tmp_path}", *flags) as server:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [browser, *FLAGS, profile, "--dump-dom", f"{server.url}/docs"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"<h1>[^<]*Headrace[^<]*</h1>", done.stdout, re.IGNORECASE)
    for path in ("/v2/models/{model}/infer", "/v1/models/{model}:predict", "/v2/repository/index"):
        assert path in done.stdout
    assert re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', done.stdout) == []
