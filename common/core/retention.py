"""What an edge's journal may delete (DESIGN.md 8).

Deletable = acknowledged by the cloud, below every local projection's offset, and older than the least time kept (so that
a cloud that was restored from a backup can be refilled). At the byte cap an edge may be told to drop the oldest events
of plain types instead of refusing new ones: that, and only that, removes what was not acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable

# Between these parts of the cap old acknowledged events go early, and dropping begins and ends.
TIGHT_SHARE = 0.80
FULL_SHARE = 0.92
RELIEVED_SHARE = 0.85


def deletable_through(acked_position: int | None, projection_positions: Iterable[int]) -> int:
    """Highest position that is no longer needed; 0 while it is not known what the cloud has (``acked_position`` None)."""
    if acked_position is None:
        return 0
    return min([acked_position, *projection_positions])


def stored_before(now_us: int, keep_s: float, used_bytes: int, cap_bytes: int | None) -> int:
    """Events stored before this time (UTC microseconds) are old enough to go; when room is tight, all are."""
    if cap_bytes and used_bytes >= cap_bytes * TIGHT_SHARE:
        return 2**62
    return now_us - int(keep_s * 1_000_000)


def must_drop(used_bytes: int, cap_bytes: int | None, dropping: bool) -> bool:
    """Whether the oldest plain events must make room now; goes on until there is some to spare."""
    if not cap_bytes:
        return False
    return used_bytes >= cap_bytes * (RELIEVED_SHARE if dropping else FULL_SHARE)
