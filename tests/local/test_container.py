"""A container as a process: variables, mounts, entry points."""

import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.controller.api.pod import Container
from headrace.local.container import CommandLine, Mount, command_line, expanded, mounted
from headrace.local.entry_points import CannotRun, local


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("--name=$(NAME)", "--name=iris", id="a variable"),
        pytest.param("$(NAME)-$(NAME)", "iris-iris", id="twice"),
        pytest.param("$(NONE)", "$(NONE)", id="an unknown one stays"),
        pytest.param("$$(NAME)", "$(NAME)", id="a doubled dollar is a dollar"),
        pytest.param("$NAME ${NAME}", "$NAME ${NAME}", id="a shell's forms are not ours"),
    ],
)
def test_variables(text: str, result: str) -> None:
    assert expanded(text, {"NAME": "iris"}) == result


MOUNTS = [Mount("/mnt/models", Path("/data/iris")), Mount("/mnt/models/extra", Path("/x"))]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("/mnt/models", "/data/iris", id="the path"),
        pytest.param("--model_dir=/mnt/models", "--model_dir=/data/iris", id="in a flag"),
        pytest.param("/mnt/models/a.bst", "/data/iris/a.bst", id="below it"),
        pytest.param("/mnt/models/extra/b", "/x/b", id="the longest mount wins"),
        pytest.param("a:/mnt/models,b", "a:/data/iris,b", id="between other characters"),
        pytest.param("/mnt/models-old", "/mnt/models-old", id="another folder stays"),
        pytest.param("/other/mnt/models", "/other/mnt/models", id="so does one it ends"),
    ],
)
def test_mounts(text: str, result: str) -> None:
    assert mounted(text, MOUNTS) == result


def test_a_command_line() -> None:
    container: Container = {
        "command": ["serve", "$(A)"],
        "args": ["--dir", "$(B)"],
        "workingDir": "/mnt/models",
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "/mnt/models/$(A)"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
    }
    assert command_line(container, [], MOUNTS[:1]) == CommandLine(
        ("serve", "1", "--dir", "/data/iris/1"),
        {"A": "1", "B": "/data/iris/1"},
        ("TOKEN",),
        "/data/iris",
    )


SERVER = [sys.executable, "-m", "headrace.server"]
STANDARD = ["--model_name=m", "--model_dir=/mnt/models"]


@pytest.mark.parametrize(
    ("container", "command", "args"),
    [
        pytest.param(
            {"image": "kserve/sklearnserver:v0.20", "args": [*STANDARD, "--http_port=8080"]},
            SERVER,
            [*STANDARD, "--http_port=8080", "--framework=sklearn"],
            id="KServe's sklearn server is ours",
        ),
        pytest.param(
            {"image": "docker.io/seldonio/mlserver:1.7.1"},
            SERVER,
            STANDARD,
            id="MLServer has no flags; the files say the format",
        ),
        pytest.param(
            {"image": "nvcr.io/nvidia/tritonserver:23.05", "args": ["tritonserver", "--http=1"]},
            SERVER,
            STANDARD,
            id="Triton's flags are not ours",
        ),
        pytest.param(
            {"image": "headrace/server:latest", "args": [*STANDARD, "--framework=onnx"]},
            SERVER,
            [*STANDARD, "--framework=onnx"],
            id="our own image",
        ),
        pytest.param(
            {"image": "any:1", "command": ["python", "-m", "x"], "args": ["--a"]},
            [sys.executable, "-m", "x"],
            ["--a"],
            id="a Python command runs with our Python",
        ),
        pytest.param(
            {"image": "python:3.11-slim", "args": ["python3", "x.py"]},
            [sys.executable],
            ["x.py"],
            id="the args of a Python image are its command",
        ),
        pytest.param({"command": ["sh", "-c", "true"]}, ["sh", "-c", "true"], None, id="a shell"),
    ],
)
def test_entry_points(container: Any, command: list[str], args: list[str] | None) -> None:
    found = local(container, "m")
    assert (found["command"], found.get("args")) == (command, args)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (
            {"name": "kserve-container", "image": "registry.example.com/model:1"},
            "container kserve-container: the image registry.example.com/model:1 cannot run here, "
            "where there is no container engine; give the container the command that its image "
            "runs (e.g. command: [python, model.py]), or use a model server image of KServe or "
            "Headrace",
        ),
        (
            {"name": "c", "command": ["no-such-program"]},
            "container c: its command no-such-program is no program of this machine; install it, "
            "or run the manifest in a cluster",
        ),
    ],
)
def test_what_cannot_run(container: Any, message: str) -> None:
    with pytest.raises(CannotRun) as caught:
        local(container, "m")
    assert str(caught.value) == message
