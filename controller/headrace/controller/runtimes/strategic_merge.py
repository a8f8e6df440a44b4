"""Kubernetes' strategic merge, for the lists that pods have: an overlay over a base.

Maps are merged, lists with a key are merged by it, other lists are replaced. Items of the overlay
come first, as in what KServe writes (errata 14).
"""

from collections.abc import Mapping
from typing import Any

KEYS = {
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "initContainers": "name",
    "resourceClaims": "name",
}
REPLACED = frozenset({"volumes"})  # an item of the overlay stands alone: one source per volume


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A new map; neither argument changes."""
    found = dict(base)
    for field, value in overlay.items():
        found[field] = _field(field, base[field], value) if field in base else value
    return found


def _field(field: str, base: Any, overlay: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(overlay, Mapping):
        return merged(base, overlay)
    if field in KEYS and isinstance(base, list) and isinstance(overlay, list):
        return _lists(field, base, overlay)
    return overlay


def _lists(field: str, base: list[Any], overlay: list[Any]) -> list[Any]:
    key = KEYS[field]
    below = {item.get(key): item for item in base}
    first = [_item(field, below.get(item.get(key)), item) for item in overlay]
    named = {item.get(key) for item in overlay}
    return [*first, *(item for item in base if item.get(key) not in named)]


def _item(field: str, base: Any, overlay: Any) -> Any:
    if base is None or field in REPLACED:
        return overlay
    found = merged(base, overlay)
    if field == "env":  # a variable has a value or a source, never both
        if "value" in overlay:
            found.pop("valueFrom", None)
        elif "valueFrom" in overlay:
            found.pop("value", None)
    return found
