"""Protections of the way down that can be removed; ``mutations`` says which seed must show each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

import common.journal.entity_pages
from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.index import FilterIndex, Key
from common.core.filters.past import Past
from common.core.filters.permission import Matched, Walled
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.fetch_builder import FetchBuilder
from common.core.firehose.ring import LogStretch, Ring
from common.core.firehose.subscriber_cursor import SubscriberCursor
from common.core.journal.snapshot import Snapshot
from common.core.subscription.consumer import Received, Waiting, admit_received
from common.core.subscription.messages import Deliver, DeliveryLane
from common.core.subscription.replay import QueuedReplay, ReplayPart, _PageWriter
from common.core.subscription.replay_queue import ReplayQueue
from common.journal.entity_history import ReadHistory
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.state import MemoryState
from common.journal.memory.subscriptions import MemorySubscriptions
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.log import LogPage, LogStore
from common.journal.stores.subscriptions import ReceivedCommit


def admit_backfill_without_continuity(
    message: Deliver, known: MutableMapping[str, int], awaiting: Waiting, missed: MutableMapping[str, int]
) -> Received:
    """Whatever backfill brings is taken as what follows."""
    if message.lane is DeliveryLane.BACKFILL and message.events:
        events = message.events.slice(0, len(message.events))
        last = dict(known)
        for index, name in enumerate(events.persistence_id):
            if events.seq_nr[index] > last.get(name, 0):
                events.prev_seq_nr[index] = last.get(name, 0)
                last[name] = events.seq_nr[index]
        message = replace(message, events=events)
    return admit_received(message, known, awaiting, missed)


def go_on_after_a_change(self: ReplayQueue) -> None:
    """A replay goes on after the last number that was read, also when the filter has changed since."""
    going_on = {name: queued for name, queued in self._queue.items() if name not in self._starts}
    _filter_changes(self)
    self._queue.update(going_on)


_filter_changes = ReplayQueue.filter_changes


_entity_page = common.journal.entity_pages.entity_page


async def page_of_one(
    read: ReadHistory,
    replay: QueuedReplay,
    wanted: EntityPredicate,
    past: Past,
    through: int,
    _max_events: int,
    max_bytes: int,
) -> tuple[list[ReplayPart], QueuedReplay | None]:
    """Replays of many slow pages: a change of filter comes between two of them more often."""
    await trio.sleep(0.3)
    return await _entity_page(read, replay, wanted, past, through, 1, max_bytes)


async def first_of_all(_journal: Journal, _name: str, from_seq_nr: int, _position: int) -> int:
    """Nothing of an entity is before the consumer's beginning."""
    return from_seq_nr


async def position_of_now(log: LogStore, _timestamp_us: int) -> int:
    """An order time is the present."""
    return (await log.stats()).head_position


def admit_each_message_alone(
    message: Deliver, known: MutableMapping[str, int], awaiting: Waiting, _missed: MutableMapping[str, int]
) -> Received:
    """The end of a replay, a message of its own, knows nothing of the gaps before it."""
    return admit_received(message, known, awaiting, {})


def any_snapshot_may_stand(_self: _PageWriter, snapshot: Snapshot, from_seq_nr: int, _before: int) -> bool:
    """The latest snapshot stands for what it reaches, whether it is selected, and may be seen, or not."""
    return snapshot.seq_nr >= from_seq_nr


_take = FetchBuilder.take


def state_what_does_not_fit(
    self: FetchBuilder,
    page: LogStretch,
    indexes: Sequence[int],
    *,
    entering: Collection[int] = (),
    leaving: Collection[int] = (),
    marks: Collection[int] = (),
    whole: bool = False,
) -> bool:
    """What entering events jump over is stated with the stretch before them, if they do not fit into it."""
    events, seen = page.events, set(self._named)
    for index in indexes:
        name, seq_nr = events.persistence_id[index], events.seq_nr[index]
        if name not in seen and seq_nr > 1 and events.position[index] in entering:
            self._ranges.append(StatedRange(name, 1, seq_nr - 1, "withheld"))
        seen.add(name)
    return _take(self, page, indexes, entering=entering, leaving=leaving, marks=marks, whole=whole)


def inform_of_nothing(events: EventBatch, _ranges: object) -> tuple[EventBatch, list[int]]:
    """What the source had deleted has no mark in an inbox."""
    return events, list(range(len(events)))


def seen_whatever_waits(self: SubscriberCursor, ring: Ring) -> int:
    """A member is where the ring is, also while events wait for it."""
    if self.is_member and not self.is_plain:
        return ring.through
    return self._seen


async def find_nothing_deleted(
    _journal: Journal, _after: int, page: LogPage, *, max_entities: int
) -> tuple[LogPage, list[object]]:
    """Nothing is told in place of deleted events."""
    return page, []


def permit_everything(_self: Walled, _persistence_id: str, _tags: str) -> bool:
    """A wall lets the event pass with which an entity leaves."""
    return True


_add_matched = Matched.add


def add_without_marks(self: Matched, index: int, now: bool, before: bool, permitted: bool) -> None:
    """Nothing goes in the place of the event that a wall forbids."""
    _add_matched(self, index, now, before and permitted, permitted)


_match = FilterIndex.match


def match_by_own_tags(self: FilterIndex[Key], events: EventBatch) -> dict[Key, Matched]:
    """An entity that leaves is forgotten before its last event is given."""
    blind = events.slice(0, len(events))
    blind.prev_tags = [""] * len(blind)
    return _match(self, blind)


_commit_received = MemorySubscriptions.commit


async def commit_without_waiting(
    self: MemorySubscriptions,
    name: str,
    lease: Lease,
    revision: int,
    commit: ReceivedCommit,
    lease_s: float,
    *,
    inbox_max_bytes: int | None = None,
) -> int:
    """Who waits for a replay is not stored."""
    return await _commit_received(
        self, name, lease, revision, replace(commit, awaiting={}), lease_s, inbox_max_bytes=inbox_max_bytes
    )


async def commit_place_first(
    self: MemorySubscriptions,
    name: str,
    lease: Lease,
    revision: int,
    commit: ReceivedCommit,
    lease_s: float,
    *,
    inbox_max_bytes: int | None = None,
) -> int:
    """The place is stored in a transaction before that of the effect."""
    revision = await _commit_received(self, name, lease, revision, ReceivedCommit(commit.place), lease_s)
    return await _commit_received(self, name, lease, revision, commit, lease_s, inbox_max_bytes=inbox_max_bytes)


@asynccontextmanager
async def transaction_told_early(self: MemoryConnections) -> AsyncIterator[MemoryState]:
    """What a commit is about to store is handed on before it is stored."""
    database = self.database
    async with database.lock:
        draft = database.state.draft()
        with database.tables.transaction():
            yield draft
            if self.feed.is_wanted:
                first = bisect_right(draft.log.position, database.state.head_position)
                self.feed.give(draft.log.slice(first, len(draft.log)))
            for head_signal in database.head_signals:
                head_signal.raise_to(draft.head_position)
            await trio.sleep(self.commit_delay_s)
        database.state = draft
    await trio.lowlevel.checkpoint()


async def leave_out_nothing(_self: object, events: EventBatch) -> EventBatch:
    """The log gives again what a snapshot has stood for."""
    return events


async def lead_over_nothing(*_arguments: object) -> tuple[None, int]:
    """A range reads the log from its place, whatever of it is deleted."""
    return None, 0
