"""`make demo`: train, write manifests, `headrace serve -f`, call with real clients, a table."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.demo import manifests, training
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
REPEATS = 20
START_S = 90.0


def main() -> int:
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        say("training a model for every predictor on scikit-learn's bundled data")
        trained = training.train_all(root / "models")
        services = write_manifests(root, trained)
        say(f"serving {len(services)} InferenceServices: headrace serve -f {root}/manifests")
        with serving(root) as endpoints:
            say("calling each with kserve's and tritonclient's own clients")
            answers = call_all(root, trained, endpoints)
            explanation = explain(endpoints[manifests.PIPELINE]["explainer"], trained[0])
    print_table(answers, trained)
    print(f"\nexplained by permutation importance: {explanation}")
    say(f"done in {time.monotonic() - started_s:.0f} s")
    return 0


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def write_manifests(root: Path, trained: list[training.Trained]) -> list[str]:
    folder = root / "manifests"
    folder.mkdir()
    services = [manifests.predictor_only(each) for each in trained]
    services.append(manifests.pipeline(trained[0]))
    for service in services:
        name = service["metadata"]["name"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(service))
    return [service["metadata"]["name"] for service in services]


@contextlib.contextmanager
def serving(root: Path) -> Iterator[dict[str, dict[str, str]]]:
    """`headrace serve -f`, from the moment all is ready; yields host:port by service, protocol."""
    command = [str(Path(sys.executable).with_name("headrace")), "serve"]
    command += ["-f", str(root / "manifests"), "--ready_file", str(root / "ready.json")]
    http_port, grpc_port = free_ports(2)
    command += ["--http_port", str(http_port), "--grpc_port", str(grpc_port)]
    with (root / "serve.log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield wait_until_ready(running, root)
        finally:
            running.send_signal(signal.SIGTERM)
            if running.wait(60) != 0:
                raise SystemExit((root / "serve.log").read_text())


def wait_until_ready(running: subprocess.Popen[bytes], root: Path) -> dict[str, dict[str, str]]:
    end_s = time.monotonic() + START_S
    ready = root / "ready.json"
    while time.monotonic() < end_s and running.poll() is None:
        if ready.exists():
            found: dict[str, dict[str, str]] = json.loads(ready.read_text())
            return found
        time.sleep(0.2)
    raise SystemExit(f"demo: not ready:\n{(root / 'serve.log').read_text()}")


def call_all(
    root: Path, trained: list[training.Trained], endpoints: dict[str, dict[str, str]]
) -> list[dict[str, Any]]:
    """One answer row per model, client and protocol."""
    calls = []
    by_name = {each.name: each for each in trained}
    for name, endpoint in endpoints.items():
        each = by_name.get(name, trained[0])
        rows = root / f"{name}.npy"
        is_pipeline = name == manifests.PIPELINE  # whose transformer takes millimetres
        np.save(rows, each.data.test_x * np.float32(10 if is_pipeline else 1))
        names = {"input_name": each.input_name, "output_name": each.output_name}
        ports = {key: endpoint[key] for key in ("http", "grpc")}
        calls.append({"name": name, "rows": str(rows), "repeats": REPEATS, **ports, **names})
    path = root / "calls.json"
    path.write_text(json.dumps(calls))
    answers: list[dict[str, Any]] = []
    for client in ("kserve", "triton"):
        python = ROOT / ".venv/clients" / client / "bin/python"
        command = [str(python), str(HERE / "clients" / f"{client}_calls.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"demo: the {client} client failed:\n{done.stderr}")
        answers += [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    return answers


def explain(http: str, trained: training.Trained) -> str:
    """V1 :explain through the pipeline's explainer, with curl."""
    body = json.dumps({"instances": trained.data.test_x[:8].tolist()})
    url = f"http://{http}/v1/models/{manifests.PIPELINE}:explain"
    command = ["curl", "--silent", "--show-error", "--fail-with-body", url, "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"demo: explain failed: {done.stdout}{done.stderr}")
    return re.sub(r"(\d\.\d{3})\d+", r"\1", done.stdout)


def print_table(answers: list[dict[str, Any]], trained: list[training.Trained]) -> None:
    by_name = {each.name: each for each in trained}
    head = ("model", "format", "protocol", "client", "held-back score", "p50 ms")
    rows = [head]
    for answer in sorted(answers, key=lambda each: each["name"]):
        each = by_name.get(answer["name"], trained[0])
        score = training.score_of(each, np.asarray(answer["answers"]))
        rows.append(
            (
                answer["name"],
                each.model_format,
                answer["protocol"],
                answer["client"],
                f"{score:.3f} {each.score}",
                f"{answer['p50_ms']:.2f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in [head, tuple("-" * width for width in widths), *rows[1:]]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
