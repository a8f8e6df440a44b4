"""The manifests of `headrace serve -f`: files, folders, standard input; several documents each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml

from headrace.controller.api import decoding
from headrace.controller.api.inference_service import InferenceService
from headrace.controller.api.serving_runtime import KINDS, ServingRuntime
from headrace.controller.config import Config
from headrace.controller.defaulting import default
from headrace.controller.errors import Denied
from headrace.controller.validation import validate

SUFFIXES = (".yaml", ".yml", ".json")
CONFIG_MAP = "inferenceservice-config"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadManifests(Exception):
    """What was given cannot be served; the text says where and why."""


@dataclass(slots=True)
class Manifests:
    """services: defaulted and valid. notes: a line each for what was odd or is not used."""

    services: list[InferenceService] = field(default_factory=list)
    runtimes: list[ServingRuntime] = field(default_factory=list)
    config: Config = field(default_factory=Config)
    notes: list[str] = field(default_factory=list)


def read(names: Sequence[str], stdin: TextIO) -> Manifests:
    """Raises BadManifests with KServe's message for a service that KServe would refuse."""
    found = Manifests()
    services: list[tuple[str, dict[str, Any]]] = []
    for where, document in _documents(names, stdin):
        kind = document.get("kind")
        try:
            if kind == "InferenceService":
                services.append((where, document))
            elif kind in KINDS:
                decoded = decoding.serving_runtime(document)
                found.runtimes.append(decoded.value)
                found.notes += [f"{where}: {warning}" for warning in decoded.warnings]
            elif kind == "ConfigMap" and _name(document) == CONFIG_MAP:
                found.config = Config.from_config_map(document.get("data") or {})
            else:
                found.notes.append(f"{where}: {kind or 'no kind'}: not used here")
        except (Denied, decoding.BadManifest) as err:
            raise BadManifests(f"{where}: {err}") from err
    for where, document in services:
        _add_service(found, where, document)
    if not found.services:
        raise BadManifests(
            f"{', '.join(names)}: no InferenceService in it; a manifest has "
            "`apiVersion: serving.kserve.io/v1beta1` and `kind: InferenceService`"
        )
    return found


def _add_service(found: Manifests, where: str, document: dict[str, Any]) -> None:
    version = document.get("apiVersion")
    if version != "serving.kserve.io/v1beta1":
        raise BadManifests(f"{where}: apiVersion {version}: expected serving.kserve.io/v1beta1")
    try:
        decoded = decoding.inference_service(document)
        isvc = default(decoded.value, found.config)
        warnings = [*decoded.warnings, *validate(isvc, found.config)]
    except (Denied, decoding.BadManifest) as err:
        raise BadManifests(f"{where}: {err}") from err
    name = isvc.metadata.name
    if any(each.metadata.name == name for each in found.services):
        raise BadManifests(f"{where}: there is an InferenceService {name} already; rename one")
    found.services.append(isvc)
    found.notes += [f"{name}: {warning}" for warning in warnings]


def _documents(names: Sequence[str], stdin: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the document) of each; the items of a List one by one."""
    for name, text in _texts(names, stdin):
        try:
            documents = [doc for doc in yaml.load_all(text, Loader=Loader) if doc is not None]
        except yaml.YAMLError as err:
            raise BadManifests(f"{name}: not YAML: {' '.join(str(err).split())}") from err
        items: list[Any] = []
        for document in documents:
            is_list = isinstance(document, dict) and document.get("kind") == "List"
            items += document.get("items") or [] if is_list else [document]
        for i, item in enumerate(items):
            where = name if len(items) == 1 else f"{name} (document {i + 1})"
            if not isinstance(item, dict):
                raise BadManifests(
                    f"{where}: expected a manifest (a mapping), got {type(item).__name__}"
                )
            yield where, item


def _texts(names: Sequence[str], stdin: TextIO) -> Iterator[tuple[str, str]]:
    for name in names:
        path = Path(name)
        if name == "-":
            yield "standard input", stdin.read()
        elif path.is_dir():
            files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES)
            if not files:
                raise BadManifests(f"{name}: no {', '.join(SUFFIXES)} file in this folder")
            for each in files:
                yield str(each), each.read_text()
        else:
            try:
                yield name, path.read_text()
            except OSError as err:
                raise BadManifests(f"{name}: {err.strerror}") from err


def _name(document: dict[str, Any]) -> Any:
    metadata = document.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None
