"""Times as texts, and when a task that runs once a day is due.

Times are UTC microseconds, times of day microseconds since midnight UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


def time_of_day_us(text: str) -> int | None:
    """``HH:MM`` or ``HH:MM:SS`` as microseconds since midnight; None when it is no such time."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000


def time_us(text: object) -> int | None:
    """UTC microseconds of an RFC 3339 time with a zone; None if it is none."""
    try:
        time = datetime.fromisoformat(text)  # type: ignore[arg-type]
        if time.tzinfo is None:
            return None
        delta = time - _EPOCH
    except (TypeError, ValueError):
        return None
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def next_due_us(at_us: int, done_us: int, now_us: int) -> int:
    """The first time after the one that was last done.

    A time done that lies more than a day ahead is of a clock that has stepped back since: it is not respected.
    """
    after = min(done_us, now_us) if done_us > now_us + DAY_US else done_us
    return last_due_us(at_us, after) + DAY_US


def last_due_us(at_us: int, now_us: int) -> int:
    """The last time at or before now: of several that were missed, the one that is made up for."""
    return now_us - (now_us - at_us) % DAY_US
