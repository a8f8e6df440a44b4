"""Which device runs each instance of a model: pure decisions over what a machine has.

Groups are Triton's `instance_group` (data-plane contract §9.3), or the one group that `--instances`
stands for. `place` answers with one `Placement` per instance and with sentences for the log; what
cannot be had is a ModelLoadError that says what to write instead. Devices come from devices.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from headrace.server.errors import ModelLoadError


class Kind(StrEnum):  # Triton's words
    AUTO = "KIND_AUTO"  # a GPU where there is one and the framework uses it
    GPU = "KIND_GPU"
    CPU = "KIND_CPU"
    MODEL = "KIND_MODEL"  # the model decides


class GpuUse(StrEnum):
    """What a framework makes of a GPU."""

    NEVER = "never"
    ASKED = "asked"  # it may use one: only KIND_GPU and KIND_MODEL give it one
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Group:
    """count: instances on each GPU, or in all on the CPU. gpus: device indices; () is every one.

    is_spread: count is of all instances, each put where most memory is free (`--instances`).
    """

    name: str = ""
    count: int = 1
    kind: Kind = Kind.AUTO
    gpus: tuple[int, ...] = ()
    is_passive: bool = False  # its instances are loaded, and get no requests
    is_spread: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, a MIG slice of one, or the CPU.

    index: what `gpus` calls it: its place among the devices this process may see; -1: the CPU.
    ordinal: CUDA's number for it in this process; None: CUDA shows it only to a process that sees
    nothing else, as all but one MIG slice. memory_bytes 0: the driver does not tell.
    """

    index: int = -1
    uuid: str = ""
    name: str = "CPU"
    memory_bytes: int = 0
    free_bytes: int = 0
    ordinal: int | None = None
    parent: str = ""  # of a MIG slice: its GPU's UUID

    @property
    def is_gpu(self) -> bool:
        return self.index >= 0


