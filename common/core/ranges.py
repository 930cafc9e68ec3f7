"""How a projection's work is divided: ranges of slices, each with its own offset, epoch and lease.

An offset belongs to the range it was stored for. To go on with other ranges would repeat or leave out whatever lies
between their offsets, so the store asks here, in the transaction that would create a range, and refuses.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.core.errors import BackhaulError, ErrorKind
from common.core.ids import SliceRange


def check_ranges(name: str, wanted: SliceRange, stored: Iterable[SliceRange]) -> None:
    """Refuse a range that cuts across one of those which projection ``name`` has offsets for.

    Raises:
        BackhaulError: ``projection.ranges_changed``.
    """
    known = sorted(stored)
    for other in known:
        if other != wanted and other.first <= wanted.last and wanted.first <= other.last:
            raise BackhaulError(
                "projection.ranges_changed",
                f"projection {name} is to run on slices {wanted}, but its offsets are kept for {len(known)} ranges, "
                f"{other} among them",
                hint="set the number of ranges back to what it was, on every node",
                kind=ErrorKind.CONFLICT,
                details={"projection": name, "slices": str(wanted), "stored": str(other), "ranges": len(known)},
            )
