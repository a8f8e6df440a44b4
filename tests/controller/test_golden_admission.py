"""Admission as KServe's webhooks were recorded doing it: results and stored objects, unit by unit.

A unit is one entry of `results`, or one entry of `stored`. golden_exceptions.toml lists those that
a decision of ours changes; each of them must differ from the recording and match its `new` value.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.controller.api import decoding
from headrace.controller.api.decoding import BadManifest
from headrace.controller.config import Config
from headrace.controller.defaulting import default
from headrace.controller.errors import Denied
from headrace.controller.validation import validate
from tests.controller import golden
from tests.controller.golden import Manifest, Recording

EXCEPTIONS = tomllib.loads(Path(__file__).with_name("golden_exceptions.toml").read_text())
OTHERS = {"local-model", "validation-local-model"}  # need LocalModelCache objects: a later part
SELF_EMPTIED = ("finalizers", "generation")
DENIED = "denied the request: "


def admit(manifest: Manifest, config_map: dict[str, str], old: Manifest | None) -> Manifest:
    """What the API server would answer: `admitted`, `message`, `warnings`, `stored`."""
    try:
        decoded = decoding.inference_service(manifest)
        config = Config.from_config_map(config_map)
        isvc = default(decoded.value, config)
        before = decoding.inference_service(old).value if old else None
        warnings = [*decoded.warnings, *validate(isvc, config, before)]
    except (Denied, BadManifest) as err:
        return {"admitted": False, "message": str(err)}
    return {"admitted": True, "warnings": warnings, "stored": decoding.encode(isvc)}


def applied(live: Manifest, previous: Manifest, manifest: Manifest) -> Manifest:
    """kubectl apply: live, with what left the manifest removed and what it says set."""
    merged = {k: v for k, v in live.items() if k in manifest or k not in previous}
    for key, value in manifest.items():
        if isinstance(value, dict) and isinstance(live.get(key), dict):
            merged[key] = applied(live[key], previous.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def emptied(value: Any) -> Any:
    """value without what only Go's serialisation adds."""
    if isinstance(value, list):
        return [emptied(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: emptied(each) for key, each in value.items()}
    return {
        key: each
        for key, each in kept.items()
        if (key, each) not in [("name", ""), ("resources", {})] and key not in SELF_EMPTIED
    }


def units(recording: Recording) -> list[tuple[str, Any, Any]]:
    """(step/path, recorded, ours) of every unit of a recording."""
    found: list[tuple[str, Any, Any]] = []
    live: dict[str, Manifest] = {}  # by name, as recorded
    previous: dict[str, Manifest] = {}
    config_map = recording.config_map()
    for planned, happened in zip(recording.given["steps"], own_steps(recording), strict=True):
        manifests = [m for do in planned["do"] for m in do.get("apply", [])]
        services = [m for m in manifests if m["kind"] == "InferenceService"]
        results = [r for r in happened.get("results", []) if is_applied(r)]
        stored = {
            each["metadata"]["name"]: each
            for each in happened.get("stored", [])
            if each["kind"] == "InferenceService"
        }
        for i, (manifest, recorded) in enumerate(zip(services, results, strict=True)):
            name = manifest["metadata"]["name"]
            old = live.get(name)
            is_last = all(each["metadata"]["name"] != name for each in services[i + 1 :])
            namespaced = {"namespace": recording.given["namespace"], **manifest["metadata"]}
            sent = {**manifest, "metadata": namespaced}
            if old:
                sent = applied(old, previous[name], sent)
            ours = admit(sent, config_map, old)
            step = planned["step"]
            path = f"{step}/results[{name}]" if is_last else f"{step}/results[{name}][{i}]"
            found.append((path, expected_result(recorded), outcome(ours)))
            if name in stored and recorded["admitted"] and is_last and ours["admitted"]:
                object_ours = emptied(ours["stored"])
                object_ours.pop("status", None)
                found.append((f"{step}/stored[{name}]", emptied(stored[name]), object_ours))
            if recorded["admitted"]:
                previous[name] = {**manifest, "metadata": namespaced}
        live.update(stored)
        for each in happened.get("status", []):
            if each["name"] in live and each["kind"] == "InferenceService":
                live[each["name"]] = {**live[each["name"]], "status": each["status"]}
    return found


def is_applied(result: Manifest) -> bool:
    return result["kind"] == "InferenceService" and result["op"] != "delete"


def own_steps(recording: Recording) -> list[Manifest]:
    """Without the step `given`, which is there where one of the given objects was refused."""
    return [step for step in recording.steps if step["step"] != "given"]


def expected_result(recorded: Manifest) -> Manifest:
    message = recorded.get("message", "")
    if recorded["admitted"]:
        # the recording's JSON of a warning lost its closing quote
        quoted = [each.replace('\\"', '"') for each in recorded.get("warnings", [])]
        closed = [f'{each.rstrip(chr(92))}"' if each.count('"') % 2 else each for each in quoted]
        return {"admitted": True, "warnings": closed}
    return {"admitted": False, "message": message.partition(DENIED)[2] or message}


def outcome(ours: Manifest) -> Manifest:
    return {key: each for key, each in ours.items() if key != "stored"}


@pytest.mark.skipif(not golden.areas(), reason=golden.MISSING)
@pytest.mark.parametrize("area", [area for area in golden.areas() if area not in OTHERS])
def test_admission_equals_the_recording(area: str) -> None:
    exceptions = {(e["case"], e["mode"], e["path"]): e for e in EXCEPTIONS.get("admission", [])}
    equal: Counter[str] = Counter()
    different: list[str] = []
    for recording in golden.recordings(area):
        for path, recorded, ours in units(recording):
            exception = exceptions.get((recording.case, "*", path)) or exceptions.get(
                (recording.case, recording.mode, path)
            )
            where = f"{area}/{recording.case} {recording.mode} {path}"
            if exception:
                assert recorded != ours, f"{where}: the exception is no longer one"
                assert ours.get("message") == exception.get("new"), where
                assert ours.get("warnings", []) == exception.get("warnings", []), where
            elif recorded == ours:
                equal[recording.mode] += 1
            else:
                different.append(f"{where}\n    recorded {recorded}\n    ours     {ours}")
    print(f"{area}: equal {dict(equal)}, different {len(different)}")
    assert not different, "\n".join(different)
