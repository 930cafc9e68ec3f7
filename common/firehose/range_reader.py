"""How the ranges of a node's projections read the log: one reader for all of them, whatever their number.

Near the head a range takes from the ring, which this node's commits feed directly. Behind it, blocks are read in one
turn for all ranges, beside the subscribers' turns, so that neither waits for the other. Both are split by slice once. A
range reads when it is ready for more: nothing is queued for it, so one that fails or is slow costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, Protocol

import trio

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange
from common.core.filters.selection import Selection
from common.core.firehose.catch_up import ReadPlan
from common.core.firehose.range_blocks import RangeBlocks, RangeCursor
from common.core.firehose.range_page import RangePage
from common.core.firehose.ring import LogSource, LogStretch, Ring
from common.firehose.settings import FirehoseSettings
from common.firehose.wakeups import Deadlines, Waiter
from common.journal.feeds import RangeFeed
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage

# However often nothing wakes it, a range that waits for a block asks again.
_ASK_AGAIN_S = 5.0
# So near to the ring, or to the end of the log while it is not followed, a range has it followed.
_NEAR_BLOCKS = 2
# So far behind the log a ring that ranges do not keep up with is of no use: larger steps, block by block, are faster.
_FAR_BLOCKS = 8


class RangeHub(Protocol):
    """What ranges need of their firehose."""

    deadlines: Deadlines
    source: LogSource

    @property
    def ring(self) -> Ring:
        """The newest part of the log."""

    @property
    def is_following(self) -> bool:
        """Whether the ring is kept at the head."""

    @property
    def head(self) -> int:
        """The highest position of the log that is known here."""


class RangeReader:
    """``RangeFeeds`` of one journal; ``run`` reads the blocks. ``wanted`` is called when the ring has to follow."""

    def __init__(self, journal: Journal, hub: RangeHub, settings: FirehoseSettings, wanted: Callable[[], None]) -> None:
        self.journal = journal
        self.hub = hub
        self.page_positions = settings.range_page_blocks * settings.block_events
        self.blocks = RangeBlocks(settings.block_events, settings.read_max_bytes, settings.range_blocks_max_bytes)
        self._near = _NEAR_BLOCKS * settings.block_events
        self._far = _FAR_BLOCKS * settings.block_events
        self._wanted = wanted
        self._is_expected = False
        self._work = trio.lowlevel.ParkingLot()
        self._feeds: dict[RangeCursor, SharedRangeFeed] = {}
        self.waiting: dict[SharedRangeFeed, None] = {}
        """Ranges at the end of the log."""

    @property
    def is_wanted(self) -> bool:
        """Whether a range takes from the ring, or soon will: while all are far behind, what it held would be for nobody."""
        if self._is_expected:
            return True
        if self.hub.is_following and self.hub.head - self.hub.ring.through > self._far:
            return False
        return any(map(self.is_near, self._feeds))

    @property
    def foremost(self) -> int | None:
        """How far the range has come that has come furthest; None while ranges are to come, which begin where they will."""
        return None if self._is_expected else max((cursor.position for cursor in self._feeds), default=None)

    def expect(self, is_expected: bool) -> None:
        """See ``RangeFeeds.expect``."""
        self._is_expected = is_expected
        if is_expected:
            self._wanted()

    def read_already(self, after: int) -> LogPage | None:
        """What follows ``after``, if it was read for ranges and is still kept."""
        block = self.blocks.at(after, self.hub.source.generation)
        if block is None:
            return None
        events = block.events.slice(block.index_after(after), len(block.events))
        return LogPage(events, block.through, max(self.hub.head, block.through))

    def read_for_ring(self, after: int, page: LogPage) -> None:
        """What the ring was extended by: ranges that come to it later, when it is gone from there, find it here."""
        if self._feeds:
            self.blocks.give(LogStretch(self.hub.source, after, page.through, page.events), page.head)

    def is_near(self, cursor: RangeCursor) -> bool:
        """Whether the range is in the ring, or a few blocks behind it or what it is to begin with."""
        begins = self.hub.ring.after if self.hub.is_following else self.hub.head
        return cursor.position >= begins - self._near

    @property
    def feeds(self) -> int:
        """How many do."""
        return len(self._feeds)

    @contextmanager
    def follow(self, slices: SliceRange) -> Iterator[RangeFeed]:
        """See ``RangeFeeds.follow``."""
        feed = SharedRangeFeed(self, RangeCursor(slices, generation_of(self.journal)))
        self._feeds[feed.cursor] = feed
        self.blocks.add(feed.cursor)
        self.moved(feed.cursor)
        try:
            yield feed
        finally:
            self.blocks.remove(feed.cursor)
            del self._feeds[feed.cursor]

    def extended(self, after: int) -> None:
        """The ring has more: wake the ranges that it concerns."""
        if not self.waiting:
            return
        ring = self.hub.ring
        pages = list(ring.pages_after(max(after, ring.after)))
        for feed in list(self.waiting):
            if any(page.of_slices(feed.cursor.slices) for page in pages):
                feed.waiter.wake()

    def restarted(self) -> None:
        """The ring goes on elsewhere: every range at the end of the log looks where that is."""
        for feed in list(self.waiting):
            feed.waiter.wake()

    def forget(self) -> None:
        """The log is another one."""
        self.blocks.forget()
        for feed in self._feeds.values():
            feed.waiter.wake()

    def ask(self, cursor: RangeCursor) -> None:
        """Have what follows the cursor read."""
        self.blocks.ask(cursor)
        self._work.unpark()

    def moved(self, cursor: RangeCursor) -> None:
        """A range has got further: another block may be read ahead, and the ring be of use to it."""
        if self.blocks.may_have_work:
            self._work.unpark()
        if self.is_near(cursor):
            self._wanted()

    async def run(self) -> NoReturn:
        """Read blocks until cancelled."""
        while True:
            ring = self.hub.ring
            self.blocks.ring_after = ring.after if self.hub.is_following else None
            plan = self.blocks.begin()
            if plan is None:
                await self._work.park()
                continue
            source = self.hub.source
            try:
                block, head = await self._read(plan, source)
            except BackhaulError as error:
                self._wake(self.blocks.failed(plan, error))
                continue
            if source is self.hub.source:
                self._wake(self.blocks.answered(plan, block, head))

    def _wake(self, cursors: list[RangeCursor]) -> None:
        for cursor in cursors:
            self._feeds[cursor].waiter.wake()

    async def _read(self, plan: ReadPlan, source: LogSource) -> tuple[LogStretch, int]:
        read = partial(self.journal.log.read, max_bytes=plan.max_bytes, selection=plan.selection)
        page = await read(plan.after, through=plan.through, max_events=plan.max_events)
        through = page.through
        if not page.events and plan.after < through < page.head:
            # Deleted: the next event may be far, so it is looked for instead of going through every block.
            found = await read(through, max_events=1)
            through = found.events.position[0] - 1 if found.events else found.through
        return LogStretch(source, plan.after, through, page.events), page.head


class SharedRangeFeed:
    """``common.journal.feeds.RangeFeed``."""

    def __init__(self, reader: RangeReader, cursor: RangeCursor) -> None:
        self._reader = reader
        self.cursor = cursor
        self.waiter = Waiter(reader.hub.deadlines)

    async def read(self, after: int, *, max_events: int, max_bytes: int, selection: Selection) -> LogPage:
        """See ``RangeFeed.read``. What is at hand takes no turn of the loop: the commit of it, or ``wait_beyond``, does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        reader, cursor = self._reader, self.cursor
        page = RangePage(cursor.slices, after, max_events=max_events, max_bytes=max_bytes)
        while True:
            reader.blocks.move(cursor, page.through, selection)
            reader.moved(cursor)
            stretch = self._at_hand()
            if stretch is not None:
                if not page.take(stretch) or page.through - after >= reader.page_positions:
                    break
            elif self._is_at_end():
                return LogPage(page.events, page.through, page.through)
            elif not reader.hub.source.is_of(cursor.generation):
                if page.has_events:
                    break
                return await self._read_alone(after, max_events, max_bytes, selection)
            elif not await self._block():
                if cursor.head is not None:
                    return LogPage(page.events, page.through, cursor.head)
                if cursor.error is not None:
                    if page.has_events:
                        break  # it comes again with the next page
                    raise cursor.error
        reader.blocks.move(cursor, page.through, selection)
        head = max(page.through, reader.blocks.head, reader.hub.ring.through)
        return LogPage(page.events, page.through, head)

    async def wait_beyond(self, position: int, at_most_s: float) -> None:
        """See ``RangeFeed.wait_beyond``."""
        ring, reader = self._reader.hub.ring, self._reader
        slices = self.cursor.slices
        # What the ring has of another history is not for this range, and after a failover the log may end before the ring does:
        # it would ask again and again until the ring has noticed.
        is_ours = reader.hub.source.is_of(self.cursor.generation)
        if not ring.holds(position):
            is_more = self.cursor.head is None
        else:
            is_more = any(page.of_slices(slices) for page in ring.pages_after(position))
        if is_ours and is_more:
            await trio.lowlevel.checkpoint()
            return
        reader.waiting[self] = None
        try:
            await self.waiter.wait(trio.current_time() + at_most_s)
        finally:
            del reader.waiting[self]

    def _at_hand(self) -> LogStretch | None:
        """What follows, from the ring or a block; only of the history that this range was taken in."""
        ring, position = self._reader.hub.ring, self.cursor.position
        if ring.holds(position) and position < ring.through:
            stretch = next(ring.pages_after(position))
            if stretch.is_of(self.cursor.generation):
                return stretch
        return self._reader.blocks.find(self.cursor)

    def _is_at_end(self) -> bool:
        hub = self._reader.hub
        is_level = hub.is_following and self.cursor.position == hub.ring.through
        return is_level and hub.source.is_of(self.cursor.generation)

    async def _block(self) -> bool:
        """Wait for a block; False when there is none: the log ends here, or it cannot be read."""
        reader, cursor = self._reader, self.cursor
        reader.ask(cursor)
        try:
            await self.waiter.wait(trio.current_time() + _ASK_AGAIN_S)
        finally:
            reader.blocks.withdraw(cursor)
        return cursor.head is None and cursor.error is None

    async def _read_alone(self, after: int, max_events: int, max_bytes: int, selection: Selection) -> LogPage:
        """While the shared reader is in another history than this range; its commit decides which one holds."""
        return await self._reader.journal.log.read(
            after, max_events=max_events, max_bytes=max_bytes, slices=self.cursor.slices, selection=selection
        )


def generation_of(journal: Journal) -> str:
    """The newest generation as this process knows it."""
    generations = journal.log.history.generations
    return generations[-1].id if generations else ""
