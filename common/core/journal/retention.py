"""What an edge's journal may delete.

Deletable = acknowledged by the cloud, below every local projection's offset, and older than the least time kept (so that
a cloud that was restored from a backup can be refilled). At the byte cap an edge may be set to drop the oldest events
of plain types instead of refusing new ones: that, and only that, removes what was not acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable

# Between these parts of the cap old acknowledged events go early, and dropping begins and ends.
TIGHT_SHARE = 0.80
FULL_SHARE = 0.92
RELIEVED_SHARE = 0.85
# Of the cap: a hundredth of it more may go than has to.
_LEAST_DROP = 100
# An append may take its events' bytes twice: log and indexes are split pages.
_ROOM_FACTOR = 2


def deletable_through(acked_position: int | None, projection_positions: Iterable[int]) -> int:
    """Highest position that is no longer needed; 0 while it is not known what the cloud has (``acked_position`` None)."""
    if acked_position is None:
        return 0
    return min([acked_position, *projection_positions])


def least_age_s(keep_s: float, used_bytes: int, cap_bytes: int | None) -> float:
    """Age that acknowledged events reach before they go; when room is tight, none."""
    return 0.0 if cap_bytes and used_bytes >= cap_bytes * TIGHT_SHARE else keep_s


def must_drop(used_bytes: int, cap_bytes: int | None, dropping: bool) -> bool:
    """Whether the oldest plain events must make room now; goes on until there is some to spare."""
    if not cap_bytes:
        return False
    return used_bytes >= cap_bytes * (RELIEVED_SHARE if dropping else FULL_SHARE)


def drop_bytes(used_bytes: int, cap_bytes: int) -> int:
    """How much to drop in one go: as much as there is too much, and not so little that it takes many goes."""
    return max(round(used_bytes - cap_bytes * RELIEVED_SHARE), cap_bytes // _LEAST_DROP, 1)


def room_for(refused_bytes: int, cap_bytes: int) -> int:
    """How much to drop for a request that had no room; 0 for one for which half of the cap would not be enough."""
    room = _ROOM_FACTOR * refused_bytes
    return room if room <= cap_bytes // 2 else 0


STRETCH_POSITIONS = 2_000


class LogSizes:
    """What each stretch of a long log weighs, so that a limit in bytes becomes a position.

    Its user measures: ``unmeasured`` says what, ``measured`` takes the answer. The stretch at the head is never
    done; those that something was deleted from are measured anew.
    """

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self._newest = 0

    @property
    def total(self) -> int:
        """Bytes of all that was measured."""
        return sum(self._bytes.values())

    def unmeasured(self, first: int, head: int) -> list[tuple[int, int]]:
        """Stretches (after, through) of the log from position ``first`` to ``head`` whose weight is not known."""
        oldest, newest = max(first - 1, 0) // STRETCH_POSITIONS, max(head - 1, 0) // STRETCH_POSITIONS
        # What was the newest stretch then has grown since, whether it still is or not.
        for gone in [index for index in self._bytes if index < oldest or index >= self._newest]:
            del self._bytes[gone]
        self._newest = newest
        wanted = [index for index in range(oldest, newest + 1) if index not in self._bytes]
        return [(index * STRETCH_POSITIONS, (index + 1) * STRETCH_POSITIONS) for index in wanted]

    def measured(self, after: int, size: int) -> None:
        """The stretch that begins after this position weighs so much."""
        self._bytes[after // STRETCH_POSITIONS] = size

    def changed(self, after: int, through: int) -> None:
        """Something was deleted in there."""
        for index in range(after // STRETCH_POSITIONS, max(through - 1, 0) // STRETCH_POSITIONS + 1):
            self._bytes.pop(index, None)

    def floor(self, max_bytes: int) -> int:
        """Position up to which events must go so that the rest weighs at most so much; the newest stretch never goes."""
        kept = 0
        for count, index in enumerate(sorted(self._bytes, reverse=True)):
            kept += self._bytes[index]
            if count and kept > max_bytes:
                return (index + 1) * STRETCH_POSITIONS
        return 0
