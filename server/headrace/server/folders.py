"""A folder of models: Triton's layout, MLServer's, or plain files; read as it is, when it is asked.

    digits/config.pbtxt  digits/1/model.onnx        Triton: numbered versions, a config or none
    iris/model-settings.json                        MLServer: name, implementation, uri, version
    wine/model.joblib    tree.bst                   a folder with one model, or a file by its stem

New folders appear at the next index or load. What is wrong with one model is that model's error.
"""

import base64
import binascii
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from headrace.server import model_config
from headrace.server.admission import estimate
from headrace.server.batch_settings import BatchWishes
from headrace.server.errors import InvalidInput, ModelLoadError, ModelMissingError, ModelNotFound
from headrace.server.loading import (
    Devices,
    ModelSource,
    estimated_bytes,
    load_served,
    no_gpus,
)
from headrace.server.model_config import ModelConfig
from headrace.server.model_files import MLSERVER_SETTINGS, known_extensions
from headrace.server.placement import count
from headrace.server.repository import ServedModel, sort_versions
from headrace.server.servable import TensorServable

log = logging.getLogger(__name__)

TRITON = "config.pbtxt"
RESCAN_S = 1.0  # names() answers requests for unknown models too: a deep look is this rare
FILE = "file:"
IMPLEMENTATIONS = {
    "mlserver_sklearn.SKLearnModel": "sklearn",
    "mlserver_xgboost.XGBoostModel": "xgboost",
    "mlserver_lightgbm.LightGBMModel": "lightgbm",
    "mlserver_mlflow.MLflowRuntime": "mlflow",
}


class _SettingsParameters(msgspec.Struct):
    uri: str | None = None
    version: str | None = None


