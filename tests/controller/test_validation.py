"""What admission refuses, rule by rule of contract §2.7, in KServe's words."""

from typing import Any

import pytest

from headrace.controller.api.decoding import inference_service
from headrace.controller.config import Config, Mode
from headrace.controller.defaulting import default
from headrace.controller.errors import Denied
from headrace.controller.validation import validate

MODEL: dict[str, Any] = {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://a/b"}
EXACTLY_ONE = (
    "exactly one of [Name, SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, "
    "LightGBM, Paddle, Model, StorageUris, StorageContainerName, WorkerSpec, PodSpec] must be "
    "specified in PredictorSpec"
)
INVALID = 'the InferenceService "m" is invalid: '
PERCENTAGE = "the target utilization percentage should be a [1-100] integer"
SCHEMA = 'InferenceService.serving.kserve.io "m" is invalid: '
HPA = {"serving.kserve.io/autoscalerClass": "hpa"}
KEDA = {"serving.kserve.io/autoscalerClass": "keda"}
STANDARD = {"serving.kserve.io/deploymentMode": "Standard"}


def manifest(
    predictor: dict[str, Any] | None = None,
    annotations: dict[str, str] | None = None,
    name: str = "m",
    **spec: Any,
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {"predictor": {"model": MODEL} if predictor is None else predictor, **spec},
    }


def model(**fields: Any) -> dict[str, Any]:
    """A predictor; fields of the component beside its model."""
    return {"model": MODEL, **fields}


def admit(
    given: dict[str, Any], mode: Mode = Mode.STANDARD, old: dict[str, Any] | None = None
) -> list[str]:
    config = Config(default_mode=mode)
    before = default(inference_service(old).value, config) if old else None
    return validate(default(inference_service(given).value, config), config, before)


def env(name: str) -> list[dict[str, str]]:
    return [{"name": name, "value": "x"}]


def resource(name: str, **target: Any) -> dict[str, Any]:
    return {"metrics": [{"type": "Resource", "resource": {"name": name, "target": target}}]}


def source(kind: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"metrics": [{"type": kind, key: fields}]}


CANARY = {"name": "g", "model": MODEL}


def canary(predictor: dict[str, Any], percent: int = 10, **stable: Any) -> dict[str, Any]:
    return manifest(
        model(**stable), STANDARD, canary=[{"predictor": predictor, "trafficPercent": percent}]
    )


STANDARD_REFUSALS = [
    ("1: a name starts with a letter", manifest(name="9m"), None),
    (
        "2: the autoscaler class is known",
        manifest(annotations={"serving.kserve.io/autoscalerClass": "x"}),
        "[x] is not a supported autoscaler class type",
    ),
    (
        "3: no PYTHONPATH in a model",
        manifest({"model": {**MODEL, "env": env("PYTHONPATH")}}),
        f'{INVALID}setting PYTHONPATH in container "" is not allowed for security reasons',
    ),
    (
        "3: no PYTHONPATH in an explainer",
        manifest(explainer={"containers": [{"name": "e", "env": env("PYTHONPATH")}]}),
        f'{INVALID}setting PYTHONPATH in container "kserve-container" is not allowed for security '
        "reasons",
    ),
    (
        "3: no PYTHONPATH in a canary (errata 18)",
        canary({"name": "g", "model": {**MODEL, "env": env("PYTHONPATH")}}),
        f'{INVALID}setting PYTHONPATH in container "" is not allowed for security reasons',
    ),
    (
        "4: one worker container",
        manifest(model(workerSpec={"containers": [{"name": "a"}, {"name": "b"}]})),
        f"{INVALID}setting multiple containers in workerSpec is not allowed",
    ),
    (
        "4: the parallel sizes are not set by hand",
        manifest({"model": {**MODEL, "env": env("TENSOR_PARALLEL_SIZE")}, "workerSpec": {}}),
        f"{INVALID}setting TENSOR_PARALLEL_SIZE in environment variables is not allowed",
    ),
    (
        "4: several nodes need a model",
        manifest({"model": {"modelFormat": {"name": "x"}}, "workerSpec": {}}),
        f"{INVALID}StorageURI must be set for multinode enabled",
    ),
    (
        "4: from a claim or an image",
        manifest(model(workerSpec={})),
        f"{INVALID}Multinode only supports 'pvc' and 'oci' Storage Protocol(gs)",
    ),
    (
        "4: not scaled",
        manifest({"model": {**MODEL, "storageUri": "pvc://a/b"}, "workerSpec": {}}, HPA),
        f"{INVALID}Multinode only supports 'none' autoscaler(hpa)",
    ),
    (
        "4: sizes from 1",
        manifest(
            {
                "model": {**MODEL, "storageUri": "pvc://a/b"},
                "workerSpec": {"pipelineParallelSize": 0},
            }
        ),
        f"{INVALID}WorkerSpec.PipelineParallelSize cannot be less than 1(0)",
    ),
    (
        "5: a collocated transformer has no storage",
        manifest(model(containers=[{"name": "transformer-container", "env": env("STORAGE_URI")}])),
        "storage uri should not be specified in transformer container",
    ),
    (
        "6: a model block has no name",
        manifest({"model": {**MODEL, "name": "x"}}),
        "the 'name' field is not allowed in standard predictor",
    ),
    (
        "7: one kind of source",
        manifest(model(storageUris=[{"uri": "s3://a/b"}])),
        "Setting both StorageURI and StorageURIs is not supported.",
    ),
    (
        "8: no way up in a mount path",
        manifest(
            {
                "model": {"modelFormat": {"name": "x"}},
                "storageUris": [{"uri": "s3://a", "mountPath": "/a/../b"}],
            }
        ),
        "storage path cannot contain '..' for security reasons: /a/../b",
    ),
    (
        "8: not the root",
        manifest(
            {
                "model": {"modelFormat": {"name": "x"}},
                "storageUris": [{"uri": "s3://a", "mountPath": "/"}],
            }
        ),
        "storage path cannot be empty",
    ),
    (
        "8: a common parent",
        manifest(
            {
                "model": {"modelFormat": {"name": "x"}},
                "storageUris": [
                    {"uri": "s3://a", "mountPath": "/a/x"},
                    {"uri": "s3://b", "mountPath": "/b/y"},
                ],
            }
        ),
        "storage paths must have a common parent directory. Current paths: [/a/x /b/y] have no "
        "common parent beyond root",
    ),
    (
        "9: a confidential model is somewhere",
        manifest({"model": {"modelFormat": {"name": "x"}, "confidential": {"enabled": True}}}),
        "confidential model serving requires storageUri to be set",
    ),
    (
        "9: with a key that can be found",
        manifest({"model": {**MODEL, "confidential": {"enabled": True, "resourceId": "http://x"}}}),
        'spec.predictor.confidential.resourceId: Invalid value: "http://x": must be in the format '
        "kbs:///<repo>/<type>/<tag>",
    ),
    ("10: a predictor has an implementation (errata 2)", manifest({}), EXACTLY_ONE),
    ("10: and no second", manifest(model(containers=[{"name": "kserve-container"}])), EXACTLY_ONE),
    (
        "10: a transformer has one",
        manifest(transformer={"minReplicas": 1}),
        "exactly one of [PodSpec, ComponentExtensionSpec] must be specified in TransformerSpec",
    ),
    (
        "10: an explainer has one",
        manifest(explainer={"art": {"type": "SquareAttack"}, "containers": [{"name": "e"}]}),
        "exactly one of [ART, PodSpec, ComponentExtensionSpec] must be specified in ExplainerSpec",
    ),
    (
        "11: a custom predictor speaks v1 or v2 (errata 23)",
        manifest({"containers": [{"env": [{"name": "PROTOCOL", "value": "v7"}]}]}),
        "invalid protocol v7. Must be one of [v1, v2]",
    ),
    (
        "12: concurrency from 0",
        manifest(model(containerConcurrency=-1)),
        "parallelism cannot be less than 0",
    ),
    ("13: least from 0", manifest(model(minReplicas=-1)), "'MinReplicas' cannot be less than 0"),
    ("13: most from 0", manifest(model(maxReplicas=-1)), "'MaxReplicas' cannot be less than 0"),
    (
        "14: least is not above most",
        manifest(model(minReplicas=3, maxReplicas=2)),
        "'MinReplicas' cannot be greater than MaxReplicas",
    ),
    ("15: a logger has a mode", manifest(model(logger={"url": "http://x"})), "invalid logger type"),
    (
        "16: a logger's storage is whole",
        manifest(model(logger={"mode": "all", "storage": {"path": "p"}})),
        "invalid logger storage configuration",
    ),
    (
        "17: HPA scales by cpu or memory",
        manifest(model(scaleMetric="rps"), HPA),
        "[rps] is not a supported metric",
    ),
    ("17: cpu in percent", manifest(model(scaleTarget=101), HPA), PERCENTAGE),
    (
        "17: memory from 1",
        manifest(model(scaleMetric="memory", scaleTarget=0), HPA),
        "the target memory should be greater than 1 MiB",
    ),
    (
        "17: HPA reads resources",
        manifest(model(autoScaling=source("External", "external", metric={}, target={})), HPA),
        "invalid HPA metric source type with value [External],valid metric source types are "
        "Resource",
    ),
    (
        "17: and they are said",
        manifest(model(autoScaling={"metrics": [{"type": "Resource"}]}), HPA),
        "metricSpec.Resource is not set for resource metric source type",
    ),
    (
        "18: KEDA has no scaleMetric",
        manifest(model(scaleMetric="cpu"), KEDA),
        "ScaleMetric is not supported for KEDA",
    ),
    (
        "18: cpu by utilization",
        manifest(model(autoScaling=resource("cpu", type="Value")), KEDA),
        "the cpu target value type should be Utilization",
    ),
    (
        "18: memory by average or utilization",
        manifest(model(autoScaling=resource("memory", type="Value")), KEDA),
        "the memory target value type should be AverageValue or Utilization",
    ),
    (
        "18: memory from 1 MiB",
        manifest(
            model(autoScaling=resource("memory", type="AverageValue", averageValue="1Ki")), KEDA
        ),
        "the memory target value should be greater than 1 MiB",
    ),
    (
        "18: utilization in percent",
        manifest(
            model(autoScaling=resource("cpu", type="Utilization", averageUtilization=101)), KEDA
        ),
        PERCENTAGE,
    ),
    (
        "18: an external metric has a query",
        manifest(
            model(autoScaling=source("External", "external", metric={}, target={"value": 1})), KEDA
        ),
        "the query should not be empty",
    ),
    (
        "18: and a threshold",
        manifest(
            model(autoScaling=source("PodMetric", "podmetric", metric={"query": "q"}, target={})),
            KEDA,
        ),
        "the target threshold value should not be empty",
    ),
    (
        "18: and is there",
        manifest(model(autoScaling={"metrics": [{"type": "External"}]}), KEDA),
        "metricSpec.External is not set for external metric source type",
    ),
    (
        "18: so is a pod metric",
        manifest(model(autoScaling={"metrics": [{"type": "PodMetric"}]}), KEDA),
        "metricSpec.PodMetric is not set for pod metric source type",
    ),
    (
        "22: a stable model",
        manifest({"containers": [{"image": "a"}]}, STANDARD, canary=[{"predictor": CANARY}]),
        "canary requires a stable predictor with a model (multi-model serving is not supported "
        "with canary)",
    ),
    ("22: a name", canary({"model": MODEL}), "canary[0] predictor.name is required"),
    (
        "22: of its own",
        canary(CANARY, name="g"),
        'canary predictor.name "g" conflicts with stable predictor name',
    ),
    (
        "22: once",
        manifest(annotations=STANDARD, canary=[{"predictor": CANARY}, {"predictor": CANARY}]),
        'canary predictor.name "g" is duplicated',
    ),
    (
        "22: together at most 100",
        manifest(
            annotations=STANDARD,
            canary=[
                {"predictor": CANARY, "trafficPercent": 60},
                {"predictor": {**CANARY, "name": "h"}, "trafficPercent": 60},
            ],
        ),
        "sum of canary trafficPercent values (120) must be <= 100",
    ),
    (
        "22: one implementation",
        canary({**CANARY, "sklearn": {"storageUri": "s3://a"}}),
        f'canary "g" predictor: {EXACTLY_ONE}',
    ),
    (
        "22: one node",
        canary({**CANARY, "workerSpec": {}}),
        'canary "g" must not set workerSpec (multi-node is not yet supported for canary)',
    ),
    *[
        (
            f"22: no {field}",
            canary({**CANARY, field: value}),
            f'canary "g" must not set {field} (canary uses fixed replicas)',
        )
        for field, value in (
            ("maxReplicas", 2),
            ("scaleTarget", 2),
            ("scaleMetric", "cpu"),
            ("autoScaling", {}),
        )
    ],
    (
        "22: no more replicas than the stable one",
        canary({**CANARY, "minReplicas": 2}),
        'canary "g" minReplicas (2) must not exceed stable predictor minReplicas (1)',
    ),
    (
        "22: not with canaryTrafficPercent (design §4)",
        canary(CANARY, canaryTrafficPercent=10),
        "canaryTrafficPercent and spec.canary cannot be used together; remove one of them",
    ),
    (
        "schema: a canary's percent",
        canary(CANARY, 101),
        f"{SCHEMA}spec.canary[0].trafficPercent: Invalid value: 101: spec.canary[0].trafficPercent "
        "in body should be less than or equal to 100",
    ),
    (
        "schema: canaryTrafficPercent (errata 11)",
        manifest(model(canaryTrafficPercent=-1)),
        f"{SCHEMA}spec.predictor.canaryTrafficPercent: Invalid value: -1: "
        "spec.predictor.canaryTrafficPercent in body should be greater than or equal to 0",
    ),
    (
        "schema: scaleMetric",
        manifest(model(scaleMetric="qps")),
        f'{SCHEMA}spec.predictor.scaleMetric: Unsupported value: "qps": supported values: "cpu", '
        '"memory", "concurrency", "rps"',
    ),
    (
        "schema: an empty list of sources",
        manifest({"model": {"modelFormat": {"name": "x"}}, "storageUris": []}),
        f"{SCHEMA}spec.predictor.storageUris: Invalid value: 0: spec.predictor.storageUris in body "
        "should have at least 1 items",
    ),
    (
        "errata 15: an unknown mode",
        manifest(annotations={"serving.kserve.io/deploymentMode": "Turbo"}),
        "invalid deployment mode. Supported modes are Knative, Standard and ModelMesh",
    ),
]
RULE_1 = (
    'the InferenceService "9m" is invalid: a InferenceService name must consist of lower case '
    "alphanumeric characters or '-', and must start with alphabetical character. (e.g. \"my-name\" "
    "or \"abc-123\", regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)


@pytest.mark.parametrize(
    ("given", "message"),
    [pytest.param(given, message or RULE_1, id=rule) for rule, given, message in STANDARD_REFUSALS],
)
def test_refused_in_standard_mode(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Denied) as caught:
        admit(given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            manifest(
                model(scaleMetric="rps"),
                {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"},
            ),
            "[rps] is not a supported metric",
            id="19: the HPA class follows rule 17",
        ),
        pytest.param(
            manifest(model(deploymentStrategy={"type": "Recreate"})),
            "customizing deploymentStrategy is only supported for raw deployment mode",
            id="20: no deploymentStrategy",
        ),
        pytest.param(
            manifest(model(scaleMetric="cpu")),
            "[cpu] is not a supported metric",
            id="20: KPA scales by concurrency or rps",
        ),
        pytest.param(
            manifest(model(scaleMetric="rps", scaleTarget=0)),
            "the target for rps should be greater than 1",
            id="20: rps from 1 (errata 26)",
        ),
        pytest.param(
            manifest(canary=[{"predictor": CANARY, "trafficPercent": 1}]),
            "canary is only supported in Standard deployment mode",
            id="21: canaries are for Standard mode",
        ),
    ],
)
def test_refused_in_knative_mode(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Denied) as caught:
        admit(given, Mode.KNATIVE)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("new", "message"),
    [
        pytest.param(
            manifest(annotations={"serving.kserve.io/deploymentMode": "Serverless"}),
            "update rejected: deploymentMode cannot be changed from 'Standard' to 'Knative'",
            id="U1: the mode stays",
        ),
        pytest.param(
            manifest({"name": "blue", "model": {**MODEL, "runtimeVersion": "2"}}),
            "predictor.name change requires a model change (e.g. storageUri)",
            id="U2: a renamed predictor is another model; a version is not one (errata 28)",
        ),
    ],
)
def test_refused_updates(new: dict[str, Any], message: str) -> None:
    old = {**manifest(), "status": {"deploymentMode": "Standard"}}
    with pytest.raises(Denied) as caught:
        admit(new, old=old)
    assert str(caught.value) == message


