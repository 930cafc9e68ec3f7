"""The age of what a journal holds, by elapsed running time instead of the wall clock.

A journal has one age clock: the microseconds for which a service has run on it. One holder of a lease advances it by what
its monotonic clock measured, so a step of the wall clock, a start in a wrong year and time switched off age nothing.
Each advance notes the head of the log, if it has moved: a *mark* says that everything up to a position was stored when the
clock showed so much. The log is in the order of storing, so "older than" is a position, and no event or key carries an age.

Ages are "at least": what was stored between two marks has the age of the later one. Old marks are thinned, so that their
distance is at most a share of their age and their number grows with the logarithm of the age.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

AGE_LEASE = "age"
"""Name of the lease under which the clock is advanced."""

EVERY_POSITION = 2**62
"""Above every position."""

_SPACING_SHARE = 32
_ADVANCE_SHARE = 10
_ADVANCE_MAX_S = 15.0
_ADVANCE_MIN_S = 0.05


@dataclass(frozen=True, slots=True)
class AgeMark:
    """Events at positions up to ``position`` were stored when the age clock showed ``age_us``."""

    age_us: int
    position: int


@dataclass(frozen=True, slots=True)
class JournalAge:
    """The age clock in microseconds, and marks that rise in both of their numbers."""

    age_us: int = 0
    marks: tuple[AgeMark, ...] = ()

    def older_than(self, age_s: float) -> int:
        """Highest position up to which everything is at least that old; 0 when nothing is known to be."""
        if age_s <= 0:
            return EVERY_POSITION
        before_us = self.age_us - round(age_s * 1e6)
        count = bisect_right(self.marks, before_us, key=lambda mark: mark.age_us)
        return self.marks[count - 1].position if count else 0

    def advanced(self, elapsed_us: int, head: int) -> JournalAge:
        """The clock after so much more running time, with a mark of the head if it has moved.

        ``head`` was read before the time was: what is stored while this is under way is none of it. A journal that had no
        clock yet gets its first mark, also without time: what it holds begins to age now.
        """
        age_us = self.age_us + max(0, elapsed_us)
        marks = [mark for mark in self.marks if mark.position < head]
        if len(marks) == len(self.marks):
            if marks and marks[-1].age_us == age_us:
                marks.pop()  # positions rise at one and the same age: the later one speaks for both
            marks.append(AgeMark(age_us, head))
        else:
            mark = self.marks[len(marks)]
            marks.append(AgeMark(mark.age_us, min(mark.position, head)))
        return JournalAge(age_us, thinned(marks, age_us))

    def changes_from(self, before: JournalAge) -> tuple[list[AgeMark], list[AgeMark]]:
        """Marks that went and marks that came since ``before``."""
        old, new = set(before.marks), set(self.marks)
        return [mark for mark in before.marks if mark not in new], [mark for mark in self.marks if mark not in old]


def thinned(marks: list[AgeMark], age_us: int) -> tuple[AgeMark, ...]:
    """The newest mark, and of the others so many that two neighbours are further apart than a share of their age.

    A mark that goes leaves what it spoke for to the next one, which is later: nothing becomes older than it is.
    """
    kept: list[AgeMark] = []
    for number, mark in enumerate(marks):
        is_needed = (
            number in {0, len(marks) - 1}
            or (marks[number + 1].age_us - kept[-1].age_us) * _SPACING_SHARE > age_us - mark.age_us
        )
        if is_needed:
            kept.append(mark)
    return tuple(kept)


def age_interval_s(kept_s: Iterable[float | None]) -> float:
    """How often the clock is advanced where these are the ages asked for: a share of the shortest, within bounds."""
    asked = [one for one in kept_s if one]
    return max(_ADVANCE_MIN_S, min([_ADVANCE_MAX_S, *(one / _ADVANCE_SHARE for one in asked)]))
