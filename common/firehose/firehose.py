"""The firehose of a node: one reader of the journal, any number of subscribers, none of which can hold up another.

Joins the parts: the follower keeps the ring at the head; the ring wakes whom an event concerns; readers serve those
behind it from the journal, a few at a time; each subscriber takes what it is given in its own task and its own time.
While nobody subscribes nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NoReturn

import structlog
import trio

from common.core.events.batch import EventBatch
from common.core.events.ids import SliceRange
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.demotion import DemotionHistory, SubscriberTier
from common.core.firehose.fan_out import FanOut
from common.core.firehose.fetch_result import Encode
from common.core.firehose.ring import LogSource, Ring
from common.core.firehose.subscriber_cursor import SubscriberCursor
from common.firehose.catch_ups import CatchUpReaders
from common.firehose.feed import CursorFeed
from common.firehose.follower import Follower
from common.firehose.histories import EntityHistories
from common.firehose.pump import Pump
from common.firehose.range_reader import RangeReader, generation_of
from common.firehose.settings import FirehoseSettings
from common.firehose.turns import Turns
from common.firehose.wakeups import Deadlines, Waiter
from common.journal.entity_history import EntityHistory, HistoryRequest
from common.journal.feeds import Feed, RangeFeed
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FirehoseReport:
    """What the firehose has and does, for summaries and metrics. Counts since the start but for the first lines."""

    subscribers: int
    members: int
    """Served from the ring."""
    waiting: int
    """Wait for a page of the journal."""
    ring_after: int
    ring_through: int
    ring_lag: int
    """Positions that are known to be in the log and not in the ring."""
    ring_events: int
    ring_bytes: int
    reads: int
    """Of the journal, by the one who follows it."""
    read_events: int
    fed_events: int
    """That came directly from a commit of this process."""
    catch_up_reads: int
    catch_up_events: int
    shared_pages: int
    history_reads: int
    """Of single entities, for those that had to be sent again."""
    shared_histories: int
    """Given to consumers, that another one had read."""
    evaluations: int
    demotions: int
    ranges: int
    """Of projections, that read here now."""
    ranges_waiting: int
    """Of these, that wait for a block of the log."""
    range_reads: int
    range_events: int


class Firehose:
    """``Feeds`` and ``RangeFeeds`` of one journal (``common.journal.feeds``). ``run`` is started by its owner."""

    def __init__(self, journal: Journal, encode: Encode, settings: FirehoseSettings | None = None) -> None:
        self._journal = journal
        self._encode = encode
        self._settings = settings or FirehoseSettings()
        self.source = self._source()
        ring = Ring(self.source, journal.log.history.head_position, max_events=1, max_bytes=1)
        self.fan_out = FanOut(ring)
        self.readers = CatchUpReaders(journal, lambda: self.source, self._settings)
        self.histories = EntityHistories(
            journal,
            lambda: self.ring.through,
            lambda: (self.log_epoch, generation_of(journal)),
            max_bytes=self._settings.histories_max_bytes,
            keep_s=self._settings.histories_keep_s,
            ahead_max_bytes=self._settings.histories_ahead_max_bytes,
            short_max_events=self._settings.short_history_max_events,
        )
        self.deadlines = Deadlines()
        self.pump = Pump()
        self.turns = Turns()
        self.catching_up_waiters: dict[Waiter, None] = {}
        self.log_epoch = 1
        self._feeds: dict[SubscriberCursor, CursorFeed] = {}
        self._follower = Follower(
            journal,
            ring,
            self._settings,
            is_wanted=lambda: self.is_wanted,
            may_extend_at_once=lambda: not self._feeds,
            paced_by=lambda: None if self._feeds else self.ranges.foremost,
            read_already=self._read_already,
            on_read=self._read_for_ring,
            extend=self._extend,
            restart=self._restart,
            changed=self._change_log,
        )
        self.ranges = RangeReader(journal, self, self._settings, self._follower.wake)
        self._limit_ring()

    async def run(self) -> NoReturn:
        """Follow the journal and serve those behind, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follower.run)
            nursery.start_soon(self.readers.run)
            nursery.start_soon(self.ranges.run)
            nursery.start_soon(self.deadlines.run)
            nursery.start_soon(self.pump.run)
            nursery.start_soon(self.turns.run)
            nursery.start_soon(self._summarise)
            while True:
                await trio.sleep(self._settings.sweep_s)
                self.fan_out.sweep(trio.current_time())
                self.histories.forget_old(trio.current_time())
                self.tell_changes()

    @contextmanager
    def subscribe(
        self,
        name: str,
        predicate: EntityPredicate,
        entity_types: frozenset[str],
        after: int,
        *,
        states_past: bool = True,
    ) -> Iterator[Feed]:
        """See ``Feeds.subscribe``. ``name`` is for the log."""
        feed = CursorFeed(self, self._cursor(name, predicate, entity_types, after, states_past))
        self._feeds[feed.cursor] = feed
        self._limit_ring()
        self._follower.wake()
        try:
            yield feed
        finally:
            del self._feeds[feed.cursor]
            self._limit_ring()
            self.pump.forget(feed)
            feed.close()

    @contextmanager
    def scan(
        self,
        name: str,
        predicate: EntityPredicate,
        entity_types: frozenset[str],
        after: int,
        through: Callable[[], int],
        *,
        states_past: bool = True,
    ) -> Iterator[Feed]:
        """See ``Feeds.scan``."""
        feed = CursorFeed(self, self._cursor(name, predicate, entity_types, after, states_past), through)
        try:
            yield feed
        finally:
            feed.close()

    async def history(self, asked: HistoryRequest, position: int) -> EntityHistory:
        """See ``Feeds.history``."""
        return await self.histories.read(asked, position)

    async def read_ahead(self, asked: Sequence[HistoryRequest], position: int, *, soon: int) -> None:
        """See ``Feeds.read_ahead``."""
        await self.histories.read_ahead(asked, position, soon=soon)

    async def turn(self) -> None:
        """See ``Feeds.turn``."""
        await self.turns.take()

    def expect(self, is_expected: bool) -> None:
        """See ``RangeFeeds.expect``."""
        self.ranges.expect(is_expected)

    def follow(self, slices: SliceRange) -> AbstractContextManager[RangeFeed]:
        """See ``RangeFeeds.follow``."""
        return self.ranges.follow(slices)

    def _cursor(
        self, name: str, predicate: EntityPredicate, entity_types: frozenset[str], after: int, states_past: bool
    ) -> SubscriberCursor:
        record = DemotionHistory(self._settings.standing)
        pending_max = self._settings.pending_max
        return SubscriberCursor(name, predicate, entity_types, after, record, pending_max, states_past=states_past)

    def report(self) -> FirehoseReport:
        """How it is now."""
        ring, counts = self.fan_out.ring, self.readers.queue.counts
        return FirehoseReport(
            subscribers=len(self._feeds),
            members=self.fan_out.members,
            waiting=self.readers.queue.waiting,
            ring_after=ring.after,
            ring_through=ring.through,
            ring_lag=self.head - ring.through if self.is_wanted else 0,
            ring_events=ring.events,
            ring_bytes=ring.bytes,
            reads=self._follower.reads,
            read_events=self._follower.read_events,
            fed_events=self._follower.fed_events,
            catch_up_reads=counts.reads,
            catch_up_events=counts.events,
            shared_pages=counts.shared,
            history_reads=self.histories.reads,
            shared_histories=self.histories.shared,
            evaluations=self.fan_out.evaluations,
            demotions=self.fan_out.demotions,
            ranges=self.ranges.feeds,
            ranges_waiting=self.ranges.blocks.waiting,
            range_reads=self.ranges.blocks.reads,
            range_events=self.ranges.blocks.events,
        )

    # -- for its feeds -------------------------------------------------------------------------------------------
    @property
    def head(self) -> int:
        """The highest position of the log that is known here."""
        return max(self._journal.log.head_signal.position, self.fan_out.ring.through)

    @property
    def ring(self) -> Ring:
        """The newest part of the log."""
        return self.fan_out.ring

    @property
    def is_wanted(self) -> bool:
        """Whether the log is to be followed."""
        return bool(self._feeds) or self.ranges.is_wanted

    @property
    def is_following(self) -> bool:
        """Whether the ring is kept at the head."""
        return self._follower.is_following

    @property
    def look_again_s(self) -> float:
        """How often one that may not join looks at the head."""
        return self._settings.look_again_s

    def tell_changes(self) -> None:
        """Log who was demoted and who came back."""
        if not self.fan_out.changes:
            return
        changes, self.fan_out.changes = self.fan_out.changes, []
        ring = self.fan_out.ring
        for cursor in changes:
            record = cursor.record
            if record.standing is SubscriberTier.DEMOTED:
                _log.warning(
                    "consumer.demoted",
                    consumer=cursor.name,
                    position=cursor.position,
                    head=self.head,
                    ring_after=ring.after,
                    demotions=record.demotions,
                    stays_s=record.stays_s,
                    repeat_key=cursor.name,
                )
            else:
                _log.info(
                    "consumer.rejoined",
                    consumer=cursor.name,
                    position=cursor.position,
                    head=self.head,
                    demotions=record.demotions,
                    repeat_key=cursor.name,
                )

    # -- for its parts -------------------------------------------------------------------------------------------
    def _source(self) -> LogSource:
        return LogSource(self._journal.log.place_key, self._encode, generation_of(self._journal))

    def _limit_ring(self) -> None:
        """Consumers may be a while behind; ranges take at once, or are far behind."""
        most, settings = (self._settings.ring_max_events, self._settings.ring_max_bytes), self._settings
        if not self._feeds:
            most = min(most[0], settings.ranges_ring_max_events), min(most[1], settings.ranges_ring_max_bytes)
        self.ring.limit(*most)

    def _extend(self, events: EventBatch) -> None:
        after = self.ring.through
        self.histories.extended(events.persistence_id)
        news = self.fan_out.extend(events, trio.current_time())
        for entity_types in news.entity_types:
            for cursor in self.fan_out.plain_members(entity_types):
                self.pump.add(self._feeds[cursor])
        for cursor in news.selecting:
            self.pump.add(self._feeds[cursor])
        for waiter in self.catching_up_waiters:
            waiter.wake()
        self.ranges.extended(after)
        self.tell_changes()

    def _read_already(self, after: int) -> LogPage | None:
        return self.ranges.read_already(after)

    def _read_for_ring(self, after: int, page: LogPage) -> None:
        self.ranges.read_for_ring(after, page)

    def _restart(self, after: int) -> None:
        self.fan_out.restart(after)
        self.histories.forget_all()
        self.ranges.restarted()
        self._wake_all()

    def _change_log(self) -> None:
        self.log_epoch += 1
        self.source = self.ring.source = self._source()
        self.readers.queue.forget_pages()
        self.histories.forget_all()
        self.ranges.forget()
        self._wake_all()

    def _wake_all(self) -> None:
        for feed in self._feeds.values():
            feed.waiter.wake()

    async def _summarise(self) -> NoReturn:
        while True:
            await trio.sleep(self._settings.summary_s)
            if not self._feeds:
                continue
            now = self.report()
            _log.info(
                "firehose.summary",
                subscribers=now.subscribers,
                members=now.members,
                waiting=now.waiting,
                ring_after=now.ring_after,
                ring_through=now.ring_through,
                ring_lag=now.ring_lag,
                ring_bytes=now.ring_bytes,
                reads=now.reads,
                fed_events=now.fed_events,
                catch_up_reads=now.catch_up_reads,
                catch_up_events=now.catch_up_events,
                shared_pages=now.shared_pages,
                demotions=now.demotions,
            )
