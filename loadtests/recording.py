"""Everything a benchmark has found so far, as results.json holds it. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from loadtests.figures import Figures
from loadtests.goodput import Run


@dataclass(slots=True)
class Results:
    """runs: by scenario's title, then peer. notes: why a peer has none, by the same keys.
    conditions: of each work, when and how it was measured."""

    runs: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    goodput: list[Run] = field(default_factory=list)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, title: str, peer: str, found: Figures) -> None:
        self.runs.setdefault(title, {}).setdefault(peer, []).append(found)

    def note(self, title: str, peer: str, why: str) -> None:
        self.notes.setdefault(title, {})[peer] = why

    def drop(self, title: str, peer: str) -> None:
        """Runs that do not count after all; a note says why."""
        self.runs.get(title, {}).pop(peer, None)

    def forget(self, title: str) -> None:
        """What an earlier run of the same scenario found."""
        self.runs.pop(title, None)
        self.notes.pop(title, None)

    def of(self, title: str, peer: str) -> list[Figures]:
        return self.runs.get(title, {}).get(peer, [])

    def as_dict(self) -> dict[str, Any]:
        return {
            "conditions": self.conditions,
            "runs": {
                title: {peer: [each.as_dict() for each in found] for peer, found in by_peer.items()}
                for title, by_peer in self.runs.items()
            },
            "not_measured": self.notes,
            "goodput": [asdict(each) for each in self.goodput],
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, whole: Mapping[str, Any]) -> Self:
        runs = {
            title: {peer: [Figures(**each) for each in found] for peer, found in by_peer.items()}
            for title, by_peer in whole["runs"].items()
        }
        goodput = [Run(**each) for each in whole["goodput"]]
        return cls(runs, whole["not_measured"], goodput, whole["conditions"], whole["versions"])
