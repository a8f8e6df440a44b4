"""A container as a process of this machine: its command line and its environment. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.controller.api.pod import Container

REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True)
class Mount:
    """What a pod would see at path lies at source here."""

    path: str
    source: Path


@dataclass(frozen=True, slots=True)
class CommandLine:
    """argv and the variables the container sets, and where it runs; None: here.

    missing: variables that come from elsewhere (valueFrom), which is not on this machine.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    missing: tuple[str, ...] = ()
    folder: str | None = None


def command_line(
    container: Container, entry_point: Sequence[str], mounts: Sequence[Mount]
) -> CommandLine:
    """entry_point: what runs where the container has no command of its own.

    `$(VAR)` is expanded as kubelet does it; `$$` is a dollar; an unknown name stays as it is.
    """
    env: dict[str, str] = {}
    missing: list[str] = []
    for variable in container.get("env", []):
        name = variable.get("name", "")
        if "valueFrom" in variable:
            missing.append(name)
            continue
        env[name] = mounted(expanded(variable.get("value", ""), env), mounts)
    command = container.get("command") or list(entry_point)
    words = [*command, *container.get("args", [])]
    argv = tuple(mounted(expanded(word, env), mounts) for word in words)
    folder = container.get("workingDir")
    return CommandLine(
        argv, env, tuple(missing), mounted(folder, mounts) if folder is not None else None
    )


def expanded(text: str, env: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else env.get(found[1], found[0])

    return REFERENCE.sub(value, text)


def mounted(text: str, mounts: Sequence[Mount]) -> str:
    """text with each mount path, as a whole path or the head of one, replaced by its source."""
    if not mounts:
        return text
    sources = {mount.path.rstrip("/"): str(mount.source) for mount in mounts}
    longest_first = sorted(sources, key=len, reverse=True)
    paths = "|".join(map(re.escape, longest_first))
    return re.sub(rf"(?<![\w./-])({paths})(?=$|[^\w.-])", lambda found: sources[found[1]], text)
