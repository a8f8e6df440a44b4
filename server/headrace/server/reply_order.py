"""When the answers of a batcher leave: at once, or in the order their requests came.

The second is Triton's `preserve_ordering`. Only the event loop calls this.
"""

from collections import deque
from typing import Any

from headrace.server.batch_queue import Entry


class ReplyOrder:
    """Settles the replies of entries. keeps_order: an answer waits for those before it."""

    def __init__(self, keeps_order: bool) -> None:
        self._keeps_order = keeps_order
        self._in_turn: deque[Entry] = deque()  # as they came
        self._answered: dict[Entry, Any] = {}  # what waits for its turn

    def enter(self, entry: Entry) -> None:
        """entry has come; its reply is settled later."""
        if self._keeps_order and not entry.is_part:
            self._in_turn.append(entry)

    def answer(self, entry: Entry, result: Any) -> None:
        """result, or an exception, is what entry gets."""
        if self._keeps_order and not entry.is_part:
            self._answered[entry] = result
            self.release()
        else:
            _resolve(entry, result)

    def release(self) -> None:
        """Let go what can leave: an entry whose caller has gone holds up nobody."""
        while self._in_turn:
            entry = self._in_turn[0]
            if not entry.reply.done() and entry not in self._answered:
                return
            self._in_turn.popleft()
            _resolve(entry, self._answered.pop(entry, None))


def _resolve(entry: Entry, result: Any) -> None:
    if entry.reply.done():
        return
    if isinstance(result, BaseException):
        entry.reply.set_exception(result)
    else:
        entry.reply.set_result(result)
