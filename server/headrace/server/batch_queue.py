"""What waits for an instance of one model: groups of requests that may share a batch.

A group is in order of priority level and age: a level counts as so many seconds of waiting
(`ageing_s`), so the order of two entries never changes and no low level starves. All steps cost
O(log n) at most; nothing here reads a clock or decides anything: batching.py does.
"""

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any

LAST = 1 << 20  # the level of what was over its time and may still run (Triton's DELAY)


@dataclass(slots=True, eq=False)
class Entry:
    """One request that waits. Times are on one monotonic clock, in seconds.

    expires_s: it is refused if it waits until then. yields_s: it goes behind all others then.
    due_s: its answer is wanted by then. item, reply: the shell's own. is_part: of a larger request,
    which is counted in its place, and answered in its turn.
    """

    item: Any
    rows: int
    size_bytes: int
    arrived_s: float
    key: Hashable = None
    level: int = 0
    expires_s: float = inf
    yields_s: float = inf
    due_s: float = inf
    reply: Any = None
    is_part: bool = False
    group: "Group | None" = field(default=None, repr=False)


class Group:
    """Entries that may be run together. ready_s, reason: when and why to send it, as decided last.

    waits_from: how many there were when it began to wait though an instance was free; -1: it has
    not.
    """

    __slots__ = ("_dues", "_levels", "_order", "count", "key", "ready_s", "reason", "rows",
                 "size_bytes", "version", "waits_from")  # fmt: skip

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.rows = self.size_bytes = self.count = 0
        self.waits_from = -1
        self.ready_s = inf
        self.reason: Any = None
        self.version = 0
        self._levels: dict[int, OrderedDict[Entry, None]] = {}
        self._dues: list[tuple[float, int, Entry]] = []
        self._order = count()

    def add(self, entry: Entry) -> None:
        entry.group = self
        level = self._levels.get(entry.level)
        if level is None:
            level = self._levels[entry.level] = OrderedDict()
        level[entry] = None
        self.count += 1
        self.rows += entry.rows
        self.size_bytes += entry.size_bytes
        if entry.due_s != inf:
            heapq.heappush(self._dues, (entry.due_s, next(self._order), entry))

    def remove(self, entry: Entry) -> None:
        level = self._levels[entry.level]
        del level[entry]
        if not level:
            del self._levels[entry.level]
        self.count -= 1
        self.rows -= entry.rows
        self.size_bytes -= entry.size_bytes
        entry.group = None
        if len(self._dues) > 2 * self.count + 64:
            self._dues = [each for each in self._dues if each[2].group is self]
            heapq.heapify(self._dues)

    def head(self, ageing_s: float) -> Entry:
        """The first to run."""
        if len(self._levels) == 1:
            (level,) = self._levels.values()
            return next(iter(level))
        heads = (next(iter(level)) for level in self._levels.values())
        return min(heads, key=lambda entry: entry.arrived_s + entry.level * ageing_s)

    def in_order(self, ageing_s: float) -> Iterator[Entry]:
        """All, the first to run first; the group may not change meanwhile."""
        if len(self._levels) == 1:
            (level,) = self._levels.values()
            return iter(level)
        return heapq.merge(
            *self._levels.values(), key=lambda entry: entry.arrived_s + entry.level * ageing_s
        )

    def earliest_due(self) -> Entry | None:
        """The one whose answer is wanted first, if any has a due time."""
        dues = self._dues
        while dues and dues[0][2].group is not self:
            heapq.heappop(dues)
        return dues[0][2] if dues else None


class BatchQueue:
    """Groups by key; the group to be sent first is found without looking at the others."""

    def __init__(self, ageing_s: float = 1.0) -> None:
        self.ageing_s = ageing_s
        self.count = 0
        self.size_bytes = 0
        self.groups: dict[Hashable, Group] = {}
        self.levels: dict[int, int] = {}  # requests per priority level
        self.changed: dict[Group, None] = {}  # ready_s is of before a change
        self._ready: list[tuple[float, int, int, Group]] = []  # by ready_s
        self._limits: list[tuple[float, int, Entry]] = []  # by expires_s or yields_s
        self._order = count()

    def add(self, entry: Entry) -> Group:
        """The group that entry waits in now."""
        group = self.groups.get(entry.key)
        if group is None:
            group = self.groups[entry.key] = Group(entry.key)
        group.add(entry)
        self.changed[group] = None
        self.count += 1
        self.size_bytes += entry.size_bytes
        if not entry.is_part:
            self.count_at(entry.level, 1)
        limit_s = min(entry.expires_s, entry.yields_s)
        if limit_s != inf:
            heapq.heappush(self._limits, (limit_s, next(self._order), entry))
        return group

    def remove(self, entry: Entry) -> None:
        """entry waits no more: it runs, was refused, or its caller has gone."""
        group = entry.group
        assert group is not None
        group.remove(entry)
        self.count -= 1
        self.size_bytes -= entry.size_bytes
        if not entry.is_part:
            self.count_at(entry.level, -1)
        if not group.count:
            del self.groups[group.key]
            self.changed.pop(group, None)
            group.version += 1
        else:
            self.changed[group] = None
        if len(self._limits) > 2 * self.count + 64:
            self._limits = [each for each in self._limits if each[2].group is not None]
            heapq.heapify(self._limits)

    def count_at(self, level: int, more: int) -> None:
        """So many more requests wait at that priority level."""
        self.levels[level] = self.levels.get(level, 0) + more

    def set_ready(self, group: Group, ready_s: float, reason: Any) -> None:
        """What was decided of group."""
        self.changed.pop(group, None)
        if ready_s == group.ready_s and group.version:
            group.reason = reason
            return
        group.version += 1
        group.ready_s, group.reason = ready_s, reason
        heapq.heappush(self._ready, (ready_s, next(self._order), group.version, group))
        if len(self._ready) > 4 * len(self.groups) + 64:
            self._ready = [each for each in self._ready if each[2] == each[3].version]
            heapq.heapify(self._ready)

    def first_ready(self) -> Group | None:
        """The group with the smallest ready_s."""
        ready = self._ready
        while ready and ready[0][2] != ready[0][3].version:
            heapq.heappop(ready)
        return ready[0][3] if ready else None

    def next_limit_s(self) -> float:
        """When the next entry expires or yields; inf: none does."""
        limits = self._limits
        while limits and limits[0][2].group is None:
            heapq.heappop(limits)
        return limits[0][0] if limits else inf

    def pop_limited(self, now_s: float) -> list[Entry]:
        """Those over their time, taken out; what may still run goes behind the others instead."""
        over: list[Entry] = []
        while self.next_limit_s() <= now_s:
            _, _, entry = heapq.heappop(self._limits)
            self.remove(entry)
            if entry.expires_s > now_s:
                entry.level, entry.yields_s = LAST, inf
                self.add(entry)
            else:
                over.append(entry)
        return over

    def take(self, group: Group, rows: int, size_bytes: int = 0) -> list[Entry]:
        """The first of group, at least one, up to rows and size_bytes (0: any); they are out."""
        taken: list[Entry] = []
        total = total_bytes = 0
        while group.count:
            entry = group.head(self.ageing_s)
            total += entry.rows
            total_bytes += entry.size_bytes
            if taken and (total > rows or (size_bytes and total_bytes > size_bytes)):
                break
            taken.append(entry)
            self.remove(entry)
        return taken

    def entries(self) -> Iterator[Entry]:
        """All, group by group."""
        for group in list(self.groups.values()):
            yield from list(group.in_order(self.ageing_s))
