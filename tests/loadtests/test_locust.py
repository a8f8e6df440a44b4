"""Locust's scenarios, headless against a real server of ours. Locust patches what imports it, so
it runs in a process of its own."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import servers
from loadtests.servers import HEADRACE, Running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with servers.started(HEADRACE, "tiny", "0,1") as server:
        yield server


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        pytest.param(
            ["--users", "4", "--spawn-rate", "8", "--run-time", "2s"],
            {"V1 JSON", "V2 JSON", "V2 binary", "gRPC"},
            id="a user of each protocol",
        ),
        pytest.param(
            ["--shape", "spike", "--peak", "4", "--minutes", "0.03", "V2User"],
            {"V2 JSON"},
            id="a shape",
        ),
    ],
)
def test_users_succeed(
    arguments: list[str], names: set[str], running: Running, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless"]
    command += ["--host", f"http://127.0.0.1:{running.http}", "--model", servers.NAME]
    command += ["--grpc", f"127.0.0.1:{running.grpc}", "--csv", str(tmp_path / "found")]
    done = subprocess.run(
        [*command, "--stop-timeout", "2", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with (tmp_path / "found_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*names, "Aggregated"}
    for row in rows.values():
        assert int(row["Request Count"]) > 0
        assert int(row["Failure Count"]) == 0
