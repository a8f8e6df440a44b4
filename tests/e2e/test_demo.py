"""`make demo` as a user runs it: every predictor, every protocol, scores that a model has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^(?P<model>\S+) +(?P<format>\S+) +(?P<protocol>V1|V2 JSON|V2 binary|gRPC typed|gRPC raw) +"
    r"(?P<client>\S+) +(?P<score>[\d.]+) (?P<kind>accuracy|r2) +[\d.]+ *$",
    re.MULTILINE,
)


@pytest.mark.timeout(240)
def test_the_demo() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [match.groupdict() for match in ROW.finditer(done.stdout)]
    seen = {(row["model"], row["protocol"]) for row in rows}
    models = {row["model"] for row in rows}
    assert len(models) == 10
    assert len(seen) == 50
    formats = {"custom", "lightgbm", "mlflow", "onnx", "pytorch", "sklearn", "xgboost"}
    assert {row["format"] for row in rows} == formats
    for row in rows:
        assert float(row["score"]) > (0.85 if row["kind"] == "accuracy" else 0.3), row
    assert '"importances_mean"' in done.stdout
