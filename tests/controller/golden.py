"""The recordings of the original controller, where they lie beside the project.

HEADRACE_GOLDEN names the folder; else it is ../shared/golden of the repository.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(os.environ.get("HEADRACE_GOLDEN") or Path(__file__).parents[3] / "shared" / "golden")
KSERVE = ROOT / "kserve"
MISSING = f"no golden data at {ROOT}: set HEADRACE_GOLDEN to the folder that holds it"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """One case in one mode."""

    area: str
    case: str
    mode: str
    given: dict[str, Any]  # case.yaml
    steps: list[dict[str, Any]]  # <mode>.yaml
    sent: list[dict[str, Any]]  # <mode>.sent.yaml, empty where nothing was sent

    def config_map(self) -> dict[str, str]:
        """data of the ConfigMap the case ran with."""
        data = dict(environment(f"configmap-{self.mode}.yaml")[0]["data"])
        for key, value in (self.given.get("config") or {}).items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value if isinstance(value, str) else json.dumps(value)
        return data


def load(path: Path) -> list[Any]:
    return [doc for doc in yaml.load_all(path.read_text(), Loader=Loader) if doc]


@cache
def environment(name: str) -> list[Any]:
    return load(KSERVE / "environment" / name)


def areas() -> list[str]:
    folder = KSERVE / "cases"
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def recordings(area: str) -> Iterator[Recording]:
    for folder in sorted((KSERVE / "cases" / area).iterdir()):
        given = load(folder / "case.yaml")[0]
        for mode in given["modes"]:
            happened = load(folder / f"{mode}.yaml")[0]["steps"]
            sent = folder / f"{mode}.sent.yaml"
            bodies = load(sent)[0]["steps"] if sent.exists() else []
            yield Recording(area, folder.name, mode, given, happened, bodies)
