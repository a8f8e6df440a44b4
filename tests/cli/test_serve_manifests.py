"""`headrace serve -f`, as a real process with real models."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
import yaml
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.cli.serving import post, serving

ANY_PORTS = ("--http_port", "0", "--grpc-port", "0")
PREDICTOR = """
import sys, pathlib
import joblib
from headrace.server import Model, ModelServer

class Iris(Model):
    def load(self):
        self.model = joblib.load(sys.argv[1])
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None):
        return {"predictions": self.model.predict(payload["instances"]).tolist()}

name = sys.argv[2]
print("loading", name, flush=True)
model = Iris(name)
model.load()
ModelServer().start([model])
"""
TRANSFORMER = """
from headrace.server import Model, ModelServer
from headrace.server.model_server import args

class Centimetres(Model):
    def preprocess(self, payload, headers=None):
        return {"instances": [[v / 10 for v in row] for row in payload["instances"]]}

model = Centimetres(args.model_name)
model.ready = True
ModelServer().start([model])
"""


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a predictor program and a transformer program."""
    folder = tmp_path_factory.mktemp("iris")
    rows, classes = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=500).fit(rows, classes), folder / "model.joblib")
    (folder / "predictor.py").write_text(PREDICTOR)
    (folder / "transformer.py").write_text(TRANSFORMER)
    return folder


def service(name: str, predictor: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": predictor, **spec},
    }


def program(folder: Path, file: str, *args: str, **fields: Any) -> dict[str, Any]:
    command = ["python", str(folder / file)]
    return {"containers": [{"image": "python:3.11", "command": command, "args": [*args], **fields}]}


def custom(folder: Path, name: str = "iris", **component: Any) -> dict[str, Any]:
    """A custom predictor whose model is downloaded to /mnt/models."""
    env = [{"name": "STORAGE_URI", "value": f"file://{folder}/model.joblib"}]
    made = program(folder, "predictor.py", "/mnt/models", "$(WHO)")
    made["containers"][0]["env"] = [*env, {"name": "WHO", "value": name}]
    return {**made, **component}


def written(folder: Path, *manifests: dict[str, Any]) -> str:
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump_all(manifests))
    return str(path)


MILLIMETRES = {"instances": [[51, 35, 14, 2], [67, 30, 52, 23]]}
CENTIMETRES = {"instances": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}


def test_a_custom_predictor_and_its_transformer_answer_and_stop(iris: Path, tmp_path: Path) -> None:
    """The transformer gets the service's ports; SIGTERM ends every process, with status 0."""
    manifest = service(
        "iris",
        custom(iris, minReplicas=2, maxReplicas=4),
        transformer=program(iris, "transformer.py"),
        explainer=program(iris, "transformer.py"),
    )
    ready = tmp_path / "ready.json"
    file = written(tmp_path, manifest)
    with serving("-f", file, *ANY_PORTS, "--ready_file", str(ready)) as running:
        entry = running.table["iris", "transformer"]
        predictor = running.table["iris", "predictor"]
        assert entry.startswith("http://127.0.0.1:")
        children = psutil.Process(running.child.pid).children(recursive=True)
        assert len(children) == 3
        answers = [
            post(f"{entry}/v1/models/iris:predict", MILLIMETRES),
            post(f"{predictor}/v1/models/iris:predict", CENTIMETRES),
        ]
        assert answers == [{"predictions": [0, 2]}] * 2
        code, said = running.stop()
        assert json.loads(ready.read_text()) == {
            "iris": {
                "http": entry.removeprefix("http://"),
                "grpc": running.grpc["iris", "transformer"],
                "explainer": running.table["iris", "explainer"].removeprefix("http://"),
            }
        }
        assert code == 0
        assert psutil.wait_procs(children, timeout=5)[1] == []
    assert "note: iris: predictor: minReplicas 2: one replica runs here\n" in said
    assert "note: iris: predictor: maxReplicas 4: one replica runs here\n" in said
    assert "[iris-predictor] loading iris\n" in said


def test_several_services_from_standard_input_and_ctrl_c(iris: Path) -> None:
    manifests = [service(name, custom(iris, name)) for name in ("one", "two")]
    with serving("-f", "-", *ANY_PORTS, stdin=yaml.safe_dump_all(manifests)) as running:
        for name in ("one", "two"):
            url = f"{running.table[name, 'predictor']}/v1/models/{name}:predict"
            assert post(url, CENTIMETRES) == {"predictions": [0, 2]}
        assert running.stop(signal.SIGINT)[0] == 0


