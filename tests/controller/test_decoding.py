"""The door: unknown fields warn, wrong types are refused with path, expected and got."""

import subprocess
import sys
from typing import Any

import pytest

from headrace.controller.api.decoding import BadManifest, encode, inference_service, serving_runtime


def spec(**predictor: Any) -> dict[str, Any]:
    return {"metadata": {"name": "m"}, "spec": {"predictor": predictor}}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (spec(minReplicas="two"), "spec.predictor.minReplicas: expected int, got str"),
        (spec(timeout=1.5), "spec.predictor.timeout: expected int, got float"),
        (
            spec(model={"modelFormat": "sklearn"}),
            "spec.predictor.model.modelFormat: expected mapping, got str",
        ),
        (spec(model={"args": "--a"}), "spec.predictor.model.args: expected list, got str"),
        (
            spec(model={"env": [{"name": "A", "value": 1}]}),
            "spec.predictor.model.env[0].value: expected str, got int",
        ),
        (
            spec(containers=[{"name": "a", "ports": [{"containerPort": "80"}]}]),
            "spec.predictor.containers[0].ports[0].containerPort: expected int, got str",
        ),
        ({"spec": []}, "spec: expected mapping, got list"),
        ({"metadata": {"labels": {"a": 1}}}, "metadata.labels[...]: expected str, got int"),
    ],
)
def test_wrong_types(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(BadManifest) as caught:
        inference_service(manifest)
    assert str(caught.value) == message


def test_unknown_fields_are_pruned_and_named() -> None:
    manifest = spec(
        frobnicate=1,
        model={"modelFormat": {"name": "a", "color": "red"}, "storageUri": "s3://a"},
        containers=[{"name": "side", "imagePullPolice": "Always"}],
    )
    manifest["spec"]["explainer"] = {"alibi": {"type": "AnchorTabular"}}
    decoded = inference_service(manifest)
    assert decoded.warnings == [
        'unknown field "spec.predictor.frobnicate"',
        'unknown field "spec.predictor.model.modelFormat.color"',
        'unknown field "spec.predictor.containers[0].imagePullPolice"',
        'unknown field "spec.explainer.alibi"',
    ]
    assert encode(decoded.value)["spec"] == {
        "predictor": {
            "model": {"modelFormat": {"name": "a"}, "storageUri": "s3://a"},
            "containers": [{"name": "side"}],
        },
        "explainer": {},
    }


def test_what_is_zero_stays_and_what_is_null_goes() -> None:
    decoded = inference_service(spec(minReplicas=0, maxReplicas=None, nodeSelector=None))
    assert encode(decoded.value)["spec"]["predictor"] == {"minReplicas": 0}


def test_a_runtime_comes_back_as_it_went_in() -> None:
    manifest = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterServingRuntime",
        "metadata": {"name": "r"},
        "spec": {
            "supportedModelFormats": [{"name": "a", "version": "1", "autoSelect": True}],
            "containers": [
                {
                    "name": "kserve-container",
                    "image": "a:1",
                    "resources": {"limits": {"cpu": 1, "memory": "2Gi"}},
                }
            ],
        },
    }
    decoded = serving_runtime(manifest)
    assert decoded.warnings == []
    assert decoded.value.is_cluster
    manifest["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1"  # type: ignore[index]
    assert encode(decoded.value) == manifest


def test_the_controller_imports_nothing_of_ours_and_no_client() -> None:
    code = (
        "import headrace.controller.validation, headrace.controller.runtimes.merge, sys;"
        "print([m for m in sys.modules if m.split('.')[0] in ('kubernetes', 'numpy', 'yaml')"
        " or m.startswith(('headrace.server', 'headrace.local', 'headrace.cli'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
