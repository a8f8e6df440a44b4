"""What a container runs on this machine: our server for model server images, else its command."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace.controller.api.pod import Container
from headrace.controller.runtimes.kserve_names import framework_of_image

SERVER = ("-m", "headrace.server")
PYTHONS = ("python", "python3")
OUR_ARGS = frozenset({"--model_name", "--model_dir", "--model-name", "--model-dir"})


class CannotRun(Exception):
    """A container that this machine cannot run; the text says what to do about it."""


def local(container: Container, name: str) -> Container:
    """container with a command that runs here; name: of its service. Raises CannotRun."""
    found = Container(**container)
    command = container.get("command", [])
    if command:
        found["command"] = [_program(command[0], container), *command[1:]]
        return found
    image = container.get("image", "")
    framework = framework_of_image(image)
    if framework is not None:
        found["command"] = [sys.executable, *SERVER]
        found["args"] = _server_args(container.get("args", []), name, framework)
        return found
    args = container.get("args", [])
    if image.partition(":")[0].rpartition("/")[2] in PYTHONS and args:
        found["command"] = [_program(args[0], container)]
        found["args"] = args[1:]
        return found
    raise CannotRun(
        f"container {container.get('name', '')}: the image {image or '(none)'} cannot run here, "
        "where there is no container engine; give the container the command that its image runs "
        "(e.g. command: [python, model.py]), or use a model server image of KServe or Headrace"
    )


def is_python(container: Container) -> bool:
    command = container.get("command", [])
    return bool(command) and command[0] in (sys.executable, *PYTHONS)


def _program(word: str, container: Container) -> str:
    """The program that word starts; Python is the one that runs us."""
    if Path(word).name in PYTHONS or word == sys.executable:
        return sys.executable
    if shutil.which(word) is None:
        raise CannotRun(
            f"container {container.get('name', '')}: its command {word} is no program of this "
            f"machine; install it, or run the manifest in a cluster"
        )
    return word


def _server_args(given: Sequence[str], name: str, framework: str) -> list[str]:
    """given where they are our server's, else those of our runtimes: other servers differ."""
    flags = {each.partition("=")[0] for each in given}
    args = list(given) if flags & OUR_ARGS else []
    if not args:
        args = [f"--model_name={name}", "--model_dir=/mnt/models"]
    if framework and not flags & {"--framework"}:
        args.append(f"--framework={framework}")
    return args
