"""Pages of the log, read and turned into statements: what a projection's range commits one after another.

Nothing here changes the store, so a page may be prepared while another one commits. Page size adapts to faults: after
one, pages of a single event pass the good ones before it and name the bad one; then they double again.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from common.core.batch import EventBatch
from common.core.errors import BackhaulError, ErrorKind
from common.core.ids import SliceRange
from common.journal.interface import Journal, Statement
from common.projection.handlers import Handler
from common.projection.progress import ProjectionSettings

# What a page's own content may be to blame for.
PAGE_FAULTS: Final = frozenset({"projection.handler_failed", "projection.statement_failed"})


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the log up to ``through``, ready to commit.

    ``is_full`` says that there was more than a page. ``heard`` is the journal's prompt from before the page was read:
    everything up to there was in the log then.
    """

    events: EventBatch
    statements: Sequence[Statement]
    through: int
    is_full: bool
    heard: int


class Pages:
    """Prepares the pages of one range."""

    def __init__(self, journal: Journal, handler: Handler, slices: SliceRange, settings: ProjectionSettings) -> None:
        self._journal = journal
        self._handler = handler
        self._slices = slices
        self._settings = settings
        self._max_events = settings.page_max_events

    def narrow(self) -> None:
        """Go on with single events: one of them is at fault."""
        self._max_events = 1

    def widen(self) -> None:
        """A page went well."""
        self._max_events = min(self._settings.page_max_events, 2 * self._max_events)

    async def prepare(self, after: int) -> Page:
        """The page that follows position ``after``; it may hold no events.

        Raises:
            BackhaulError: ``projection.handler_failed``, ``projection.ahead_of_log``, or what the journal raises.
        """
        heard = self._journal.prompt.position
        read = await self._journal.read(
            after,
            max_events=self._max_events,
            max_bytes=self._settings.page_max_bytes,
            slices=self._slices,
        )
        if read.head < after:
            # Waiting would leave out whatever is written there next.
            raise BackhaulError(
                "projection.ahead_of_log",
                f"the offset {after} is beyond the last position {read.head} of the log",
                hint="the log was restored without its projections: restore both from one backup",
                kind=ErrorKind.CONFLICT,
                details={"position": after, "head": read.head},
            )
        statements = self._statements(read.events) if read.events else ()
        return Page(read.events, statements, read.through, read.through < read.head, heard)

    def _statements(self, events: EventBatch) -> Sequence[Statement]:
        try:
            return self._handler.statements(events)
        except Exception as error:
            # Foreign code: whatever it raises concerns this projection only. Its words may quote a payload.
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise BackhaulError(
                "projection.handler_failed",
                f"the handler raised {type(error).__name__} at {place.filename}:{place.lineno}",
                hint="mend the handler; the projection then goes on from this event",
                kind=ErrorKind.INTERNAL,
                details=place_of(events),
            ) from error


def place_of(events: EventBatch) -> dict[str, str | int]:
    """Which events a page with at least one holds, for a log line; names the event when it is the only one."""
    place: dict[str, str | int] = {
        "events": len(events),
        "from_position": events.position[0],
        "to_position": events.position[-1],
    }
    if len(events) == 1:
        place |= {"persistence_id": events.persistence_id[0], "seq_nr": events.seq_nr[0]}
    return place
