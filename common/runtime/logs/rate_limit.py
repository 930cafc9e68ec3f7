"""Keeps a repeating log line from drowning the rest: once, then a count.

Pure: the caller brings the time. A repeat is the same event with the same key. The first one passes and opens
a window; those within the window are counted; the first one after it passes again and carries the count.
What nobody repeats any more is reported by `due`, so that no count is lost. The table is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suppressed:
    """How many repeats of one event and key went unlogged in the window that is over."""

    event: str
    key: str
    count: int


@dataclass(slots=True)
class _Window:
    opened_s: float
    suppressed: int = 0


class RepeatLimiter:
    """Decides which repeats pass. `window_s` is the least time between two lines of one event and key."""

    def __init__(self, *, window_s: float, keys_max: int = 1000) -> None:
        self._window_s = window_s
        self._keys_max = keys_max
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()  # oldest window first

    def admit(self, event: str, key: str, now_s: float) -> int | None:
        """None when this repeat is to be suppressed; else how many were since the last one that passed."""
        window = self._windows.get((event, key))
        if window is not None and 0 <= now_s - window.opened_s < self._window_s:
            window.suppressed += 1
            return None
        self._windows[event, key] = _Window(now_s)
        self._windows.move_to_end((event, key))
        return 0 if window is None else window.suppressed

    def due(self, now_s: float) -> list[Suppressed]:
        """Forget the windows that are over (or too many), and return the counts that were never reported."""
        reported = []
        while self._windows:
            (event, key), window = next(iter(self._windows.items()))
            is_over = not 0 <= now_s - window.opened_s < self._window_s
            if not is_over and len(self._windows) <= self._keys_max:
                break
            del self._windows[event, key]
            if window.suppressed:
                reported.append(Suppressed(event, key, window.suppressed))
        return reported
