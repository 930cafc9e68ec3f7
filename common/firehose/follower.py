"""The one reader that keeps a node's ring at the head of the log.

What this process commits comes to it directly and needs no read, once the ring has what lies before it. While only ranges
of projections take from the ring, the commit's task extends it in its own turn and the follower sleeps on; consumers, of
whom there may be thousands, are no work for the commit's task. Everything else is read: when the journal's prompt knows of
more (other nodes' commits, heard of by ``LISTEN``), and after a while without a sign, so that a log of which nothing is
heard is followed too. What it takes waits for nobody.

While only ranges of projections take from the ring, it is not read further than they come: a ring that ran ahead of them
would be read once for nobody, and then again, block by block, for those that fell out of it. And what was read for them is
not read again for the ring, nor the other way round.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.firehose.ring import Ring
from common.core.flow.backoff import Backoff
from common.firehose.settings import FirehoseSettings
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage

_log = structlog.get_logger()

# However often others look at the end of the log, this one does too.
_LOOK_EVERY_S = 10.0
# Commits that wait for the ring; when it is full they are read instead.
_OFFERED_MAX_EVENTS = 20_000
_OFFERED_MAX_BYTES = 16 * 1024 * 1024
# To split more than this by slice would keep the commit's callers from their answers.
_AT_ONCE_MAX_EVENTS = 500
# Reading so many events costs the database about as much as a statement does.
_WORTH_A_READ = 100


class Follower:
    """Follows the log while ``is_wanted``; ``extend`` and ``restart`` change the ring, ``changed`` says it is another log.

    ``may_extend_at_once`` says whether extending the ring is little enough for the task of a commit.

    ``paced_by`` is the position of the foremost of those that take from the ring, or None where the head is wanted;
    ``read_already`` has what others have read of the log after a position, ``on_read`` is given what was read here.
    """

    def __init__(
        self,
        journal: Journal,
        ring: Ring,
        settings: FirehoseSettings,
        *,
        is_wanted: Callable[[], bool],
        may_extend_at_once: Callable[[], bool],
        paced_by: Callable[[], int | None],
        read_already: Callable[[int], LogPage | None],
        on_read: Callable[[int, LogPage], None],
        extend: Callable[[EventBatch], None],
        restart: Callable[[int], None],
        changed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._ring = ring
        self._settings = settings
        self._is_wanted = is_wanted
        self._may_extend_at_once = may_extend_at_once
        self._paced_by = paced_by
        self._read_already = read_already
        self._on_read = on_read
        self._extend = extend
        self._restart = restart
        self._changed = changed
        self._offered: deque[EventBatch] = deque()
        self._offered_events = 0
        self._offered_bytes = 0
        self._wanted = trio.lowlevel.ParkingLot()
        self._history = _identity(journal)
        self._heard = 0
        """The log was read after the signal had named this position."""
        self._is_fresh = True
        self.is_following = False
        """Whether the ring is kept at the head now."""
        self.reads = 0
        self.read_events = 0
        self.fed_events = 0

    def wake(self) -> None:
        """It is wanted now, or those that pace it have come further."""
        self._wanted.unpark_all()

    async def run(self) -> NoReturn:
        """Follow whenever it is wanted, until cancelled. While the journal cannot be read, try again and again."""
        backoff = Backoff(self._settings.retry_min_s, self._settings.retry_max_s)
        failing_since_s: float | None = None

        def is_well() -> None:
            nonlocal failing_since_s
            backoff.progressed()
            if failing_since_s is not None:
                _log.info(
                    "firehose.resumed",
                    position=self._ring.through,
                    after_s=round(trio.current_time() - failing_since_s, 1),
                )
                failing_since_s = None

        while True:
            while not self._is_wanted():
                await self._wanted.park()
            try:
                await self._follow(is_well)
            except BackhaulError as error:
                self.is_following = False
                if failing_since_s is None:
                    failing_since_s = trio.current_time()
                    _log.warning("firehose.stalled", code=error.code, reason=error.message, position=self._ring.through)
                await trio.sleep(backoff.next_delay(0.5, at_least_s=error.retry_after_s or 0.0))

    async def _follow(self, is_well: Callable[[], None]) -> None:
        ring, head_signal = self._ring, self._journal.log.head_signal
        with self._journal.log.feed.listen(self._offer):
            self._forget_offered()
            self._heard = head_signal.position
            page = await self._read(self._known(), max_events=1)
            if self._is_fresh or page.head - ring.through > self._settings.ring_max_events:
                self._restart(page.head)
                self._is_fresh = False
            is_behind = page.head > ring.through
            self.is_following = True
            while self._is_wanted():
                is_well()
                self._take_offered()
                is_behind = is_behind or self._is_another_log()
                if not is_behind and head_signal.position <= self._known():
                    has_sign = await self._wait()
                    self._take_offered()
                    if has_sign and head_signal.position <= ring.through and not self._is_another_log():
                        continue  # it came directly
                if not await self._is_due():
                    is_behind = True
                    continue
                self._heard, after = head_signal.position, ring.through
                found = None if self._is_another_log() else self._read_already(after)
                page = found or await self._read(
                    after, max_events=self._settings.read_max_events, through=self._gap(after)
                )
                if found is None:
                    self._on_read(after, page)
                self._take_page(page)
                is_behind = ring.through < page.head
                await trio.lowlevel.checkpoint()
        self.is_following = False
        self._restart(ring.through)
        self._is_fresh = True

    async def _is_due(self) -> bool:
        """Whether the next page is to be read now; if not, a while has passed, or they have come further.

        What they have read for themselves the ring goes on behind.
        """
        foremost = self._paced_by()
        if foremost is None or self._is_another_log():
            return True
        if foremost > self._ring.through:
            self._restart(foremost)
        if foremost >= self._ring.through - self._settings.read_max_events:
            return True
        with trio.move_on_after(self._settings.poll_s):
            await self._wanted.park()
        return False

    def _known(self) -> int:
        """A higher position is news here."""
        return max(self._heard, self._ring.through)

    async def _wait(self) -> bool:
        """Wait for a sign; False when there was none and it is time to look.

        It is not while the node's renewals, which are as frequent, have seen that the log ends where it did. A commit that
        has extended the ring is a sign, too, but nobody is woken for it.
        """
        head_signal, poll_s = self._journal.log.head_signal, self._settings.poll_s
        until_s = trio.current_time() + _LOOK_EVERY_S
        is_time = False
        while not is_time:
            looks, fed_events = head_signal.looks, self.fed_events
            # A renewal that is a little late is not missed yet.
            await head_signal.wait_news(self._known, 2 * poll_s if looks else poll_s)
            if head_signal.position > self._known() or self.fed_events != fed_events:
                return True
            is_time = head_signal.looks == looks or trio.current_time() >= until_s
        return False

    def _gap(self, after: int) -> int | None:
        """Where to stop reading: before what came directly, if that is so much that one more read costs less."""
        if not self._offered or self._offered[0].position[0] - 1 <= after:
            return None
        before = through = self._offered[0].position[0] - 1
        for events in self._offered:
            if events.position[0] > through + 1:
                break
            through = events.position[-1]
        return before if through - before >= _WORTH_A_READ else None

    async def _read(self, after: int, *, max_events: int, through: int | None = None) -> LogPage:
        # A commit may extend the ring while a page is on its way that ends before it.
        had, found = self._ring.through, self._history
        page = await self._page(after, max_events, through)
        while (now := _identity(self._journal)) != found:
            found = now
            page = await self._page(after, max_events, None)  # the one before may still be of the history before
        if self._is_another_log() or page.head < had:
            self._another_log(page.head)
        return page

    async def _page(self, after: int, max_events: int, through: int | None) -> LogPage:
        self.reads += 1
        page = await self._journal.log.read(
            after, max_events=max_events, max_bytes=self._settings.read_max_bytes, through=through
        )
        self.read_events += len(page.events)
        return page

    def _take_page(self, page: LogPage) -> None:
        ring = self._ring
        events = page.events
        if events and events.position[0] <= ring.through:  # some came directly while this was being read
            events = events.slice(_index_after(events, ring.through), len(events))
        if page.through <= ring.through:
            return
        if len(events) < page.through - ring.through:
            # Deleted before it was followed: feeds that need it read the journal.
            self._restart(page.through)
        else:
            self._extend(events)

    # -- directly ------------------------------------------------------------------------------------------------
    def _offer(self, events: EventBatch) -> None:
        """Called in the commit's task: taken at once where that is little work, else only kept here."""
        weight = events.byte_size()
        if (
            self._offered_events + len(events) > _OFFERED_MAX_EVENTS
            or self._offered_bytes + weight > _OFFERED_MAX_BYTES
        ):
            return
        self._offered.append(events)
        self._offered_events += len(events)
        self._offered_bytes += weight
        if self.is_following and len(events) <= _AT_ONCE_MAX_EVENTS and self._may_extend_at_once():
            self._take_offered()

    def _take_offered(self) -> None:
        if self._is_another_log():  # they do not follow what the ring has, whatever their positions
            self._forget_offered()
        ring = self._ring
        while self._offered:
            events = self._offered[0]
            if events.position[0] > ring.through + 1:
                break  # another's commit lies between: that is read
            self._offered.popleft()
            self._offered_events -= len(events)
            self._offered_bytes -= events.byte_size()
            if events.position[-1] <= ring.through:
                continue
            if events.position[0] <= ring.through:
                events = events.slice(_index_after(events, ring.through), len(events))
            self.fed_events += len(events)
            self._extend(events)

    def _forget_offered(self) -> None:
        self._offered.clear()
        self._offered_events = self._offered_bytes = 0

    def _is_another_log(self) -> bool:
        return _identity(self._journal) != self._history

    def _another_log(self, head: int) -> None:
        _log.error("firehose.log_changed", position=self._ring.through, head=head)
        self._history = _identity(self._journal)
        self._heard = head  # what was heard of the log before is no measure of what is news now
        self._forget_offered()
        self._changed()
        self._restart(head)


def _identity(journal: Journal) -> tuple[object, ...]:
    history = journal.log.history
    return history.journal_id, history.generations


def _index_after(events: EventBatch, position: int) -> int:
    return bisect_right(events.position, position)
