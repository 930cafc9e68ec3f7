"""When links that found the database away should dial again: soon where they are few, spread where they are many.

A hint bounds a link's next delay to eight times itself (``backoff``), and chance spreads it below: n links dial about
n / (4 * hint) times a second. One hint for every fleet is too long for twenty edges, whose acks then rest for eight seconds more
than the database, and too short for ten thousand.
"""

from __future__ import annotations

from typing import Final

_DIALS_PER_S: Final = 500.0
_LEAST_S, _MOST_S = 0.2, 5.0
# More would not change the hint.
LINKS_MAX: Final = round(4 * _DIALS_PER_S * _MOST_S)
_FORGOTTEN_S: Final = 60.0


def return_hint_s(links: int) -> float:
    """Seconds after which one of so many links may dial again."""
    return min(_MOST_S, max(_LEAST_S, links / (4 * _DIALS_PER_S)))


class RefusedLinks:
    """Those that were refused lately, each once. Times in seconds of one clock; bounded by ``LINKS_MAX``."""

    def __init__(self) -> None:
        self._refused_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._refused_s)

    def add(self, name: str, now_s: float) -> None:
        """This one was refused now."""
        refused_s = self._refused_s
        refused_s.pop(name, None)
        refused_s[name] = now_s
        # In the order of their times: the oldest come first.
        while len(refused_s) > LINKS_MAX or next(iter(refused_s.values())) <= now_s - _FORGOTTEN_S:
            del refused_s[next(iter(refused_s))]
