"""How often an HTTP/2 client may do what costs it nothing and us something."""

from headrace.http.frames import Broken, Code

WATCH_S = 10.0  # over which is counted
MAX_RESETS = 20_000  # streams taken back or refused: deadlines pass, too
MAX_CONTROL = 5000  # pings, settings and empty frames


class Abuse:
    """Raises Broken for what is too often."""

    __slots__ = ("_control", "_from_s", "_resets")

    def __init__(self) -> None:
        self._from_s = 0.0
        self._resets = self._control = 0

    def reset(self, now_s: float) -> None:
        self._restart(now_s)
        self._resets += 1
        if self._resets > MAX_RESETS:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many streams are taken back")

    def control(self, now_s: float) -> None:
        self._restart(now_s)
        self._control += 1
        if self._control > MAX_CONTROL:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _restart(self, now_s: float) -> None:
        if now_s - self._from_s > WATCH_S:
            self._from_s = now_s
            self._resets = self._control = 0
