"""Which GPUs this process may use: asked of NVIDIA's driver, cut down to what CUDA would show.

Asked through nvidia-ml-py (the extra `gpu`), else through torch where it is imported anyway. On a
machine without NVIDIA's driver this is three looks at the file system and imports nothing.

`visible` is CUDA_VISIBLE_DEVICES as CUDA reads it. NVIDIA_VISIBLE_DEVICES is the container
runtime's: its numbers count the host's GPUs and have been applied before we start, so only `void`,
`none` and UUIDs are read here.
"""

import contextlib
import importlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.server.placement import Device

log = logging.getLogger(__name__)

DRIVER = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")  # the last is WSL's
NOTHING = frozenset({"void", "none", "no", ""})


@dataclass(frozen=True, slots=True)
class Found:
    """One GPU of the machine, in the driver's order. slices: of a GPU in MIG mode, else None."""

    gpu: Device
    slices: tuple[Device, ...] | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        return (self.gpu,) if self.slices is None else self.slices


def discover(
    env: Mapping[str, str], nvml: Any = None, driver: Sequence[str] = DRIVER
) -> list[Device]:
    """The GPUs and MIG slices this process may use, with what memory is free now.

    nvml: the module `pynvml`, for tests. Never raises: a driver that fails is a warning and no GPU.
    """
    if not any(Path(path).exists() for path in driver):
        return []
    masked = env.get("CUDA_VISIBLE_DEVICES")
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return _of_torch(sys.modules.get("torch"), masked)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as err:
        log.warning("GPUs cannot be asked for", extra={"error": str(err)})
        return []
    try:
        found = [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as err:
        log.warning("GPUs cannot be asked for", extra={"error": str(err)})
        return []
    finally:
        nvml.nvmlShutdown()
    names = {each.gpu.name for each in found}
    if len(names) > 1 and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        log.warning(
            "GPUs differ: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA counts them in another order",
            extra={"gpus": sorted(names)},
        )
    return visible(_of_container(found, env.get("NVIDIA_VISIBLE_DEVICES", "all")), masked)


def visible(found: Sequence[Found], masked: str | None) -> list[Device]:
    """The devices CUDA shows of found, in its order. masked: CUDA_VISIBLE_DEVICES, None if unset.

    Entries are numbers, GPU-… or MIG-… (or unambiguous beginnings of these), and
    MIG-GPU-…/gi/ci of older drivers; the first entry that is none of the machine's ends the list.
    """
    if masked is None:
        chosen = [device for each in found for device in each.devices]
    else:
        chosen = []
        for entry in masked.split(","):
            named = _named(found, entry.strip())
            if not named:
                break
            chosen += (device for device in named if device not in chosen)
    return _numbered(chosen)


def _named(found: Sequence[Found], entry: str) -> Sequence[Device]:
    if re.fullmatch("-?[0-9]+", entry):
        number = int(entry)
        return found[number].devices if 0 <= number < len(found) else ()
    if entry.startswith("GPU-"):
        gpus = [each for each in found if each.gpu.uuid.startswith(entry)]
        return gpus[0].devices if len(gpus) == 1 else ()
    if entry.startswith("MIG-"):
        slices = [device for each in found for device in each.slices or ()]
        exact = [device for device in slices if device.uuid == entry]
        begun = [device for device in slices if device.uuid.startswith(entry)]
        return exact or (begun if len(begun) == 1 else ())
    return ()


def _numbered(devices: Sequence[Device]) -> list[Device]:
    """With the numbers CUDA gives: whole GPUs in order; of slices the first, if there is no GPU."""
    whole = [device for device in devices if not device.parent]
    shown = whole or list(devices[:1])
    return [
        replace(device, index=index, ordinal=shown.index(device) if device in shown else None)
        for index, device in enumerate(devices)
    ]


def _of_container(found: Sequence[Found], listed: str) -> Sequence[Found]:
    """What NVIDIA_VISIBLE_DEVICES leaves of found."""
    if listed.strip().lower() in NOTHING:
        return ()
    wanted = [each.strip() for each in listed.split(",")]
    uuids = tuple(each for each in wanted if each.startswith(("GPU-", "MIG-")))
    if len(uuids) < len(wanted):  # `all`, or numbers of the host
        return found
    kept = []
    for each in found:
        if each.gpu.uuid.startswith(uuids):
            kept.append(each)
        elif slices := tuple(s for s in each.slices or () if s.uuid.startswith(uuids)):
            kept.append(replace(each, slices=slices))
    return kept


def _gpu(nvml: Any, index: int) -> Found:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    gpu = _device(nvml, handle)
    is_mig = False
    with contextlib.suppress(nvml.NVMLError):  # most GPUs know no MIG
        is_mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    if not is_mig:
        return Found(gpu)
    slices = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with contextlib.suppress(nvml.NVMLError):  # a number that no slice has
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            slices.append(replace(_device(nvml, part), parent=gpu.uuid))
    return Found(gpu, tuple(slices))


def _device(nvml: Any, handle: Any) -> Device:
    total, free = 0, 0
    with contextlib.suppress(nvml.NVMLError):  # memory shared with the CPU is not told
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    return Device(0, uuid, name, total, free)


def _text(value: str | bytes) -> str:
    """Old bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _of_torch(torch: Any, masked: str | None) -> list[Device]:
    """As torch sees them; torch obeys CUDA_VISIBLE_DEVICES itself."""
    if masked is not None and not masked.strip():
        return []
    if torch is None or not hasattr(torch, "cuda"):
        log.warning("GPUs cannot be asked for: pip install 'headrace[gpu]'")
        return []
    try:
        return [_torch_device(torch, index) for index in range(torch.cuda.device_count())]
    except Exception as err:  # a driver too old for this torch, a GPU that fell off the bus
        log.warning("GPUs cannot be asked for", extra={"error": str(err)})
        return []


def _torch_device(torch: Any, index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    uuid = str(getattr(properties, "uuid", ""))
    return Device(index, f"GPU-{uuid}" if uuid else "", properties.name, total, free, index)
