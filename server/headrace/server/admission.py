"""Whether a model may be loaded, by the memory it will need: pure decisions.

A load that does not fit is refused, or idle models make room for it, before the kernel would end
the server. What a model needs is what it held at its last load (`memory.Usage`), else `estimate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.server.statistics import LAST


@dataclass(frozen=True, slots=True)
class Held:
    """A loaded model: the memory its unload would give back, and when it last answered."""

    name: str
    size_bytes: int
    last_used_ms: int = 0
    is_idle: bool = True


@dataclass(frozen=True, slots=True)
class Room:
    """limit_bytes 0: no limit. used_bytes: by the whole process tree now."""

    limit_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class Verdict:
    """evict: unload these first, in this order. refusal: why it may not be loaded, or ""."""

    evict: tuple[str, ...] = ()
    refusal: str = ""


def admit(
    name: str, need_bytes: int, room: Room, held: Sequence[Held] = (), can_evict: bool = False
) -> Verdict:
    """May model name, which needs need_bytes, be loaded into room?

    Of held, the least recently used idle ones make room where can_evict, and only if that is
    enough; never name itself, whose old version serves until the new one is there.
    """
    if not room.limit_bytes or need_bytes <= room.free_bytes:
        return Verdict()
    idle = [each for each in held if each.is_idle and each.size_bytes and each.name != name]
    chosen: list[Held] = []
    if can_evict:
        for each in sorted(idle, key=lambda each: each.last_used_ms):
            chosen.append(each)
            if need_bytes <= room.free_bytes + sum(one.size_bytes for one in chosen):
                return Verdict(tuple(one.name for one in chosen))
    said = (
        f"model {name} needs about {need_bytes} bytes, and {room.free_bytes} are free of the "
        f"{room.limit_bytes} this process may use (--memory_limit_bytes, shared by the workers)"
    )
    if can_evict:
        idle_bytes = sum(each.size_bytes for each in chosen)
        return Verdict(
            refusal=f"{said}; idle models hold {idle_bytes} of it, which is not enough: "
            "unload a busy one, or raise the limit"
        )
    return Verdict(refusal=f"{said}; unload a model, or raise the limit")


def estimate(file_bytes: int, instances: int) -> int:
    """What a model of such files may need before anybody has loaded it.

    Each instance is about as large as its files, and so is what the load holds for a moment beside
    it (measured, 95 MiB of weights: onnxruntime 2.1 times the file, joblib 2.0, TorchScript 1.05).
    """
    return file_bytes * (max(1, instances) + 1)


def last_used_ms(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """When each model last answered, whatever the version; 0: never. rows: merged statistics."""
    found: dict[str, int] = {}
    for row in rows:
        found[row["name"]] = max(found.get(row["name"], 0), row[LAST])
    return found
