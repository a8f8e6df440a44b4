"""The shape of the repository that packaging depends on (style §4)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_part_holds_only_its_namespace() -> None:
    """headrace/__init__.py would hide the other parts; any other folder would become importable."""
    assert list(ROOT.glob("*/headrace/__init__.py")) == []
    for part in ["server", "predictors", "transformers", "controller"]:
        names = {path.name for path in (ROOT / part).iterdir()}
        assert names <= {"headrace", "README.md", "Dockerfile"}


def test_importing_the_server_pulls_in_neither_tornado_nor_grpc() -> None:
    code = "import headrace.server, sys; print('tornado' in sys.modules, 'grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
