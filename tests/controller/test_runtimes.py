"""Which runtime is chosen and what it becomes (contract §4), beyond what the recordings show."""

import pytest

from headrace.controller.api.decoding import inference_service, serving_runtime
from headrace.controller.api.inference_service import Model, ModelFormat, ObjectMeta
from headrace.controller.api.serving_runtime import ServingRuntime
from headrace.controller.config import Config
from headrace.controller.defaulting import default
from headrace.controller.errors import InvalidPredictor
from headrace.controller.runtimes.builtin import BUILTIN
from headrace.controller.runtimes.kserve_names import with_local_runtime
from headrace.controller.runtimes.merge import merge
from headrace.controller.runtimes.selection import select_runtime
from headrace.controller.runtimes.strategic_merge import merged
from headrace.controller.runtimes.templates import expanded


def runtime(name: str, *formats: str, cluster: bool = False, **spec: object) -> ServingRuntime:
    """formats: `sklearn:1 p2`, `!` before it: no autoSelect."""
    listed = []
    for text in formats:
        entry, _, priority = text.partition(" p")
        model, _, version = entry.lstrip("!").partition(":")
        listed.append(
            {
                "name": model,
                **({"version": version} if version else {}),
                **({"priority": int(priority)} if priority else {}),
                "autoSelect": not entry.startswith("!"),
            }
        )
    manifest = {
        "kind": "ClusterServingRuntime" if cluster else "ServingRuntime",
        "metadata": {"name": name},
        "spec": {
            "supportedModelFormats": listed,
            "containers": [{"name": "kserve-container", "image": "a:1"}],
            **spec,
        },
    }
    return serving_runtime(manifest).value


def model(text: str, protocol: str | None = None, name: str | None = None) -> Model:
    wanted, _, version = text.partition(":")
    return Model(
        model_format=ModelFormat(name=wanted, version=version or None),
        protocol_version=protocol,
        runtime=name,
    )


CHOICES = [
    pytest.param(
        model("sk"),
        [runtime("low", "sk:1 p1"), runtime("high", "sk:1 p2")],
        "high",
        id="the higher priority wins",
    ),
    pytest.param(
        model("sk"),
        [runtime("none", "sk:1"), runtime("some", "sk:1 p1")],
        "some",
        id="any priority beats none",
    ),
    pytest.param(
        model("sk"),
        [runtime("far", "sk p9", cluster=True), runtime("near", "sk")],
        "near",
        id="the namespace's runtimes precede the cluster's, whatever the priorities",
    ),
    pytest.param(
        model("sk"),
        [runtime("b", "sk"), runtime("a", "sk")],
        "a",
        id="equal ones are told apart by name",
    ),
    pytest.param(
        model("sk"),
        [runtime("v2", "sk", protocolVersions=["v2"]), runtime("any", "sk")],
        "any",
        id="without a protocol v1 is asked for, and an empty list speaks all",
    ),
    pytest.param(
        model("sk", "v2"),
        [
            runtime("both", "sk", protocolVersions=["v2", "v1"]),
            runtime("a-two", "sk", protocolVersions=["v2"]),
        ],
        "both",
        id="the lowest protocol of a runtime ranks it before its name does",
    ),
    pytest.param(
        model("sk:2"),
        [runtime("one", "sk:1 p9"), runtime("two", "sk:2")],
        "two",
        id="a version must be listed",
    ),
    pytest.param(
        model("sk", None, "off"),
        [runtime("off", "!sk")],
        "off",
        id="a named runtime needs no autoSelect",
    ),
    pytest.param(
        model("sk"),
        [runtime("many", "sk p9", multiModel=True), runtime("one", "sk")],
        "one",
        id="multi-model runtimes are not chosen",
    ),
]


@pytest.mark.parametrize(("wanted", "runtimes", "chosen"), CHOICES)
def test_the_chosen_runtime(wanted: Model, runtimes: list[ServingRuntime], chosen: str) -> None:
    assert select_runtime(wanted, runtimes).metadata.name == chosen


REFUSALS = [
    pytest.param(
        model("sk", None, "x"),
        [],
        "No ServingRuntimes or ClusterServingRuntimes with the name: x",
        "RuntimeNotRecognized",
        id="no such runtime",
    ),
    pytest.param(
        model("sk", None, "x"),
        [runtime("x", "sk", disabled=True)],
        "specified runtime x is disabled",
        "RuntimeDisabled",
        id="disabled",
    ),
    pytest.param(
        model("sk", "v2", "x"),
        [runtime("x", "sk", protocolVersions=["v1"])],
        "specified runtime x does not support specified protocol version",
        "NoSupportingRuntime",
        id="another protocol",
    ),
    pytest.param(
        model("sk:2", None, "x"),
        [runtime("x", "sk:1")],
        "specified runtime x does not support specified framework/version",
        "NoSupportingRuntime",
        id="another version",
    ),
    pytest.param(
        model("SK:2"),
        [runtime("x", "sk:2")],
        "no runtime found to support predictor with model type: {SK 2}",
        "NoSupportingRuntime",
        id="formats are case-sensitive, and no pointer is printed (errata 39)",
    ),
]


@pytest.mark.parametrize(("wanted", "runtimes", "message", "failure"), REFUSALS)
def test_a_refused_model(
    wanted: Model, runtimes: list[ServingRuntime], message: str, failure: str
) -> None:
    with pytest.raises(InvalidPredictor) as caught:
        select_runtime(wanted, runtimes)
    assert str(caught.value) == message
    assert caught.value.failure == failure