CPU = Device()
OWN_CHOICE = Device(-2, name="the model's own choice")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one instance runs."""

    device: Device = CPU
    is_passive: bool = False

    @property
    def torch_name(self) -> str:
        """As PyTorch spells it: "cpu", "cuda:0"; "" where the model decides."""
        if self.device.is_gpu:
            return f"cuda:{self.device.ordinal or 0}"
        return "" if self.device == OWN_CHOICE else "cpu"


@dataclass(frozen=True, slots=True)
class Plan:
    """placements: one per instance. notes: sentences for the log, e.g. why not on a GPU."""

    placements: tuple[Placement, ...]
    notes: tuple[str, ...] = ()


def place(
    groups: Sequence[Group],
    devices: Sequence[Device],
    use: GpuUse = GpuUse.AUTO,
    need_bytes: int = 0,
    has_processes: bool = False,
) -> Plan:
    """A placement for each instance of groups, on devices (GPUs only) or the CPU.

    need_bytes: device memory of one instance, 0 where unknown. has_processes: each instance runs
    in a process of its own, which can be shown any one device. Raises ModelLoadError.
    """
    if groups and all(group.is_passive for group in groups):
        raise ModelLoadError("instance_group: every group is passive, so no instance would answer")
    left = list(devices)
    placements: list[Placement] = []
    notes: list[str] = []
    for group in groups:
        found = _of_group(group, left, use, need_bytes, has_processes, notes)
        placements += (Placement(device, group.is_passive) for device in found)
        left = take(left, found, need_bytes)
    return Plan(tuple(placements), tuple(notes))


def take(devices: Sequence[Device], used: Sequence[Device], need_bytes: int) -> list[Device]:
    """devices after need_bytes were promised on each one in used, as often as it is there."""
    promised = {
        device.index: need_bytes * sum(each.index == device.index for each in used)
        for device in devices
    }
    return [
        replace(device, free_bytes=max(0, device.free_bytes - promised[device.index]))
        for device in devices
    ]


def to_groups(name: str, placements: Sequence[Placement]) -> list[dict[str, Any]]:
    """placements of the model called name as Triton's instance_group: what runs, not what was
    asked for."""
    counts: dict[tuple[Kind, int, bool], int] = {}
    for each in placements:
        kind = Kind.GPU if each.device.is_gpu else Kind.CPU
        if each.device == OWN_CHOICE:
            kind = Kind.MODEL
        key = kind, max(-1, each.device.index), each.is_passive
        counts[key] = counts.get(key, 0) + 1
    groups: list[dict[str, Any]] = []
    for number, ((kind, gpu, is_passive), instances) in enumerate(counts.items()):
        group = {
            "name": f"{name}_{number}",
            "kind": str(kind),
            "count": instances,
            "gpus": [gpu] if gpu >= 0 else [],
        }
        groups.append({**group, "passive": True} if is_passive else group)
    return groups


def count(groups: Sequence[Group], gpus: int) -> int:
    """Most active instances that groups come to on a machine with so many GPUs; at least 1."""
    counts = (
        group.count * (len(group.gpus) or max(1, gpus) if _is_per_gpu(group) else 1)
        for group in groups
        if not group.is_passive
    )
    return max(1, sum(counts))


def threads_each(cpus: int, workers: int, instances: int) -> int:
    """CPU threads of one instance when all instances in all workers run at once.

    An instance on a GPU gets its share too: it prepares on the CPU, and may have to run there.
    """
    return max(1, cpus // (workers * instances))


def _is_per_gpu(group: Group) -> bool:
    return group.kind in (Kind.GPU, Kind.AUTO) and not group.is_spread


def _of_group(
    group: Group,
    devices: Sequence[Device],
    use: GpuUse,
    need_bytes: int,
    has_processes: bool,
    notes: list[str],
) -> list[Device]:
    if group.kind is Kind.CPU:
        return [CPU] * group.count
    if group.kind is Kind.MODEL:
        return [OWN_CHOICE] * group.count
    at = f"instance_group {group.name!r}" if group.name else "instance_group"
    if group.kind is Kind.GPU:
        if use is GpuUse.NEVER:
            raise ModelLoadError(
                f"{at}: kind KIND_GPU, but this framework runs on the CPU only; use KIND_CPU"
            )
        return _on_gpus(at, group, devices, need_bytes, has_processes, notes)
    if use is not GpuUse.AUTO:
        return [CPU] * group.count
    if not devices:
        if group.gpus:
            notes.append(f"{at}: gpus {list(group.gpus)}, but no GPU is visible: on the CPU")
        return [CPU] * group.count
    try:
        return _on_gpus(at, group, devices, need_bytes, has_processes, notes)
    except ModelLoadError as err:
        notes.append(f"{err}: on the CPU, as KIND_AUTO allows")
        return [CPU] * group.count


def _on_gpus(
    at: str,
    group: Group,
    devices: Sequence[Device],
    need_bytes: int,
    has_processes: bool,
    notes: list[str],
) -> list[Device]:
    """Raises ModelLoadError for a device that is not there, not reachable or full."""
    named = _named(at, group, devices)
    reached = [each for each in named if has_processes or each.ordinal is not None]
    hidden = [each for each in named if each not in reached]
    if hidden:
        why = (
            f"{at}: {_names(hidden)} cannot be reached from the server's own process, which CUDA "
            "shows one MIG slice at most; start with --isolation process"
        )
        if group.gpus or not reached:
            raise ModelLoadError(why)
        notes.append(why)
    if group.is_spread:
        return _spread(at, group.count, reached, need_bytes)
    for device in reached:
        _check_room(at, device, need_bytes * group.count, device.free_bytes)
    return [device for device in reached for _ in range(group.count)]


def _named(at: str, group: Group, devices: Sequence[Device]) -> list[Device]:
    if not devices:
        raise ModelLoadError(
            f"{at}: kind {group.kind}, but no GPU is visible here; use KIND_CPU or KIND_AUTO"
        )
    by_index = {device.index: device for device in devices}
    wanted = list(dict.fromkeys(group.gpus)) or list(by_index)
    missing = [index for index in wanted if index not in by_index]
    if missing:
        has = "GPU 0" if len(devices) == 1 else f"GPUs 0-{len(devices) - 1}"
        raise ModelLoadError(
            f"{at}: gpus {missing}, but this machine has {has}; "
            "name one of these, or use KIND_CPU or KIND_AUTO"
        )
    return [by_index[index] for index in wanted]


def _spread(at: str, count: int, devices: Sequence[Device], need_bytes: int) -> list[Device]:
    """Each instance on the device with most free memory then; of equals, the one with fewest."""
    free = {device.index: device.free_bytes for device in devices}
    placed: list[Device] = []
    for _ in range(count):
        best = max(devices, key=lambda each: (free[each.index], -placed.count(each), -each.index))
        _check_room(at, best, need_bytes, free[best.index])
        free[best.index] -= need_bytes
        placed.append(best)
    return placed


def _check_room(at: str, device: Device, need_bytes: int, free_bytes: int) -> None:
    if device.memory_bytes and need_bytes > free_bytes:
        raise ModelLoadError(
            f"{at}: {_names([device])} has {free_bytes} bytes free of {device.memory_bytes}, "
            f"and about {need_bytes} are needed"
        )


def _names(devices: Sequence[Device]) -> str:
    return ", ".join(f"GPU {each.index} ({each.name} {each.uuid})" for each in devices)
