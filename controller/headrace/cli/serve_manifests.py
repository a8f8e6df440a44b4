"""`headrace serve -f`: each service's components as processes, until Ctrl-C or one of them ends.

read ─▶ default, validate ─▶ plan ─▶ download ─▶ start ─▶ table of URLs ─▶ wait ─▶ stop
"""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.cli import manifests
from headrace.cli.manifests import BadManifests, Manifests
from headrace.controller.errors import InvalidPredictor
from headrace.local.container import Mount, command_line
from headrace.local.entry_points import CannotRun
from headrace.local.node import Exited, Node
from headrace.local.ports import Ports, PortTaken, until_open
from headrace.local.service import LocalService, Replica, local_service
from headrace.local.unhonoured import unhonoured
from headrace.server.logging import configure
from headrace.server.settings import PREFIX, Settings
from headrace.server.storage import Options, StorageError, UnsupportedUri, download, parse
from headrace.server.storage.uri import Kind

LOOPBACK = "127.0.0.1"
# The rest of the flags go to the servers.
OURS = ("http_port", "grpc_port", "host", "ready_file")
PER_MODEL = ("model_name", "model_dir", "model_repository", "framework", "predictor_host", "model")


def serve(files: Sequence[str], given: Mapping[str, Any], env: Mapping[str, str]) -> int:
    """Blocks. given: the server's flags as typed. Exit status as of the command."""
    signal.signal(signal.SIGTERM, _interrupt)  # until the loop has its own handlers
    try:
        _check_flags(given)
        found = manifests.read(files, sys.stdin)
        services = _planned(found, given)
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            mounts = _downloaded(services, Path(folder), env)
            for note in [*found.notes, *_notes(found, services)]:
                print(f"note: {note}", file=sys.stderr)
            ready_file = given.get("ready_file")
            tell = Path(ready_file) if ready_file else None
            return asyncio.run(_run(services, mounts, {**env, **_settings_env(given)}, tell))
    except (
        *(BadManifests, InvalidPredictor, CannotRun, PortTaken),
        *(StorageError, UnsupportedUri, OSError),
    ) as err:
        print(f"headrace serve: {err}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _check_flags(given: Mapping[str, Any]) -> None:
    for name in PER_MODEL:
        if name in given:
            raise BadManifests(
                f"--{name} and -f together: with -f the manifest says it (spec.predictor.model)"
            )


def _planned(found: Manifests, given: Mapping[str, Any]) -> list[LocalService]:
    host = str(given.get("host") or LOOPBACK)
    ports = Ports(host)
    http_port, grpc_port = (_port(given, "http_port", 8080), _port(given, "grpc_port", 8081))
    planned: list[LocalService] = []
    for isvc in found.services:
        if not planned or 0 in (http_port, grpc_port):
            pair = (
                ports.asked(http_port, "--http_port"),
                ports.asked(grpc_port, "--grpc_port"),
            )
        else:
            pair = (ports.next_from(http_port + 1), ports.next_from(grpc_port + 1))
        planned.append(local_service(isvc, found.runtimes, found.config, ports, pair, host))
    return planned


def _port(given: Mapping[str, Any], name: str, default: int) -> int:
    text = str(given.get(name, default))
    if not text.isdigit() or int(text) > 65535:
        raise BadManifests(f"--{name} {text}: expected a port, 0 to 65535")
    return int(text)


def _downloaded(
    services: Sequence[LocalService], folder: Path, env: Mapping[str, str]
) -> dict[tuple[str, str], Mount]:
    """Where each (replica's name, mount path) lies. What is local already is not copied."""
    configure(Settings(log_format="text"))  # progress is log lines where there is no terminal
    options = Options.from_env(env, cache_folder=_cache_folder(env))
    found: dict[tuple[str, str], Mount] = {}
    places: dict[str, Path] = {}
    for replica in [each for service in services for each in service.replicas]:
        for source in replica.sources:
            if source.uri not in places:
                places[source.uri] = _place(source.uri, folder / str(len(places)), options)
            mount = Mount(source.path, places[source.uri])
            found[replica.name, source.path] = mount
    return found


def _place(uri: str, target: Path, options: Options) -> Path:
    location = parse(uri)
    if location.kind is not Kind.LOCAL:
        return download(uri, target, options)
    path = Path(location.path).absolute()
    if not path.exists():
        raise StorageError(f"{uri}: there is no such file or folder ({path})")
    return path


def _cache_folder(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace" / "models"


def _settings_env(given: Mapping[str, Any]) -> dict[str, str]:
    """Flags for every server, as variables: what a manifest's args say wins."""
    defaults = {"log_format": "text", "enable_docs_url": "true"}
    flags = {name: str(value) for name, value in given.items() if name not in OURS}
    return {f"{PREFIX}{name.upper()}": value for name, value in {**defaults, **flags}.items()}


def _notes(found: Manifests, services: Sequence[LocalService]) -> list[str]:
    notes: list[str] = []
    for isvc, service in zip(found.services, services, strict=True):
        notes += [f"{service.name}: {note}" for note in (*unhonoured(isvc), *service.notes)]
    return notes


async def _run(
    services: Sequence[LocalService],
    mounts: Mapping[tuple[str, str], Mount],
    env: Mapping[str, str],
    ready_file: Path | None,
) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    node = Node(env, _show)
    try:
        for replica in [each for service in services for each in service.replicas]:
            await _start(node, replica, mounts, env)
        ended = asyncio.create_task(node.first_exit())
        signalled = asyncio.create_task(stopped.wait())
        ready = asyncio.create_task(_until_ready(services))
        await asyncio.wait([ended, signalled, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            sys.stdout.write(f"{_table(services)}\n")  # one write: readers get it whole
            sys.stdout.flush()
            if ready_file is not None:
                _write_ready_file(ready_file, services)
        await asyncio.wait([ended, signalled], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        signalled.cancel()
        if ended.done() and not stopped.is_set():
            _show_exit(ended.result())
            return 1
        ended.cancel()
        return 0
    finally:
        await node.stop()


async def _start(
    node: Node,
    replica: Replica,
    mounts: Mapping[tuple[str, str], Mount],
    env: Mapping[str, str],
) -> None:
    own = [mounts[replica.name, source.path] for source in replica.sources]
    line = command_line(replica.container, [], own)
    for name in line.missing:
        if name not in env:
            _show(f"note: {replica.name}: variable {name} comes from elsewhere; set it here")
    await node.start(replica.name, line, replica.env)


async def _until_ready(services: Sequence[LocalService]) -> None:
    """Returns when every port is open."""
    for replica in [each for service in services for each in service.replicas]:
        await until_open(replica.host, replica.http_port)


def _write_ready_file(path: Path, services: Sequence[LocalService]) -> None:
    """host:port by service and protocol, and of its explainer: there whole or not at all."""
    told: dict[str, dict[str, str]] = {}
    for service in services:
        entry = service.entry
        told[service.name] = {
            "http": f"{entry.host}:{entry.http_port}",
            "grpc": f"{entry.host}:{entry.grpc_port}",
        }
        for replica in service.replicas:
            if replica.component == "explainer":
                told[service.name]["explainer"] = f"{replica.host}:{replica.http_port}"
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(told))
    unfinished.replace(path)


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_exit(exited: Exited) -> None:
    _show(f"headrace serve: {exited.name} ended with exit code {exited.code}; its last lines:")
    for line in exited.last_lines:
        _show(f"  {line}")


def _table(services: Sequence[LocalService]) -> str:
    """NAME, COMPONENT, URL, GRPC of each process; the entry of a service first."""
    rows = [("NAME", "COMPONENT", "URL", "GRPC")]
    for service in services:
        others = [each for each in service.replicas if each is not service.entry]
        for replica in [service.entry, *others]:
            address = f"{replica.host}:{replica.grpc_port}"
            url = f"http://{replica.host}:{replica.http_port}"
            rows.append((service.name, replica.component, url, address))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
