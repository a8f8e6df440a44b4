"""Each work of the benchmark once, tiny, on a real server of ours: that it works, not how fast."""

import json
from pathlib import Path

import pytest

from loadtests import compare


@pytest.mark.parametrize(
    ("work", "titles"),
    [
        pytest.param("tiny", 8, id="every protocol, the calibration, and Envoy's bridge"),
        pytest.param("image", 3, id="images as JSON, binary and gRPC"),
        pytest.param("scaling,idle", 3, id="more connections, and idle ones"),
        pytest.param("low_load,latency", 3, id="an open loop"),
        pytest.param("memory", 2, id="memory of one worker and of two"),
        pytest.param("real", 6, id="networks of onnx and torch"),
    ],
)
def test_a_work_runs(work: str, titles: int, tmp_path: Path) -> None:
    assert compare.main(["--peers", "", "--quick", "--work", work, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["not_measured"] == {}
    assert len(found["runs"]) == titles
    for by_peer in found["runs"].values():
        (run,) = by_peer["headrace"]
        assert run["lost"] == 0
        assert run["rate_per_s"] > 0 or run["extra"]["pss_mb"] > 0


def test_batching_is_swept_and_measured(tmp_path: Path) -> None:
    assert compare.main(["--peers", "", "--quick", "--work", "batch", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["not_measured"] == {}
    policies = {run["policy"] for run in found["goodput"]}
    assert policies == {"headrace", "fixed 8 rows, 2 ms"}
    assert any(run["good_per_s"]["120 ms"] > 0 for run in found["goodput"])
    assert (tmp_path / "goodput.png").is_file()
