"""Where projections are: read from the store on any node, so that it is true also of those that do not run.

Lag is measured, never counted: the first event behind the offset is looked up, and its age is the lag in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.core.events.ids import SliceRange
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionRow


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a range is behind the log.

    ``events`` is the number of positions up to ``head``, an upper bound when the range is a part of the slices;
    ``seconds`` is how long ago the oldest event was stored that still waits. Both are 0 when none of the range waits.
    """

    head: int
    events: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """One range of one projection, as stored, and its lag."""

    row: ProjectionRow
    lag: Lag


async def measure_lag(journal: Journal, position: int, slices: SliceRange, now_us: int) -> Lag:
    """The lag of an offset. ``now_us`` is the present time in UTC microseconds."""
    while True:
        page = await journal.log.read(position, max_events=1, max_bytes=1, slices=slices)
        if page.events:
            waited_us = max(0, now_us - page.events.stored_us[0])
            return Lag(page.head, page.head - position, waited_us / 1e6)
        if page.through >= page.head:
            return Lag(page.head, 0, 0.0)
        position = page.through


async def projection_status(journal: Journal, now_us: Callable[[], int]) -> list[ProjectionStatus]:
    """All ranges of all projections that ever ran on this journal, by name and slices."""
    rows = sorted(await journal.projections.rows(), key=lambda row: (row.name, row.slices))
    head = (await journal.log.stats()).head_position
    return [
        ProjectionStatus(
            row,
            # At the end of the log there is nothing to look for, in however many ranges.
            Lag(head, 0, 0.0)
            if row.position >= head
            else await measure_lag(journal, row.position, row.slices, now_us()),
        )
        for row in rows
    ]
