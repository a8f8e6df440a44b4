"""The containers that KServe wrote into Deployments, made here from the same services.

A unit is one Deployment of a component that a case created first: per container its name, image,
command, args, env, ports and resources, and the pod's volumes and node selector.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.controller.api import decoding
from headrace.controller.api.inference_service import InferenceService
from headrace.controller.api.pod import PodSpec
from headrace.controller.api.serving_runtime import ServingRuntime
from headrace.controller.component_pods import (
    custom_predictor_pod,
    explainer_pod,
    transformer_pod,
)
from headrace.controller.config import Config
from headrace.controller.defaulting import default, is_custom
from headrace.controller.runtimes.merge import merge
from headrace.controller.runtimes.selection import select_runtime
from tests.controller import golden
from tests.controller.golden import Manifest, Recording

EXCEPTIONS = tomllib.loads(Path(__file__).with_name("golden_exceptions.toml").read_text())
COMPARED = ("name", "image", "command", "args", "env", "ports", "resources")
POD_COMPARED = ("nodeSelector", "tolerations", "affinity", "imagePullSecrets")
AREAS = ("formats", "custom-and-components", "storage", "scaling", "metadata", "agent")


def pods(
    isvc: InferenceService, config: Config, runtimes: list[ServingRuntime]
) -> dict[str, PodSpec]:
    """Of each component, by its key."""
    predictor = isvc.spec.predictor
    host = f"{isvc.metadata.name}-predictor.{isvc.metadata.namespace}"
    found: dict[str, PodSpec] = {}
    if is_custom(predictor):
        found["predictor"] = custom_predictor_pod(isvc)
    elif predictor.model is not None:
        runtime = select_runtime(
            predictor.model, runtimes, has_worker=predictor.worker_spec is not None
        )
        found["predictor"] = merge(isvc, runtime).pod
    if isvc.spec.transformer is not None:
        found["transformer"] = transformer_pod(isvc, host)
    if isvc.spec.explainer is not None:
        found["explainer"] = explainer_pod(isvc, host, config.art)
    return found


def compared(pod: Any) -> Manifest:
    """The fields that a unit is about; quantities as text."""
    containers = [{key: c.get(key) for key in COMPARED} for c in pod["containers"]]
    for container in containers:
        resources = container["resources"] or {}
        container["resources"] = {
            kind: {name: str(value) for name, value in resources[kind].items()}
            for kind in ("limits", "requests")
            if kind in resources
        }
    fields = {key: pod[key] for key in POD_COMPARED if pod.get(key) not in (None, [], {})}
    return {"containers": containers, **fields}


def runtimes_of(recording: Recording) -> list[ServingRuntime]:
    given = [
        m
        for m in recording.given.get("given", [])
        if m["kind"] in ("ServingRuntime", "ClusterServingRuntime")
    ]
    installed = golden.environment("clusterservingruntimes.yaml")
    return [decoding.serving_runtime(m).value for m in [*given, *installed]]


def sent_deployments(recording: Recording) -> list[Manifest]:
    """The Deployments the controller created in the case's first step."""
    first = recording.given["steps"][0]["step"]
    sent = [each for step in recording.sent if step["step"] == first for each in step["sent"]]
    stored = {
        c["metadata"]["name"]: c
        for c in recording.steps[0].get("children", [])
        if c["kind"] == "Deployment"
    }
    return [
        each["body"] if isinstance(each["body"], dict) else stored[each["name"]]
        for each in sent
        if each["kind"] == "Deployment" and each["op"] == "create"
    ]


def made(recording: Recording) -> dict[str, dict[str, PodSpec]]:
    """Our pods of the services of the first step, by service and component."""
    config = Config.from_config_map(recording.config_map())
    found: dict[str, dict[str, PodSpec]] = {}
    for manifest in [m for do in recording.given["steps"][0]["do"] for m in do.get("apply", [])]:
        if manifest["kind"] == "InferenceService":
            metadata = {"namespace": recording.given["namespace"], **manifest["metadata"]}
            isvc = decoding.inference_service({**manifest, "metadata": metadata}).value
            found[isvc.metadata.name] = pods(default(isvc, config), config, runtimes_of(recording))
    return found


@pytest.mark.skipif(not golden.areas(), reason=golden.MISSING)
@pytest.mark.parametrize("area", AREAS)
def test_containers_equal_the_recording(area: str) -> None:
    exceptions = {(e["case"], e["path"]): e for e in EXCEPTIONS.get("pods", [])}
    equal: Counter[str] = Counter()
    different: list[str] = []
    for recording in golden.recordings(area):
        deployments = sent_deployments(recording)
        ours = made(recording) if deployments else {}
        for deployment in deployments:
            template = deployment["spec"]["template"]
            labels = template["metadata"]["labels"]
            service = labels["serving.kserve.io/inferenceservice"]
            recorded = compared(template["spec"])
            pod = compared(ours[service][labels["component"]])
            path = deployment["metadata"]["name"]
            where = f"{area}/{recording.case} {recording.mode} {path}"
            if (recording.case, path) in exceptions:
                assert recorded != pod, f"{where}: the exception is no longer one"
            elif recorded == pod:
                equal[recording.mode] += 1
            else:
                different.append(f"{where}\n    recorded {recorded}\n    ours     {pod}")
    print(f"{area}: equal {dict(equal)}, different {len(different)}")
    assert not different, "\n".join(different)
