"""Sources that come as a whole folder: an MLflow registry's model, a git repository.

They have no per-file listing to verify or to cache; the folder is fetched beside the target and
used only if all of it came.
"""

import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from headrace.server.storage.object_stores import explain
from headrace.server.storage.remote import StorageError
from headrace.server.storage.uri import Location

GIT_TIMEOUT_S = 600.0
# What a cloned repository may make git do: speak https, nothing else; no hooks, no links.
GIT_OPTIONS = (
    *("-c", "protocol.allow=never"),
    *("-c", "protocol.https.allow=always"),
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "core.symlinks=false"),
    *("-c", "credential.helper="),
)


def fetch_mlflow(location: Location, folder: Path) -> None:
    """A registered model's artifacts; MLFLOW_TRACKING_URI and MLflow's other variables work."""
    try:
        artifacts = importlib.import_module("mlflow.artifacts")
    except ImportError as err:
        raise StorageError("models:/ needs mlflow: pip install 'headrace[mlflow]'") from err
    try:
        fetched = artifacts.download_artifacts(artifact_uri=location.uri, dst_path=str(folder))
    except Exception as err:  # MLflow passes through what its stores raise
        raise StorageError(f"{location.uri}: did not arrive: {explain(err)}") from err
    if Path(fetched) != folder:
        _move_up(Path(fetched), folder)


def fetch_git(location: Location, folder: Path, env: Mapping[str, str]) -> None:
    """A clone of depth 1 without its .git; GIT_USERNAME and GIT_PASSWORD log in."""
    with tempfile.TemporaryDirectory() as home:
        ask = Path(home, "askpass")
        ask.write_text(
            '#!/bin/sh\ncase "$1" in\nUsername*) echo "$GIT_USERNAME";;\n'
            '*) echo "$GIT_PASSWORD";;\nesac\n'
        )
        ask.chmod(0o700)
        command = ["git", *GIT_OPTIONS, "clone", "--depth", "1", "--quiet", "--no-tags", "--"]
        try:
            done = subprocess.run(
                [*command, location.uri, str(folder)],
                env={**env, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": str(ask)},
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as err:
            raise StorageError(f"{location.shown}: the command git is not installed") from err
        except subprocess.TimeoutExpired as err:
            raise StorageError(f"{location.shown}: git took over {GIT_TIMEOUT_S:.0f} s") from err
    if done.returncode:
        raise StorageError(f"{location.shown}: git clone failed: {' '.join(done.stderr.split())}")
    shutil.rmtree(folder / ".git")


def _move_up(source: Path, folder: Path) -> None:
    for entry in list(source.iterdir()):
        shutil.move(entry, folder / entry.name)
    source.rmdir()
