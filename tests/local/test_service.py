"""An InferenceService as processes: who talks to whom, what is refused, what is noted."""

from itertools import pairwise
from typing import Any

import pytest

from headrace.controller.api.decoding import inference_service
from headrace.controller.config import Config
from headrace.controller.defaulting import default
from headrace.controller.errors import InvalidPredictor
from headrace.local.entry_points import CannotRun
from headrace.local.ports import Ports, PortTaken, is_free
from headrace.local.service import LocalService, Replica, Source, batching, local_service
from headrace.local.unhonoured import unhonoured

HOST = "127.0.0.1"
SKLEARN: dict[str, Any] = {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://a/b"}}


def container(*args: str, **fields: Any) -> dict[str, Any]:
    return {"containers": [{"command": ["python", "t.py"], "args": list(args), **fields}]}


def planned(**spec: Any) -> LocalService:
    manifest = {"metadata": {"name": "m"}, "spec": {"predictor": SKLEARN, **spec}}
    isvc = default(inference_service(manifest).value, Config())
    return local_service(isvc, [], Config(), Ports(HOST), (8080, 8081), HOST)


def last_flag(replica: Replica, flag: str) -> str | None:
    """The value that an argument parser would take."""
    words = [part for arg in replica.container.get("args", []) for part in arg.split("=", 1)]
    found = [value for name, value in pairwise(words) if name == flag]
    return found[-1] if found else None


def test_a_predictor_alone_gets_the_asked_ports() -> None:
    service = planned()
    (predictor,) = service.replicas
    assert (predictor.name, predictor.http_port, predictor.grpc_port) == ("m-predictor", 8080, 8081)
    assert last_flag(predictor, "--http_port") == "8080"
    assert last_flag(predictor, "--framework") == "sklearn"
    assert predictor.sources == (Source("gs://a/b"),)
    assert service.protocol == "v1"


@pytest.mark.parametrize(
    ("args", "port"),
    [
        pytest.param([], "http_port", id="over HTTP"),
        pytest.param(["--predictor_protocol", "grpc-v2"], "grpc_port", id="over gRPC"),
        pytest.param(["--predictor_protocol=grpc-v2"], "grpc_port", id="over gRPC, one word"),
    ],
)
def test_a_transformer_is_the_entry_and_knows_its_predictor(args: list[str], port: str) -> None:
    service = planned(transformer=container(*args))
    predictor, transformer = service.replicas
    assert service.entry is transformer
    assert (transformer.http_port, transformer.grpc_port) == (8080, 8081)
    assert last_flag(transformer, "--predictor_host") == f"{HOST}:{getattr(predictor, port)}"
    assert last_flag(transformer, "--model_name") == "m"
    assert predictor.http_port not in (8080, 8081)


def test_an_explainer_stands_beside_with_a_port_of_its_own() -> None:
    service = planned(transformer=container(), explainer=container())
    predictor, transformer, explainer = service.replicas
    assert service.entry is transformer
    assert last_flag(explainer, "--predictor_host") == f"{HOST}:{predictor.http_port}"


def test_a_collocated_transformer_is_a_process_of_its_own() -> None:
    beside = {"name": "transformer-container", "command": ["python", "t.py"]}
    service = planned(predictor={**SKLEARN, "containers": [beside, {"name": "side"}]})
    predictor, transformer = service.replicas
    assert service.entry is transformer
    assert last_flag(transformer, "--predictor_host") == f"{HOST}:{predictor.http_port}"
    assert service.notes == ("predictor: container side is a helper and is not run here",)


def test_a_custom_predictor_reads_its_storage_uri() -> None:
    predictor = container(env=[{"name": "STORAGE_URI", "value": "s3://a/m"}])
    (replica,) = planned(predictor=predictor).replicas
    assert replica.sources == (Source("s3://a/m"),)
    assert {"name": "STORAGE_URI", "value": "/mnt/models"} in replica.container["env"]


def test_several_sources_keep_their_places() -> None:
    uris = [{"uri": "s3://a"}, {"uri": "s3://b", "mountPath": "/mnt/models/b"}]
    predictor = {"model": {"modelFormat": {"name": "onnx"}}, "storageUris": uris}
    (replica,) = planned(predictor=predictor).replicas
    assert replica.sources == (Source("s3://a"), Source("s3://b", "/mnt/models/b"))


def test_a_storage_block_that_says_all() -> None:
    storage = {"path": "/m", "parameters": {"type": "s3", "bucket": "b"}}
    predictor = {"model": {"modelFormat": {"name": "onnx"}, "storage": storage}}
    (replica,) = planned(predictor=predictor).replicas
    assert replica.sources == (Source("s3://b/m"),)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            {"predictor": {"model": {"modelFormat": {"name": "onnx"}}}},
            "m: spec.predictor.model has no storageUri, so there is nothing to serve here; add one "
            "(multi-model serving needs a cluster)",
            id="nothing to load",
        ),
        pytest.param(
            {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storage": {"key": "k"}}}},
            "m: spec.predictor.model.storage names a Secret, which is not on this machine; write "
            "storageUri: s3://bucket/path and set the credentials in the environment "
            "(AWS_ACCESS_KEY_ID, …)",
            id="a Secret",
        ),
        pytest.param(
            {"explainer": {"art": {"type": "SquareAttack"}}},
            "m: spec.explainer.art needs the image kserve/art-explainer, which cannot run here; "
            "use a custom explainer, e.g. command: [python, -m, "
            "headrace.transformers.permutation_importance]",
            id="ART",
        ),
    ],
)
def test_what_cannot_run_here(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(CannotRun) as caught:
        planned(**spec)
    assert str(caught.value) == message


def test_a_format_without_a_runtime_is_refused_as_kserve_does() -> None:
    with pytest.raises(InvalidPredictor) as caught:
        planned(predictor={"model": {"modelFormat": {"name": "pmml"}, "storageUri": "s3://a"}})
    assert str(caught.value) == ("no runtime found to support predictor with model type: {pmml}")


def test_what_one_machine_cannot_do_is_said_in_a_line_each() -> None:
    predictor = {
        **SKLEARN,
        "minReplicas": 2,
        "maxReplicas": 5,
        "scaleMetric": "rps",
        "canaryTrafficPercent": 10,
        "logger": {"mode": "all"},
        "batcher": {"maxBatchSize": 8},
        "timeout": 10,
    }
    manifest = {"metadata": {"name": "m"}, "spec": {"predictor": predictor}}
    assert unhonoured(inference_service(manifest).value) == [
        "predictor: minReplicas 2: one replica runs here",
        "predictor: maxReplicas 5: one replica runs here",
        "predictor: autoscaling: one replica runs here, whatever the load",
        "predictor: canaryTrafficPercent 10: there is no earlier revision here, all traffic goes "
        "to this one",
        "predictor: logger: payloads are not sent anywhere from here",
        "predictor: timeout: not enforced in front of the replica here",
    ]


@pytest.mark.parametrize(
    ("batcher", "annotations", "expected"),
    [
        pytest.param(None, {}, {}, id="nothing said"),
        pytest.param({}, {}, {"MAX_BATCH_SIZE": "32"}, id="KServe's default size"),
        pytest.param(
            {"maxBatchSize": 8, "maxLatency": 20},
            {},
            {"MAX_BATCH_SIZE": "8", "MAX_BATCH_DELAY_MS": "20"},
            id="size and delay",
        ),
        pytest.param(
            None,
            {"headrace.io/target-latency-ms": "50"},
            {"TARGET_LATENCY_MS": "50"},
            id="the annotation",
        ),
    ],
)
def test_batching_of_a_manifest_reaches_the_server(
    batcher: dict[str, int] | None, annotations: dict[str, str], expected: dict[str, str]
) -> None:
    predictor = SKLEARN if batcher is None else {**SKLEARN, "batcher": batcher}
    manifest = {
        "metadata": {"name": "m", "annotations": annotations},
        "spec": {"predictor": predictor},
    }
    assert batching(inference_service(manifest).value) == {
        f"HEADRACE_SERVER_{name}": value for name, value in expected.items()
    }


def test_ports_are_handed_out_once_and_a_taken_one_is_refused() -> None:
    ports = Ports(HOST)
    port = ports.free()
    assert is_free(HOST, port)
    assert ports.next_from(port) > port
    with pytest.raises(PortTaken) as caught:
        ports.asked(port, "--http_port")
    assert str(caught.value) == (
        f"port {port} is in use on {HOST}; choose another with --http_port"
    )
