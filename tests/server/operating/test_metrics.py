"""What `/metrics` says: KServe's names (§7.1), Triton's (§7.2), ours, and how workers' add up."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from headrace.server.metrics import from_plain, merged, to_plain
from tests.serving import ServerProcess, server_process

PROGRAM = """
from headrace.server import Model, ModelServer


class Picky(Model):
    def predict(self, payload, headers=None):
        if payload["instances"] == ["bad"]:
            raise RuntimeError("no")
        return {"predictions": payload["instances"]}


model = Picky("m")
model.load()
ModelServer().start([model])
"""
BOUNDS = (
    *("0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75"),
    *("1.0", "2.5", "5.0", "7.5", "10.0", "+Inf"),
)
TOTALS = (
    *("request_success", "request_failure", "count", "exec_count", "request_duration_us"),
    *("queue_duration_us", "compute_input_duration_us"),
    *("compute_infer_duration_us", "compute_output_duration_us"),
)
UNIT = "metric names should not contain abbreviated units"
REMARKS = {
    *(f"nv_inference_{stage}_duration_us {UNIT}" for stage in ("request", "queue")),
    *(f"nv_inference_compute_{part}_duration_us {UNIT}" for part in ("input", "infer", "output")),
    "nv_inference_pending_request_count non-histogram and non-summary metrics should not have "
    '"_count" suffix',
}


def ask(server: ServerProcess, path: str, body: object = None, accept: str = "") -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, {"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Plain text and OpenMetrics, after two good predictions and one that raised."""
    path = tmp_path_factory.mktemp("metrics") / "program.py"
    path.write_text(PROGRAM)
    with server_process(program=(str(path),)) as server:
        for _ in range(2):
            ask(server, "/v1/models/m:predict", {"instances": [1]})
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(server, "/v1/models/m:predict", {"instances": ["bad"]})
        caught.value.close()
        kind = "application/openmetrics-text; version=1.0.0"
        return ask(server, "/metrics"), ask(server, "/metrics", accept=kind)


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in plain_text(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.parametrize(
    ("stage", "count"), [("preprocess", 3), ("predict", 3), ("postprocess", 3), ("explain", 0)]
)
def test_kserves_histograms(stage: str, count: int, texts: tuple[str, str]) -> None:
    """The request that raised counts too."""
    found = samples(texts[0])
    name = f"request_{stage}_seconds"
    assert found[f"{name}_count"] == [({"model_name": "m"}, count)]
    buckets = [labels for labels, _ in found[f"{name}_bucket"]]
    assert buckets == [{"model_name": "m", "le": bound} for bound in BOUNDS]


def test_tritons_counters(texts: tuple[str, str]) -> None:
    found = samples(texts[0])
    labels = {"model": "m", "version": "1"}
    assert {f"nv_inference_{name}" for name in TOTALS} <= set(found)
    assert found["nv_inference_request_success"][0][1] == 2
    assert {each["reason"]: value for each, value in found["nv_inference_request_failure"]} == {
        "REJECTED": 0,
        "CANCELED": 0,
        "BACKEND": 1,
        "OTHER": 0,
    }
    assert found["nv_inference_pending_request_count"] == [
        (found["nv_inference_request_success"][0][0], 0)
    ]
    assert set(found["nv_inference_count"][0][0]) == set(labels)


def test_our_own(texts: tuple[str, str]) -> None:
    found = samples(texts[0])
    assert found["headrace_requests_in_flight"][0][1] == 0
    assert found["headrace_requests_rejected_total"][0][1] == 0
    assert found["headrace_request_rows_count"][0][1] == 3
    assert found["headrace_request_body_bytes_total"][0][1] == 18 * 2 + 22
    assert found["headrace_queue_wait_seconds_count"][0][1] == 3


def test_openmetrics_reads_the_same(texts: tuple[str, str]) -> None:
    families = {family.name: family for family in open_metrics(texts[1])}
    assert families["request_predict_seconds"].type == "histogram"
    assert "nv_inference_request_success" in families


def promtool(text: str) -> tuple[int, set[str]]:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.returncode, set(done.stderr.splitlines())


def test_promtool_dislikes_only_tritons_units(texts: tuple[str, str]) -> None:
    """They abbreviate microseconds; Triton's names are what dashboards ask for."""
    code, remarks = promtool(texts[0])
    assert code == 3
    assert remarks == REMARKS


def test_promtool_likes_all_without_tritons(tmp_path: Path) -> None:
    flags = ["--metrics_triton", "false", "--model", f"m=echo:{tmp_path}"]
    with server_process(*flags) as server:
        assert promtool(ask(server, "/metrics")) == (0, set())


@pytest.mark.parametrize(
    ("name", "both"),
    [
        ("asked", 5.0),
        ("process_resident_memory_bytes", 5.0),
        ("python_info", 3.0),
        ("nv_cpu_utilization", 3.0),
        ("nv_cpu_memory_used_bytes", 3.0),
        ("process_max_fds", 3.0),
        ("process_start_time_seconds", 2.0),
        ("asked_created", 2.0),
    ],
)
def test_two_workers_are_one(name: str, both: float) -> None:
    families: list[list[Metric]] = [[GaugeMetricFamily(name, "text", v)] for v in (2.0, 3.0)]
    found = list(merged([from_plain(to_plain(each)) for each in families], 4).collect())
    assert [(each.name, each.samples[0].value) for each in found] == [
        (name, both),
        ("headrace_worker_restarts", 4),
    ]


def test_a_family_of_one_worker_alone_is_kept() -> None:
    one = CounterMetricFamily("asked", "text", labels=["model"])
    one.add_metric(["m"], 1)
    other = CounterMetricFamily("asked", "text", labels=["model"])
    other.add_metric(["n"], 2)
    first = next(iter(merged([[one], [other]], 0).collect()))
    assert [(s.labels["model"], s.value) for s in first.samples] == [("m", 1), ("n", 2)]
