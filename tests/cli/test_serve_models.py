"""`headrace serve PATH…`: which flags and variables the server is started with."""

import urllib.request
from pathlib import Path

import joblib
import psutil
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from headrace.cli.serve_models import BadModel, environment, flags_of, settings_flags
from tests.cli.serving import post
from tests.serving import server_process


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("digits.onnx", "flat/a.onnx", "flat/b.joblib", "flat/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("repository/iris/1/model.onnx", "flow/MLmodel", "empty/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        pytest.param(["digits.onnx"], ["--model=digits={}/digits.onnx"], id="a file by its stem"),
        pytest.param(
            ["d=./digits.onnx", "e=onnx:digits.onnx"],
            ["--model=d={}/digits.onnx", "--model=e=onnx:{}/digits.onnx"],
            id="names and formats",
        ),
        pytest.param(
            ["flat"],
            ["--model=a={}/flat/a.onnx", "--model=b={}/flat/b.joblib"],
            id="a flat folder: each file by its stem",
        ),
        pytest.param(
            ["./repository"], ["--model_repository={}/repository"], id="a folder per model"
        ),
        pytest.param(["flow"], ["--model=flow={}/flow"], id="a folder that is one model"),
        pytest.param(["m=flat"], ["--model=m={}/flat"], id="a named folder is one model"),
    ],
)
def test_models(models: Path, words: list[str], flags: list[str]) -> None:
    assert flags_of(words) == [flag.format(models) for flag in flags]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["empty"],
            "empty holds no model: neither model files (.bst, .joblib, .json, .onnx, .pickle, "
            ".pkl, .pt, .pt2, .pth, .txt, .ubj) nor a sub-folder per model",
        ),
        (
            ["repository", "digits.onnx"],
            "one folder of models at a time, and no others beside it; name each model instead: "
            "`headrace serve a=./a b=./b`",
        ),
        (
            ["x=digits.onnx", "x=digits.onnx"],
            "two models are called x; name each: `headrace serve a=… b=…`",
        ),
    ],
)
def test_what_names_no_model(models: Path, words: list[str], message: str) -> None:
    with pytest.raises(BadModel) as caught:
        flags_of(words)
    assert str(caught.value) == message


def test_flags_are_handed_on_as_they_were_typed() -> None:
    assert settings_flags({"http_port": "9000", "model": ["a=b", "c=d"]}) == [
        "--http_port=9000",
        "--model=a=b",
        "--model=c=d",
    ]


def test_a_laptop_s_defaults_give_way_to_flags_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("listen: ready\n")
    given = {"host": "0.0.0.0", "settings_file": str(file)}
    assert environment(given, {"HEADRACE_SERVER_LOG_FORMAT": "json"}) == {
        "HEADRACE_SERVER_LOG_FORMAT": "json",
        "HEADRACE_SERVER_ENABLE_DOCS_URL": "true",
        "HEADRACE_SERVER_DRAIN_DELAY": "0",
    }
    assert environment({}, {})["HEADRACE_SERVER_HOST"] == "127.0.0.1"
    assert environment({}, {})["HEADRACE_SERVER_LISTEN"] == "now"


def test_a_model_file_is_served_on_loopback_with_its_docs(tmp_path: Path) -> None:
    """The whole way: `headrace serve iris=model.joblib` becomes the server and answers."""
    rows, classes = load_iris(return_X_y=True)
    path = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(rows, classes), path)
    program = ("-m", "headrace.cli", "serve", f"iris=sklearn:{path}", "--http-port", "0")
    with server_process("--listen", "ready", program=program) as server:
        body = {"instances": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}
        assert post(f"{server.url}/v1/models/iris:predict", body) == {"predictions": [0, 2]}
        with urllib.request.urlopen(f"{server.url}/docs") as page:
            assert page.status == 200
        listening = psutil.Process(server.process.pid).net_connections()
        heard = {each.laddr.ip for each in listening if each.status == "LISTEN"}
        assert {each.removeprefix("::ffff:") for each in heard} == {"127.0.0.1"}
