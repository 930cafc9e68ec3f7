"""Which of many equal lines of a log are worth writing: the first, then one an interval with a count of the others.

A fault that repeats every second must be seen at once and must not drown the rest of the log.
"""

from __future__ import annotations

KEYS_MAX = 1_000


class Repeats:
    """Remembers when each key was last told; at most ``KEYS_MAX`` keys, the one told longest ago goes first."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._told: dict[object, tuple[float, int]] = {}

    def tell(self, key: object, now_s: float) -> int | None:
        """How many were kept quiet since this key was last told, or None when this one is to be kept quiet too."""
        told_s, quiet = self._told.get(key, (None, 0))
        if told_s is not None and now_s - told_s < self._interval_s:
            self._told[key] = (told_s, quiet + 1)
            return None
        self._told.pop(key, None)
        self._told[key] = (now_s, 0)
        if len(self._told) > KEYS_MAX:
            del self._told[next(iter(self._told))]
        return quiet

    def forget(self, key: object) -> None:
        """The fault is over: its next occurrence is news."""
        self._told.pop(key, None)
