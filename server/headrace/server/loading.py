"""From a path to a `Servable`: which format a file has, how it is loaded, what runs it.

`headrace serve PATH` guesses from the files; `name=format:path` and --framework say it. The rules
(which extensions, exactly one file, the messages) are data-plane contract §6.4's. Loading happens
in a thread; nothing here runs on the event loop's time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.server.errors import ModelLoadError, ModelMissingError, ModelNotFound
from headrace.server.execution import Executor, Mode, QueueLimits
from headrace.server.predictor import (
    LoadOptions,
    Predictor,
    PredictorFormat,
    find_format,
    known_formats,
)
from headrace.server.repository import DEFAULT_VERSION, ServedModel
from headrace.server.servable import Servable, TensorServable
from headrace.server.settings import Isolation


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model of the command line or of a folder: what to load, and how."""

    path: Path
    framework: str | None = None  # None: the files say
    version: str = DEFAULT_VERSION
    options: LoadOptions = field(default_factory=LoadOptions)
    instances: int = 1
    limits: QueueLimits = field(default_factory=QueueLimits)
    isolation: Isolation = Isolation.AUTO
    config: Mapping[str, Any] = field(default_factory=dict)  # Triton's ModelConfig keys


class SourceLoader:
    """The loader of a fixed set of named sources."""

    def __init__(self, sources: Mapping[str, Sequence[ModelSource]]) -> None:
        self._sources = dict(sources)

    def names(self) -> Sequence[str]:
        return list(self._sources)

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        if name not in self._sources:
            raise ModelNotFound(name)
        return [
            ServedModel(name, await load_servable(name, source), source.version, source.config)
            for source in self._sources[name]
        ]


async def load_servable(name: str, source: ModelSource) -> Servable:
    """Load source off the loop. Raises ModelLoadError with the reason."""
    return await asyncio.to_thread(_load, name, source)


def _load(name: str, source: ModelSource) -> Servable:
    if not source.path.exists():
        raise ModelMissingError(source.path)
    model_format = find_format(source.framework) if source.framework else guess(source.path)
    path = source.path if model_format.wants_folder else model_file(source.path, model_format)
    instances: list[Predictor] = []
    for _ in range(source.instances):
        loaded = model_format.load(path, source.options)
        if not isinstance(loaded, Predictor):
            raise ModelLoadError(f"{path}: {type(loaded).__name__} has no predict")
        instances.append(loaded)
    return TensorServable(Executor(name, instances, source.limits, Mode.THREAD), model_format.name)


def model_file(path: Path, model_format: PredictorFormat) -> Path:
    """The one model file: path itself, or the only fitting file directly in folder path.

    Raises ModelMissingError, or KServe's RuntimeError sentence as ModelLoadError for several.
    """
    if path.is_file():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in model_format.extensions)
    if not found:
        raise ModelMissingError(path)
    if len(found) > 1:
        names = [str(p) for p in found]
        raise ModelLoadError(
            f"More than one model file is detected, Only one is allowed within model_dir: {names}"
        )
    return found[0]


def guess(path: Path) -> PredictorFormat:
    """The only format that claims path. Raises ModelLoadError for none or several."""
    formats = [point.load() for point in known_formats().values()]
    claimed: list[PredictorFormat] = [f for f in formats if f.claims and f.claims(path)]
    if len(claimed) == 1:
        return claimed[0]
    if not claimed:
        raise ModelMissingError(path)
    names = ", ".join(f.name for f in claimed)
    raise ModelLoadError(
        f"{path}: could be {names}; say which with --framework, or as name=format:path"
    )
