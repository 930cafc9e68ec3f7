"""Pages of the log, read and given to the handler: what a projection's range commits one after another.

Nothing here changes the store, so a page may be prepared while another one commits. Page size adapts to faults: after
one, pages of a single event pass the good ones before it and name the bad one; then they double again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import SliceRange, entity_type_of
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.slice_ranges import Ahead, not_yet_done
from common.core.journal.statement import Statement
from common.journal.feeds import RangeFeed, RangeFeeds
from common.projection import parking
from common.projection.beginning.covered import Covered, cover
from common.projection.beginning.leading import LeadingPage
from common.projection.handler_invoker import NO_MARKS, UNREADABLE, EventFlags, HandlerInvoker, PreparedEffects
from common.projection.parked_entities import ParkedEntities
from common.projection.progress import ProjectionSettings
from common.projection.skips import Skips

# What a page's own content may be to blame for.
PAGE_FAULTS: Final = frozenset(
    {
        "projection.handler_failed",
        "projection.handler_returned",
        "projection.handler_timeout",
        "projection.statement_failed",
        "projection.takes_no_snapshots",
        *UNREADABLE,
    }
)
_SMALL_GROUP: Final = 100
# Of a page of so many events a handler's types are few when they are one in _FEW; they are many again above one in _MANY.
_TELLING: Final = 100
_FEW: Final = 8
_MANY: Final = 4


@dataclass(frozen=True, slots=True)
class ProjectionPage:
    """A stretch of the log up to ``through``, ready to commit.

    ``events`` take effect by ``prepared``, ``parked`` are set aside and ``skipped`` left out by ``parking``. ``is_full``
    says that there was more than a page.
    """

    events: EventBatch
    prepared: PreparedEffects
    parked: EventBatch
    parking: Sequence[Statement]
    skipped: EventBatch
    through: int
    is_full: bool


class Pages:
    """Prepares the pages of one range."""

    def __init__(
        self,
        feeds: RangeFeeds,
        work: HandlerInvoker,
        slices: SliceRange,
        settings: ProjectionSettings,
        parked_entities: ParkedEntities | None,
        skips: Skips,
        covered: Covered,
        now_us: Callable[[], int],
    ) -> None:
        self._feeds = feeds
        self._feed: RangeFeed | None = None
        self._work = work
        self._slices = slices
        self._parked_entities = parked_entities
        self._skips = skips
        self._covered = covered
        self._now_us = now_us
        self._max_bytes = settings.page_max_bytes
        handler = work.handler
        is_small = handler.in_transaction is not None or handler.effect is not None
        largest = min(settings.page_max_events, _SMALL_GROUP) if is_small else settings.page_max_events
        self.group_events = handler.group_events or largest
        self.max_events = self.group_events
        """Of the next page."""
        # Of the handler's types, once they were seen to be few; else the log is read whole, which is quicker an event.
        self._of_types = Selection(entity_types=handler.entity_types)
        self._selection = EVERYTHING

    @contextmanager
    def following(self) -> Iterator[None]:
        """Read the log while the block runs; entered with the lease, since a page holds in its history only."""
        with self._feeds.follow(self._slices) as self._feed:
            yield
        self._feed = None

    @property
    def feed(self) -> RangeFeed:
        """The log as this range reads it."""
        assert self._feed is not None, "not following"
        return self._feed

    def narrow(self) -> None:
        """Go on with single events: one of them is at fault."""
        self.max_events = 1

    def widen(self) -> None:
        """A page went well."""
        self.max_events = min(self.group_events, 2 * self.max_events)

    async def prepare(self, after: int, ahead: Sequence[Ahead] = ()) -> ProjectionPage:
        """The page that follows position ``after``; it may hold no events. What slices are ``ahead`` by is left out.

        Raises:
            BackhaulError: one of ``PAGE_FAULTS``, ``projection.ahead_of_log``, ``projection.parked_full``, or what the
                journal raises.
        """
        read = await self.feed.read(
            after, max_events=self.max_events, max_bytes=self._max_bytes, selection=self._selection
        )
        if read.head < after:
            raise _ahead_of_log(after, read.head)
        if _MANY * len(read.events) > read.through - after:
            self._selection = EVERYTHING
        wanted = await self._covered.without(self._wanted(read.events, ahead))
        return await self._made(wanted, frozenset(), read.through, is_full=read.through < read.head)

    async def prepare_leading(self, page: LeadingPage, position: int) -> ProjectionPage:
        """A page of what leads entities on, for a range that stays at ``position``. Raises ``PAGE_FAULTS``."""
        made = await self._made(page.events, page.replaced, position, is_full=True)
        return replace(made, parking=[cover(self._work.handler.name, page.events), *made.parking])

    async def _made(
        self, events: EventBatch, replaced: frozenset[str], through: int, *, is_full: bool
    ) -> ProjectionPage:
        wanted, skipped = self._skips.split(events)
        events, parked, reasons = self._sorted_out(wanted)
        flags = _flags_of(events, replaced) if replaced else NO_MARKS
        try:
            prepared = await self._work.prepare(events, flags)
        except BackhaulError as error:
            error.details.update(place_of(events))
            raise
        set_aside = self._skips.done(skipped)
        if parked:
            set_aside.append(parking.park(self._work.handler.name, parked, reasons, self._now_us(), replaced))
        return ProjectionPage(events, prepared, parked, set_aside, skipped, through, is_full)

    def _wanted(self, events: EventBatch, ahead: Sequence[Ahead]) -> EventBatch:
        wanted = not_yet_done(ahead, events.persistence_id, events.position)
        types = self._work.handler.entity_types
        if types:
            wanted = [index for index in wanted if entity_type_of(events.persistence_id[index]) in types]
            if len(events) >= _TELLING and _FEW * len(wanted) <= len(events):
                self._selection = self._of_types
        return events if len(wanted) == len(events) else events.select(wanted)

    def _sorted_out(self, events: EventBatch) -> tuple[EventBatch, EventBatch, Sequence[tuple[str, str]]]:
        if self._parked_entities is None or not events:
            return events, EventBatch(), ()
        kept, parked, reasons = self._parked_entities.split(events)
        if not parked:
            return events, EventBatch(), ()
        return events.select(kept), events.select(parked), reasons


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


def _flags_of(events: EventBatch, replaced: frozenset[str]) -> EventFlags:
    names = events.persistence_id
    return EventFlags(replaces=[index for index, name in enumerate(names) if name in replaced])


def _ahead_of_log(after: int, head: int) -> BackhaulError:
    # Waiting would leave out whatever is written there next.
    return BackhaulError(
        "projection.ahead_of_log",
        f"the offset {after} is beyond the last position {head} of the log",
        hint="the log was restored without its projections: restore both from one backup",
        kind=ErrorKind.CONFLICT,
        details={"position": after, "head": head},
    )
