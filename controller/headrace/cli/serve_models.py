"""`headrace serve PATH…`: this process becomes the server, with a laptop's defaults.

Loopback only, the docs page on, ports open at once, logs as text; flags, the environment and a
settings file win over these.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.server.settings import PREFIX, read_file

DEFAULTS = {
    "host": "127.0.0.1",
    "listen": "now",
    "enable_docs_url": "true",
    "log_format": "text",
    "drain_delay": "0",
}
# Files that make the folder they are in one model, not a folder of models.
ONE_MODEL = ("MLmodel", "model-settings.json", "config.pbtxt")
MODEL_FILES = frozenset(
    {".onnx", ".joblib", ".pkl", ".pickle", ".bst", ".json", ".ubj", ".pt", ".pth", ".pt2", ".txt"}
)
WITH_FORMAT = re.compile(r"(?P<format>[a-z][a-z0-9_]*):(?!//)(?P<path>.+)")


class BadModel(Exception):
    """A word of the command line that names no model; the text says what to type."""


def serve(models: Sequence[str], given: Mapping[str, Any], env: Mapping[str, str]) -> int:
    """Does not return, unless models name none: 2 then."""
    try:
        flags = [*flags_of(models), *settings_flags(given)]
    except BadModel as err:
        print(f"headrace serve: {err}", file=sys.stderr)
        return 2
    argv = [sys.executable, "-m", "headrace.server", *flags]
    sys.stdout.flush()
    return os.execve(sys.executable, argv, environment(given, env))


def environment(given: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """env with our defaults where neither a flag, the environment nor the file speaks."""
    path = given.get("settings_file") or env.get(f"{PREFIX}SETTINGS_FILE")
    file = read_file(Path(path)) if path else {}
    added = {
        f"{PREFIX}{name.upper()}": value
        for name, value in DEFAULTS.items()
        if name not in given and name not in file
    }
    return {**added, **env}


def settings_flags(given: Mapping[str, Any]) -> list[str]:
    """--name=value of each flag, a repeated one each time."""
    return [
        f"--{name}={each}"
        for name, value in given.items()
        for each in (value if isinstance(value, list) else [value])
    ]


def flags_of(models: Sequence[str]) -> list[str]:
    """--model name=[format:]path of each model, or --model_repository of a folder of models.

    Raises BadModel.
    """
    found: list[str] = []
    for word in models:
        name, _, rest = word.rpartition("=")
        shaped = WITH_FORMAT.fullmatch(rest)
        prefix = f"{shaped['format']}:" if shaped else ""
        path = Path(shaped["path"] if shaped else rest)
        if "://" in rest:
            raise BadModel(
                f"{rest} is not on this machine; type `headrace pull {rest} ./model`, "
                f"then `headrace serve {name + '=' if name else ''}./model`"
            )
        if not path.exists():
            raise BadModel(f"there is no file or folder {path}; give the path of a model")
        if name or prefix or not path.is_dir():
            found.append(f"--model={name or path.stem}={prefix}{path.absolute()}")
        else:
            found += _of_folder(path)
    names = [flag.partition("=")[2].partition("=")[0] for flag in found if "model=" in flag]
    for name in names:
        if names.count(name) > 1:
            raise BadModel(f"two models are called {name}; name each: `headrace serve a=… b=…`")
    repositories = [flag for flag in found if flag.startswith("--model_repository")]
    if len(repositories) > 1 or (repositories and len(found) > 1):
        raise BadModel(
            "one folder of models at a time, and no others beside it; name each model instead: "
            "`headrace serve a=./a b=./b`"
        )
    return found


def _of_folder(folder: Path) -> list[str]:
    """One model, the model files of a flat folder each by its stem, or a model repository."""
    entries = sorted(folder.iterdir())
    if any(entry.name in ONE_MODEL for entry in entries):
        return [f"--model={folder.absolute().name}={folder.absolute()}"]
    files = [entry for entry in entries if entry.is_file() and entry.suffix in MODEL_FILES]
    if files and not any(entry.is_dir() for entry in entries):
        return [f"--model={file.stem}={file.absolute()}" for file in files]
    if not any(entry.is_dir() for entry in entries):
        raise BadModel(
            f"{folder} holds no model: neither model files ({', '.join(sorted(MODEL_FILES))}) "
            "nor a sub-folder per model"
        )
    return [f"--model_repository={folder.absolute()}"]