METADATA = ObjectMeta(name="m", namespace="n", labels={"team": "x"}, annotations={"a/b": '"<'})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        pytest.param("--model_name={{.Name}}", "--model_name=m", id="the name"),
        pytest.param("{{ .Namespace }}/{{.Labels.team}}", "n/x", id="spaces and several"),
        pytest.param('{{index .Annotations "a/b"}}', '"<', id="index; nothing is escaped"),
        pytest.param("[{{.Labels.none}}]", "[]", id="a missing key is empty"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert expanded({"args": [template]}, METADATA) == {"args": [text]}


def test_a_template_that_is_none_of_ours_says_which_there_are() -> None:
    with pytest.raises(InvalidPredictor) as caught:
        expanded("{{.Spec}}", METADATA)
    assert str(caught.value) == (
        "the runtime's template {{.Spec}} is none of {{.Name}}, {{.Namespace}}, {{.Labels.key}}, "
        '{{.Annotations.key}}, {{index .Annotations "key"}}'
    )


@pytest.mark.parametrize(
    ("base", "overlay", "result"),
    [
        pytest.param(
            {"env": [{"name": "A", "valueFrom": {"x": 1}}, {"name": "B", "value": "b"}]},
            {"env": [{"name": "C", "value": "c"}, {"name": "A", "value": "a"}]},
            {
                "env": [
                    {"name": "C", "value": "c"},
                    {"name": "A", "value": "a"},
                    {"name": "B", "value": "b"},
                ]
            },
            id="env by name, the overlay's first, a value ends a valueFrom",
        ),
        pytest.param(
            {"resources": {"limits": {"cpu": "1", "memory": "2Gi"}}},
            {"resources": {"limits": {"cpu": "3"}}},
            {"resources": {"limits": {"cpu": "3", "memory": "2Gi"}}},
            id="resources key by key",
        ),
        pytest.param(
            {"tolerations": [{"key": "a"}]},
            {"tolerations": [{"key": "b"}]},
            {"tolerations": [{"key": "b"}]},
            id="tolerations are replaced",
        ),
    ],
)
def test_strategic_merge(
    base: dict[str, object], overlay: dict[str, object], result: dict[str, object]
) -> None:
    assert merged(base, overlay) == result


FORMATS = {
    "sklearn": {"0", "1"},
    "xgboost": {"1", "2"},
    "lightgbm": {"3", "4"},
    "onnx": {"1"},
    "pytorch": {"1"},
    "mlflow": {"1", "2"},
}


@pytest.mark.parametrize("framework", sorted(FORMATS))
def test_our_runtimes(framework: str) -> None:
    """One per predictor, chosen before KServe's, in all three protocols (design §4)."""
    found = {each.metadata.name: each for each in BUILTIN}[f"headrace-{framework}"]
    assert {each.version for each in found.spec.supported_model_formats} == FORMATS[framework]
    for protocol in (None, "v1", "v2", "grpc-v2"):
        assert select_runtime(model(framework, protocol), BUILTIN) is found
    (container,) = found.spec.containers
    assert container["name"] == "kserve-container"
    assert container["args"] == [
        "--model_name={{.Name}}",
        "--model_dir=/mnt/models",
        "--http_port=8080",
        f"--framework={framework}",
    ]
    assert found.metadata.annotations == {"serving.kserve.io/server-type": "headrace"}


@pytest.mark.parametrize(
    ("named", "framework", "local"),
    [
        pytest.param("kserve-sklearnserver", "sklearn", "headrace-sklearn", id="sklearnserver"),
        pytest.param("kserve-mlserver", "lightgbm", "headrace-lightgbm", id="mlserver"),
        pytest.param("kserve-tritonserver", "onnx", "headrace-onnx", id="triton, onnx"),
        pytest.param("kserve-tritonserver", "pytorch", "headrace-pytorch", id="triton, pytorch"),
        pytest.param("kserve-lgbserver", "lightgbm", "headrace-lightgbm", id="lgbserver"),
        pytest.param("kserve-xgbserver", "xgboost", "headrace-xgboost", id="xgbserver"),
        pytest.param("kserve-torchserve", "pytorch", "headrace-pytorch", id="torchserve"),
        pytest.param("kserve-predictiveserver", "sklearn", "headrace-sklearn", id="predictive"),
        pytest.param("mine", "sklearn", "mine", id="another name stays"),
    ],
)
def test_kserves_runtime_names_mean_ours(named: str, framework: str, local: str) -> None:
    assert with_local_runtime(model(framework, None, named)).runtime == local


def test_a_model_and_our_runtime_make_a_pod() -> None:
    manifest = {
        "metadata": {"name": "iris", "namespace": "default"},
        "spec": {
            "predictor": {
                "sklearn": {"storageUri": "gs://a/b", "args": ["--trust-pickle"]},
                "containers": [{"name": "side", "image": "b:1"}],
            }
        },
    }
    isvc = default(inference_service(manifest).value, Config())
    assert isvc.spec.predictor.model is not None
    served = merge(isvc, select_runtime(isvc.spec.predictor.model, BUILTIN))
    main, side = served.pod["containers"]
    assert main["args"] == [
        "--model_name=iris",
        "--model_dir=/mnt/models",
        "--http_port=8080",
        "--framework=sklearn",
        "--trust-pickle",
    ]
    assert main["env"] == side["env"] == [{"name": "INFERENCE_SERVICE_NAME", "value": "iris"}]
    assert served.protocol == "v1"