class _ModelSettings(msgspec.Struct):
    """What we read of a model-settings.json; its other keys are MLServer's own affair."""

    name: str | None = None
    implementation: str | None = None
    max_batch_size: int | None = None
    max_batch_time: float = 0.0  # seconds
    parameters: _SettingsParameters = msgspec.field(default_factory=_SettingsParameters)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a name was found: folders (several for MLServer's versions) or one file."""

    paths: tuple[Path, ...]


class FolderLoader:
    """The loader of a folder repository. template: options and limits common to all models.

    threads: CPU threads of one instance, when so many run in all; None: as template says.
    """

    def __init__(
        self,
        root: Path,
        template: ModelSource,
        devices: Devices = no_gpus,
        threads: Callable[[int], int] | None = None,
    ) -> None:
        self._root = root
        self._template = template
        self._devices = devices
        self._threads = threads
        self._counts: dict[Path, tuple[int, int]] = {}  # config → when it changed, its instances
        self._found: dict[str, Found] = {}
        self._scanned_s = -RESCAN_S
        self._changed_ns = 0  # the root's own time as of the last scan
        self._uploads: dict[str, Path] = {}  # folders made of `file:` parameters, by model

    def names(self) -> Sequence[str]:
        if time.monotonic() - self._scanned_s >= RESCAN_S or _changed_ns(self._root) != (
            self._changed_ns
        ):
            self._scan()
        return list(self._found)

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        """Raises ModelNotFound, or ModelLoadError naming the file that is wrong."""
        self._scan()
        if name not in self._found:
            raise ModelNotFound(name)
        override = None
        if "config" in parameters:
            override = model_config.from_json(str(parameters["config"]), f"model {name}: config")
        uploaded = self._uploaded(name, parameters)
        found = Found((uploaded,)) if uploaded else self._found[name]
        template = self._template
        if self._threads is not None:
            threads = self._threads(self._instances())
            template = replace(template, options=replace(template.options, threads=threads))
        sources = sources_of(name, found, template, override)
        models = [await _load(name, source, config, self._devices) for source, config in sources]
        self._keep(name, uploaded)
        return models

    def estimated_bytes(self, name: str, parameters: Mapping[str, Any]) -> int:
        """By the files sent, or those of the folder; 0 where the folder is wrong, as load tells."""
        sent = [each for key, each in parameters.items() if key.startswith(FILE)]
        if sent:
            return estimate(sum(len(each) for each in sent), self._template.instances)
        if name not in self._found:
            return 0
        try:
            sources = sources_of(name, self._found[name], self._template)
            return sum(estimated_bytes(source) for source, _ in sources)
        except (ModelLoadError, OSError):
            return 0

    def _scan(self) -> None:
        changed_ns, scanned_s = _changed_ns(self._root), time.monotonic()
        self._found = scan(self._root)
        self._changed_ns, self._scanned_s = changed_ns, scanned_s

    def _instances(self) -> int:
        """Instances that run when every model of the folder is loaded; for the threads of each."""
        return sum(self._count(found) for found in self._found.values())

    def _count(self, found: Found) -> int:
        path = found.paths[0] / TRITON
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:  # plain or MLServer's
            return self._template.instances * len(found.paths)
        if self._counts.get(path, (0, 0))[0] != changed_ns:
            self._counts[path] = (changed_ns, self._counted(found))
        return self._counts[path][1]

    def _counted(self, found: Found) -> int:
        try:
            sources = _triton("", found.paths[0], self._template, None)
        except (ModelLoadError, OSError):  # told when that model is loaded
            return 1
        gpus = len(self._devices())
        return sum(count(source.wanted, gpus) for source, _ in sources)

    def _uploaded(self, name: str, parameters: Mapping[str, Any]) -> Path | None:
        """The files of a load request as a folder of their own."""
        files = {key.removeprefix(FILE): v for key, v in parameters.items() if key.startswith(FILE)}
        if not files:
            return None
        folder = Path(tempfile.mkdtemp(prefix="headrace-model-"))
        try:
            for path, content in files.items():
                target = folder / inner_path(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_content(path, content))
        except BaseException:
            shutil.rmtree(folder)
            raise
        return folder

    def _keep(self, name: str, uploaded: Path | None) -> None:
        """Uploaded files live until the next load of their model."""
        was = self._uploads.pop(name, None)
        if was is not None:
            shutil.rmtree(was, ignore_errors=True)
        if uploaded is not None:
            self._uploads[name] = uploaded


async def _load(
    name: str, source: ModelSource, config: ModelConfig, devices: Devices
) -> ServedModel:
    model = await load_served(name, source, devices)
    servable = model.servable
    if isinstance(servable, TensorServable):  # where the file does not say, its config does
        servable.inputs = servable.inputs or config.inputs
        servable.outputs = servable.outputs or config.outputs
    return model


def _changed_ns(root: Path) -> int:
    """When an entry of root last came or went; 0 if root is not there, which `scan` tells."""
    try:
        return root.stat().st_mtime_ns
    except OSError:
        return 0


def scan(root: Path) -> dict[str, Found]:
    """Every model below root by name. Raises ModelLoadError if root is no folder."""
    if not root.is_dir():
        raise ModelLoadError(f"--model_repository {root}: there is no such folder")
    found: dict[str, Found] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            if entry.suffix.lower() in known_extensions():
                found.setdefault(entry.stem, Found((entry,)))
        elif entry.is_dir():
            for name, path in _of_folder(entry):
                paths = found[name].paths if name in found else ()
                found[name] = Found((*paths, path))
    return found


def _of_folder(folder: Path) -> list[tuple[str, Path]]:
    """The names a folder holds: one each model-settings.json below it, else its own."""
    settings = sorted(folder.rglob(MLSERVER_SETTINGS))
    if not settings:
        return [(folder.name, folder)]
    return [(_settings_name(each), each.parent) for each in settings]


def _settings_name(path: Path) -> str:
    try:
        return read_settings(path).name or path.parent.name
    except ModelLoadError as err:  # it is that model's error, told when it is loaded
        log.warning("model settings cannot be read", extra={"at": str(path), "error": str(err)})
        return path.parent.name


def read_settings(path: Path) -> _ModelSettings:
    """Raises ModelLoadError naming the file and what is wrong in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_ModelSettings)
    except (msgspec.MsgspecError, OSError) as err:
        raise ModelLoadError(f"{path}: {err}") from err


def sources_of(
    name: str, found: Found, template: ModelSource, override: ModelConfig | None = None
) -> list[tuple[ModelSource, ModelConfig]]:
    """A source, and its config, for each version to serve. Raises ModelLoadError."""
    first = found.paths[0]
    if first.is_file():
        return [(replace(template, path=first), ModelConfig())]
    if (first / MLSERVER_SETTINGS).exists():
        return [_mlserver(folder, template) for folder in found.paths]
    return _triton(name, first, template, override)


def _mlserver(folder: Path, template: ModelSource) -> tuple[ModelSource, ModelConfig]:
    path = folder / MLSERVER_SETTINGS
    settings = read_settings(path)
    framework = template.framework
    if settings.implementation:
        framework = IMPLEMENTATIONS.get(settings.implementation)
        if framework is None:
            raise ModelLoadError(
                f"{path}: implementation {settings.implementation!r} is not served here; "
                f"expected one of {', '.join(IMPLEMENTATIONS)}"
            )
    uri = settings.parameters.uri
    model = folder / uri.removeprefix("file://") if uri else folder
    version = settings.parameters.version or template.version
    batching = template.batching
    if settings.max_batch_size is not None:
        batching = BatchWishes(
            settings.max_batch_size, settings.max_batch_time, template.batching.target_s
        )
    source = replace(template, path=model, framework=framework, version=version, batching=batching)
    return source, ModelConfig()


def _triton(
    name: str, folder: Path, template: ModelSource, override: ModelConfig | None
) -> list[tuple[ModelSource, ModelConfig]]:
    config = override
    if config is None:
        path = folder / TRITON
        text = path.read_text() if path.exists() else ""
        config = model_config.from_text(text, str(path)) if text else ModelConfig()
    numbered = {e.name: e for e in folder.iterdir() if e.is_dir() and e.name.isdigit()}
    versions = {v: numbered[v] for v in config.versions(sort_versions(numbered))}
    if numbered and not versions:
        raise ModelMissingError(folder, "its version_policy leaves no version")
    shared = replace(
        template,
        framework=config.framework or template.framework,
        groups=config.groups,
        config=config.keys,
        options=replace(template.options, parameters=config.parameters),
    )
    paths = versions or {template.version: folder}
    sources = []
    for version, path in paths.items():
        model = path / config.file_name if config.file_name else path
        sources.append((replace(shared, path=model, version=version), config))
    return sources


def inner_path(text: str) -> PurePosixPath:
    """The path of an uploaded file, which stays inside its folder. Raises InvalidInput."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in text:
        raise InvalidInput(f"'{FILE}{text}': expected a relative path such as {FILE}1/model.onnx")
    return path


def _content(path: str, content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return base64.b64decode(str(content), validate=True)
    except (binascii.Error, ValueError) as err:
        raise InvalidInput(f"'{FILE}{path}': the content is not base64: {err}") from err