def test_a_component_that_dies_ends_the_command_with_its_last_lines(
    iris: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, service("iris", custom(iris)))
    with serving("-f", file, *ANY_PORTS) as running:
        (child,) = psutil.Process(running.child.pid).children()
        child.kill()
        running.child.wait(timeout=30)
        code, said = running.stop()
    assert code == 1
    assert "headrace serve: iris-predictor ended with exit code 137; its last lines:\n" in said
    assert "\n  loading iris\n" in said


def refused(file: str, *words: str) -> str:
    """What is said of a manifest that is not served."""
    command = [sys.executable, "-m", "headrace.cli", "serve", "-f", file, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.strip()


MODEL = {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "file:///no/such"}}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        pytest.param(
            service("m", {**MODEL, "minReplicas": 3, "maxReplicas": 2}),
            "headrace serve: {file}: 'MinReplicas' cannot be greater than MaxReplicas",
            id="KServe's sentence",
        ),
        pytest.param(
            service("m", {**MODEL, "timeout": "soon"}),
            "headrace serve: {file}: spec.predictor.timeout: expected int, got str",
            id="a wrong type",
        ),
        pytest.param(
            service("m", MODEL),
            "headrace serve: file:///no/such: there is no such file or folder (/no/such)",
            id="no such model",
        ),
        pytest.param(
            service("m", {"model": {**MODEL["model"], "storageUri": "pvc://a/b"}}),
            "headrace serve: pvc://a/b: pvc:// is a volume that Kubernetes mounts: it works in a "
            "cluster; give the mounted path here; here: file://, an absolute or relative path, "
            "http://, https://, s3://, gs://, https://<account>.blob.core.windows.net/, hf://, "
            "models:/ and https://….git",
            id="a claim",
        ),
        pytest.param(
            {"kind": "Deployment", "metadata": {"name": "d"}},
            "headrace serve: {file}: no InferenceService in it; a manifest has `apiVersion: "
            "serving.kserve.io/v1beta1` and `kind: InferenceService`",
            id="another kind",
        ),
        pytest.param(
            service("m", {"containers": [{"image": "registry.example.com/m:1"}]}),
            "headrace serve: container kserve-container: the image registry.example.com/m:1 cannot "
            "run here, where there is no container engine; give the container the command that its "
            "image runs (e.g. command: [python, model.py]), or use a model server image of KServe "
            "or Headrace",
            id="an unknown image",
        ),
    ],
)
def test_refused_manifests(tmp_path: Path, manifest: dict[str, Any], said: str) -> None:
    file = written(tmp_path, manifest)
    assert refused(file, *ANY_PORTS) == said.format(file=file)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert refused("no/such.yaml") == "headrace serve: no/such.yaml: No such file or directory"
    (tmp_path / "list.yaml").write_text("- a\n")
    file = str(tmp_path / "list.yaml")
    assert refused(file) == (f"headrace serve: {file}: expected a manifest (a mapping), got list")
    two = written(tmp_path, service("m", MODEL), service("m", MODEL))
    assert refused(two) == (
        f"headrace serve: {two} (document 2): there is an InferenceService m already; rename one"
    )
    assert refused(two, "--model_name", "x") == (
        "headrace serve: --model_name and -f together: with -f the manifest says it "
        "(spec.predictor.model)"
    )


@pytest.mark.parametrize("form", ["sklearn", "model", "runtime"])
def test_a_model_from_a_manifest_over_v1_and_v2(iris: Path, tmp_path: Path, form: str) -> None:
    """The legacy block, the new one, and one that names KServe's runtime."""
    block: dict[str, Any] = {"storageUri": f"file://{iris}/model.joblib"}
    predictor: dict[str, Any] = {"sklearn": block}
    if form != "sklearn":
        predictor = {"model": {"modelFormat": {"name": "sklearn"}, **block}}
    if form == "runtime":
        predictor["model"]["runtime"] = "kserve-mlserver"
    file = written(tmp_path, service("iris", predictor))
    with serving("-f", file, *ANY_PORTS) as running:
        url = running.table["iris", "predictor"]
        assert post(f"{url}/v1/models/iris:predict", CENTIMETRES) == {"predictions": [0, 2]}
        rows = CENTIMETRES["instances"]
        tensor = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": rows}
        with urllib.request.urlopen(f"{url}/v2/models/iris") as response:
            tensor["name"] = json.load(response)["inputs"][0]["name"]
        answer = post(f"{url}/v2/models/iris/infer", {"inputs": [tensor]})
        assert answer["outputs"][0]["data"] == [0, 2]
        assert running.stop()[0] == 0
