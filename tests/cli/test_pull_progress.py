"""What `headrace pull` shows while it works: a bar at a terminal, log lines elsewhere."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

from tests.storage.web_server import Site, serving

COMMAND = [sys.executable, "-m", "headrace.cli", "pull"]
CONTENT = b"m" * 3_000_000


def test_a_bar_at_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with serving(Site({"/m.onnx": CONTENT})) as url:
        command = [*COMMAND, f"{url}/m.onnx", str(tmp_path / "t")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True, text=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "100%" in shown
    assert f"{url}/m.onnx" in shown
    assert done.stdout == f"{tmp_path}/t\n"


def test_log_lines_elsewhere(tmp_path: Path) -> None:
    with serving(Site({"/m.onnx": CONTENT})) as url:
        command = [*COMMAND, f"{url}/m.onnx", str(tmp_path / "t")]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert "download ended" in done.stderr
    assert f"source={url}/m.onnx total_bytes=3000000 done_bytes=3000000" in done.stderr
