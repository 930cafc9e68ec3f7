"""One subscriber's side of the firehose: it waits for what concerns it, and takes it when it is ready for it.

Nothing is done on its behalf while it does not ask, but that one page of the journal may be read ahead: so one that is
never read from costs what it has in hand, and nobody else notices. A stretch is handed over by moving the position with
no await after it: cancelled, it was handed over or it was not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.catch_up import CatchUpRequest, stated_for
from common.core.firehose.demotion import SubscriberTier
from common.core.firehose.fan_out import FanOut
from common.core.firehose.fetch_builder import FetchLimits
from common.core.firehose.fetch_result import FetchResult
from common.core.firehose.ring import LogSource
from common.core.firehose.subscriber_cursor import SubscriberCursor
from common.firehose.catch_ups import CatchUpReaders
from common.firehose.pump import Pump
from common.firehose.wakeups import Deadlines, Waiter


class Hub(Protocol):
    """What a feed needs of its firehose."""

    fan_out: FanOut
    readers: CatchUpReaders
    source: LogSource
    deadlines: Deadlines
    pump: Pump
    catching_up_waiters: dict[Waiter, None]
    """Those who are level with the ring, or beyond it, and not in it yet."""
    log_epoch: int
    """Goes up when the log is another one."""

    @property
    def head(self) -> int:
        """The highest position of the log that is known here."""

    @property
    def look_again_s(self) -> float:
        """How often one that may not join looks at the head."""

    def tell_changes(self) -> None:
        """Log who was demoted and who came back."""


# Consumers have few limits, again and again (rooms are powers of two), and a step is asked for each message.
_limits_of = lru_cache(256)(FetchLimits)


class CursorFeed:
    """``common.journal.feeds.Feed``. With ``through`` it is a scan: from the journal only, up to there."""

    def __init__(self, hub: Hub, cursor: SubscriberCursor, through: Callable[[], int] | None = None) -> None:
        self._hub = hub
        self._through = through
        self._log_epoch = hub.log_epoch
        self._request: CatchUpRequest | None = None
        self._look_at_s = 0.0
        self.cursor = cursor
        self.serve: Callable[[float], bool] | None = None
        self.waiter = Waiter(hub.deadlines)

    @property
    def position(self) -> int:
        """See ``Feed.position``."""
        return self.cursor.position

    @property
    def lag(self) -> int:
        """See ``Feed.lag``."""
        return max(0, self._hub.head - self.cursor.seen(self._hub.fan_out.ring))

    @property
    def standing(self) -> SubscriberTier:
        """See ``Feed.standing``."""
        return self.cursor.record.standing

    def change(self, predicate: EntityPredicate) -> None:
        """See ``Feed.change``."""
        self._forget_request()
        self._hub.fan_out.change(self.cursor, predicate)
        self.waiter.wake()

    def tell(self, now_s: float) -> None:
        """There may be something in the ring for it."""
        if self.serve is None or not self.cursor.is_member or self._log_epoch != self._hub.log_epoch:
            self.waiter.wake()
        elif self.waiter.is_waiting and self.serve(now_s):  # else its task may have something in hand that comes before
            self._hub.pump.add(self)

    def close(self) -> None:
        """Leave nothing behind."""
        self._forget_request()
        self._hub.fan_out.leave(self.cursor)

    def next_nowait(self, *, max_events: int, max_bytes: int, now_s: float) -> FetchResult | None:
        """See ``Feed.next_nowait``."""
        self._check_log()
        return self._take_from_ring(_limits_of(max_events, max_bytes), now_s)

    async def next(self, *, max_events: int, max_bytes: int, at_most_s: float) -> FetchResult | None:
        """See ``Feed.next``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        limits = _limits_of(max_events, max_bytes)
        deadline_s = trio.current_time() + at_most_s
        has_waited = False
        while True:
            self._check_log()
            is_served = self.serve is not None and self.cursor.is_member
            stretch = None
            if not is_served:
                stretch = self._take_from_ring(limits, trio.current_time()) or self._take_from_journal(limits)
            if stretch is None and (self._is_over() or trio.current_time() >= deadline_s):
                stretch = self._withheld()
                has_come = True
            else:
                has_come = stretch is not None
            if has_come:
                # Others get their turn, and a page that is read ahead its start, before this one is encoded and sent.
                # This cannot be cancelled any more: it is handed over already.
                for _ in range(2 if self._request is not None else 0 if has_waited else 1):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return stretch
            await self._wait(limits, deadline_s)
            has_waited = True

    def _take_from_ring(self, limits: FetchLimits, now_s: float) -> FetchResult | None:
        if self._through is not None:
            return None
        fan_out = self._hub.fan_out
        stretch = fan_out.take(self.cursor, limits, now_s)
        if fan_out.changes:
            self._hub.tell_changes()
        if self._request is not None and (stretch is not None or self.cursor.is_member):
            self._forget_request()
        return stretch

    def _take_from_journal(self, limits: FetchLimits) -> FetchResult | None:
        request = self._request
        if request is None or not request.is_settled:
            return None
        if request.error is not None:
            self._request = None
            raise request.error
        found = request.found
        assert found is not None
        cursor, ring = self.cursor, self._hub.fan_out.ring
        stated = stated_for(cursor.predicate, cursor.entity_types, found.deleted, self._hub.source.encode)
        is_news = found.page.through > cursor.seen(ring)
        head = max(found.head, self._hub.head)
        stretch = cursor.take_page(found.page, stated, limits, head, found.unstated_to)
        if cursor.seen(ring) >= found.page.through:
            self._request = None
            if not is_news:
                self._look_at_s = trio.current_time() + self._hub.look_again_s
            elif found.page.through < found.head and not self._is_over():
                self._ask(limits)  # read while this one is being sent
        return stretch

    def _is_over(self) -> bool:
        """Whether a scan has got where it was to go."""
        return self._through is not None and self.cursor.seen(self._hub.fan_out.ring) >= self._through()

    def _withheld(self) -> FetchResult | None:
        return None if self.cursor.has_pending else self.cursor.take_withheld(self._hub.fan_out.ring, self._hub.head)

    def _check_log(self) -> None:
        if self._log_epoch != self._hub.log_epoch:
            raise log_changed()

    # -- waiting -------------------------------------------------------------------------------------------------
    async def _wait(self, limits: FetchLimits, deadline_s: float) -> None:
        """Until something may have changed for this one."""
        hub, cursor = self._hub, self.cursor
        now_s = trio.current_time()
        if self._through is None and hub.fan_out.has_more(cursor, now_s):
            if self.serve is None or not cursor.is_member:  # much was judged, and nothing of it selected
                await trio.lowlevel.checkpoint()
                return
            hub.pump.add(self)
        is_outside = False
        if not cursor.is_member and self._request is None:
            seen = cursor.seen(hub.fan_out.ring)
            if seen < (hub.head if self._through is None else self._through()) and now_s >= self._look_at_s:
                if self._ask(limits).is_settled:
                    await trio.lowlevel.checkpoint()
                    return
            elif self._through is None and cursor.record.may_join(now_s):
                is_outside = True
            else:
                deadline_s = min(deadline_s, max(self._look_at_s, now_s + hub.look_again_s))
        if not is_outside:
            await self.waiter.wait(deadline_s)
            return
        hub.catching_up_waiters[self.waiter] = None
        try:
            await self.waiter.wait(deadline_s)
        finally:
            del hub.catching_up_waiters[self.waiter]

    def _ask(self, limits: FetchLimits) -> CatchUpRequest:
        cursor = self.cursor
        bound = None if self._through is None else self._through()
        seen = cursor.seen(self._hub.fan_out.ring)
        self._request = CatchUpRequest(
            cursor.selection, cursor.is_narrow, seen, bound, limits.max_events, limits.max_bytes, self.waiter.wake
        )
        self._hub.readers.ask(self._request)
        return self._request

    def _forget_request(self) -> None:
        if self._request is not None:
            self._hub.readers.withdraw(self._request)
            self._request = None


def log_changed() -> BackhaulError:
    """The end of every feed when the journal turns out to be another one."""
    return BackhaulError(
        "firehose.log_changed",
        "the journal this subscription was reading has been replaced by another history",
        "subscribe again: the place is then compared with the journal as it is now",
        kind=ErrorKind.UNAVAILABLE,
        retry_after_s=1.0,
    )
