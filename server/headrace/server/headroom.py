"""The memory that is left for models, and what each one needed when it was last loaded.

The shell of admission.py: it reads what the process tree uses and remembers what was measured.
"""

import asyncio
from collections.abc import Callable, Sequence

from headrace.server import memory
from headrace.server.admission import Held, Room, Verdict, admit


class Headroom:
    """limit_bytes: of this process and its children; 0: none. can_evict: --evict_models."""

    def __init__(
        self,
        limit_bytes: int = 0,
        can_evict: bool = False,
        used_bytes: Callable[[], int] = memory.tree_bytes,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.can_evict = can_evict
        self._used_bytes = used_bytes
        self._needed: dict[str, int] = {}

    def remember(self, name: str, needed_bytes: int) -> None:
        """What name needed, now that it is loaded; 0 where it could not be measured."""
        if needed_bytes:
            self._needed[name] = needed_bytes

    async def verdict(
        self, name: str, estimate: Callable[[], int], held: Sequence[Held] = ()
    ) -> Verdict:
        """May name be loaded, and does any of held go first? estimate: asked off the loop."""
        if not self.limit_bytes:
            return Verdict()
        used = await asyncio.to_thread(self._used_bytes)
        need = self._needed.get(name, 0) or await asyncio.to_thread(estimate)
        return admit(name, need, Room(self.limit_bytes, used), held, self.can_evict and bool(held))

    async def give_back(self) -> None:
        """After an unload: what was freed is the kernel's again, where a limit counts it."""
        if self.limit_bytes:
            await asyncio.to_thread(memory.give_back)
