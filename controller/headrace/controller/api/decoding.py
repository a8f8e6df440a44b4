"""The door: a manifest becomes its type, unknown fields become warnings, a wrong type an error.

The inlined PodSpec or Container of a block is gathered into one field on the way in and spread
again on the way out. Nulls count as absent, as in Kubernetes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from headrace.controller.api.inference_service import InferenceService
from headrace.controller.api.pod import Port, Resources
from headrace.controller.api.serving_runtime import ServingRuntime

T = TypeVar("T", InferenceService, ServingRuntime)
Manifest = dict[str, Any]
KINDS = {kind: inspect.type_info(kind) for kind in (InferenceService, ServingRuntime)}


class BadManifest(ValueError):
    """A manifest that is none: the text names the path, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Decoded(Generic[T]):
    value: T
    warnings: list[str] = field(default_factory=list)


def inference_service(manifest: Mapping[str, Any]) -> Decoded[InferenceService]:
    return decode(manifest, InferenceService)


def serving_runtime(manifest: Mapping[str, Any]) -> Decoded[ServingRuntime]:
    return decode(manifest, ServingRuntime)


def decode(manifest: Mapping[str, Any], kind: type[T]) -> Decoded[T]:
    """Raises BadManifest, e.g. `spec.predictor.minReplicas: expected int, got str`."""
    warnings: list[str] = []
    gathered = _gathered(dict(manifest), KINDS[kind], "", warnings)
    try:
        return Decoded(msgspec.convert(gathered, kind), warnings)
    except msgspec.ValidationError as err:
        raise BadManifest(_sentence(str(err))) from err


def encode(value: InferenceService | ServingRuntime) -> Manifest:
    """The manifest of a decoded value, inlined blocks spread, quantities as text."""
    spread = _spread(msgspec.to_builtins(value), KINDS[type(value)])
    if not isinstance(spread, dict):
        raise TypeError(f"{type(value).__name__} is no manifest")
    return spread


def _bare(info: inspect.Type) -> tuple[inspect.Type, bool]:
    """info without Metadata and `| None`, and whether it is inlined in its parent."""
    is_inline = False
    while True:
        if isinstance(info, inspect.Metadata):
            is_inline = is_inline or bool((info.extra or {}).get("inline"))
            info = info.type
        elif isinstance(info, inspect.UnionType):
            others = [each for each in info.types if not isinstance(each, inspect.NoneType)]
            if len(others) != 1:
                return info, is_inline
            info = others[0]
        else:
            return info, is_inline


def _fields(info: inspect.Type) -> dict[str, tuple[inspect.Type, bool]]:
    if isinstance(info, inspect.StructType | inspect.TypedDictType):
        return {each.encode_name: _bare(each.type) for each in info.fields}
    return {}


def _gathered(value: Any, info: inspect.Type, at: str, warnings: list[str]) -> Any:
    if isinstance(value, list):
        item = _bare(info.item_type)[0] if isinstance(info, inspect.ListType) else inspect.AnyType()
        return [_gathered(v, item, f"{at}[{i}]", warnings) for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    fields = _fields(info)
    if not fields:
        return {k: v for k, v in value.items() if v is not None}
    inline = {name: typed for name, (typed, is_inline) in fields.items() if is_inline}
    gathered: dict[str, Any] = {}
    for key, each in value.items():
        path = f"{at}.{key}" if at else str(key)
        if each is None:
            continue
        if key in fields and key not in inline:
            gathered[key] = _gathered(each, fields[key][0], path, warnings)
            continue
        for name, typed in inline.items():
            if key in _fields(typed):
                part = gathered.setdefault(name, {})
                part[key] = _gathered(each, _fields(typed)[key][0], path, warnings)
                break
        else:
            warnings.append(f'unknown field "{path}"')
    if isinstance(info, inspect.TypedDictType) and info.cls is Port:
        gathered.setdefault("protocol", "TCP")  # the schema's default
    return gathered


def _spread(value: Any, info: inspect.Type) -> Any:
    if isinstance(value, list):
        item = _bare(info.item_type)[0] if isinstance(info, inspect.ListType) else inspect.AnyType()
        return [_spread(v, item) for v in value]
    if not isinstance(value, dict):
        return value
    spread: dict[str, Any] = {}
    for key, each in value.items():
        typed, is_inline = _fields(info).get(key, (inspect.AnyType(), False))
        inner = _spread(each, typed)
        if isinstance(info, inspect.TypedDictType) and info.cls is Resources and key != "claims":
            inner = {name: str(quantity) for name, quantity in inner.items()}
        if is_inline:
            spread.update(inner)
        else:
            spread[key] = inner
    return spread


def _sentence(text: str) -> str:
    """msgspec's `Expected `int`, got `str` - at `$.a.b`` as `a.b: expected int, got str`."""
    said, _, place = text.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".") or "manifest"
    for inlined in (".pod.", ".container."):
        path = path.replace(inlined, ".")
    said = said.replace("`", "").replace(" | null", "")
    said = said.replace("object", "mapping").replace("array", "list")
    return f"{path}: {said[:1].lower()}{said[1:]}"