def test_a_renamed_predictor_with_another_model_is_accepted() -> None:
    new = manifest({"name": "blue", "model": {**MODEL, "storageUri": "gs://a/c"}})
    assert admit(new, old=manifest()) == []


@pytest.mark.parametrize(
    ("given", "warnings"),
    [
        pytest.param(
            manifest({"model": {"storageUri": "gs://a/b"}}),
            ["spec.predictor.model.modelFormat.name is empty: no serving runtime will match it"],
            id="1: no format name",
        ),
        pytest.param(
            manifest(model(scaleTarget=0)),
            ["spec.predictor.scaleTarget is 0: an autoscaler refuses a target below 1"],
            id="24: target 0",
        ),
        pytest.param(
            manifest(name="m" * 64),
            ["metadata.name has more than 63 characters: no valid host name can be made of it"],
            id="30: a long name",
        ),
    ],
)
def test_accepted_with_a_warning(given: dict[str, Any], warnings: list[str]) -> None:
    """What KServe accepts and what can only fail later, by errata entry."""
    assert admit(given) == warnings


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(
            manifest(model(scaleMetric="rps", scaleTarget=150)), id="24: no class, no rule"
        ),
        pytest.param(manifest(model(containers=[{"name": "side"}])), id="helpers beside a model"),
        pytest.param(
            manifest({"model": MODEL, "sklearn": {"storageUri": "s3://x"}}),
            id="13: a legacy block replaces the model",
        ),
    ],
)
def test_accepted(given: dict[str, Any]) -> None:
    assert admit(given) == []


def test_an_object_that_is_being_deleted_is_left_alone() -> None:
    given = manifest({})
    given["metadata"]["deletionTimestamp"] = "2026-11-24T00:00:00Z"
    assert admit(given) == []
