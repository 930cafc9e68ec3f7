"""Whole sessions of a source and a consumer without streams, stores or clocks.

``Session`` takes the same steps as the shells do, one at a time, so that a test can put anything between two of them;
``Consumer`` keeps what a store would and checks every step against the log.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.predicates import AllOf, EntityPredicate, OnlyNew, parse_filter
from common.core.journal.snapshot import snapshot_batch
from common.core.subscription.consumer import Receiving, admit_received, effect_of
from common.core.subscription.messages import (
    BackfillDone,
    Begin,
    ConsumerAck,
    Deliver,
    DeliveryLane,
    FilterApplied,
    FilterUpdate,
    FromSource,
    Progress,
    Replay,
    StreamLimits,
    Subscribed,
)
from common.core.subscription.parts import halves
from common.core.subscription.place import NO_RESUME_POINT, FilterState, LogCursor, ResumePoint, SnapshotScan
from common.core.subscription.replay import EntityPage, ReplayPart, replay_page
from common.core.subscription.source import Serving
from tests.support.subscription.model import JOURNAL, Page, Row, Source, columns, criteria, selects

LIMITS = StreamLimits(window_bytes=10**9, batch_bytes=10**6, batch_events=3)


@dataclass
class Consumer:
    """What a consumer's store keeps, and what it has seen."""

    source: Source
    requested: FilterState
    start: Begin = Begin.LOG
    past: Past = Past.SNAPSHOT
    place: ResumePoint = NO_RESUME_POINT
    known: dict[str, int] = field(default_factory=dict)
    awaiting: set[str] = field(default_factory=set)
    missed: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, list[int]] = field(default_factory=dict)
    passed: dict[str, set[int]] = field(default_factory=dict)
    """Numbers over which a range or a snapshot has led."""

    def change(self, tags: frozenset[str]) -> None:
        self.requested = FilterState(self.requested.version + 1, criteria(tags))

    @property
    def states_past(self) -> bool:
        return self.past is Past.NONE

    def take(self, message: Deliver, wanted: EntityPredicate, place: ResumePoint) -> None:
        """Let a delivery take effect with the place after it, and check that it says nothing but the truth."""
        reached = {name: number for name, number in self.known.items() if number}
        received = admit_received(message, self.known, self.awaiting, self.missed)
        assert not received.parked, "a replay is whole"
        taken, _, replaces = effect_of(message, received)
        for stated in received.passed:
            assert stated.from_seq_nr == reached.get(stated.persistence_id, 0) + 1
            self._pass(stated, wanted, place)
            reached[stated.persistence_id] = stated.to_seq_nr
        for name, seq_nr in zip(taken.persistence_id, taken.seq_nr, strict=True):
            assert seq_nr == reached.get(name, 0) + 1, "in order, and once"
            self.accepted.setdefault(name, []).append(seq_nr)
            reached[name] = seq_nr
        assert {name: number for name, number in self.known.items() if number} == reached
        assert len(replaces) <= message.snapshots
        if message.lane is DeliveryLane.REPLAY:
            for name, seq_nr, tags in zip(*self._snapshots_of(message), strict=True):
                rows = self.source.entity(name, seq_nr + 1, len(self.source.rows))
                is_below = any(selects(wanted, row) for row in rows) and not self.states_past
                assert is_below or wanted.matches(name, tags), "it stands for no event that is selected"

    def _snapshots_of(self, message: Deliver) -> tuple[list[str], list[int], list[str]]:
        events, n = message.events, message.snapshots
        return events.persistence_id[:n], events.seq_nr[:n], events.tags[:n]

    def _pass(self, stated: StatedRange, wanted: EntityPredicate, place: ResumePoint) -> None:
        name, first, last = stated.persistence_id, stated.from_seq_nr, stated.to_seq_nr
        self.passed.setdefault(name, set()).update(range(first, last + 1))
        if stated.reason == "withheld":
            assert self.states_past, "nothing is forbidden, so all of it is an entity's past"
            for row in self.source.entity(name, first, len(self.source.rows)):
                if row.seq_nr <= last and not self._is_outdated(row, wanted):
                    assert not selects(wanted, row), f"{name} {row.seq_nr} is wanted and was said to be withheld"
                if row.seq_nr <= last:
                    assert row.position <= place.live.position, f"{name} {row.seq_nr} is withheld before it is passed"

    def _is_outdated(self, row: Row, wanted: EntityPredicate) -> bool:
        """Whether a start from snapshots may lack it: its entity was not in the filter any more when they were read."""
        return self.start is Begin.SNAPSHOTS and self.source.outdated(row, wanted)

    def check_complete(self) -> None:
        """When all is quiet: whatever the filter selects was taken in, or led over with good reason."""
        assert self.place.applied == self.requested
        assert self.place.next is None
        assert not self.awaiting
        wanted = parse_filter(self.requested.criteria)
        for row in self.source.rows:
            if row.position in self.source.deleted or not selects(wanted, row):
                continue
            name = row.persistence_id
            if self._is_outdated(row, wanted):
                continue
            seen = row.seq_nr in self.accepted.get(name, []) or row.seq_nr in self.passed.get(name, set())
            assert seen, f"{name} {row.seq_nr} at {row.position} is lost"


class Session:
    """One connection. What is in ``line`` is lost with it, and so is what the consumer has not committed."""

    def __init__(self, source: Source, consumer: Consumer) -> None:
        self.source, self.consumer = source, consumer
        consumer.missed.clear()
        place = consumer.place
        if not place.journal_id:
            scan = SnapshotScan(len(source.rows), source.uncovered_after(len(source.rows)), "")
            live = LogCursor(0, scan=scan) if consumer.start is Begin.SNAPSHOTS else LogCursor(0)
            place = ResumePoint(JOURNAL, "", live, consumer.requested)
        self.start = consumer.start
        self.serving = Serving(place, consumer.requested, LIMITS, ack_target_s=10.0, now_s=0.0)
        self.receiving = Receiving(consumer.place, consumer.requested)
        self.receiving.begin(Subscribed(source.history, source.floor, "", place, 10**6, 10, 0))
        self.hand: Page | None = None
        self.hand_back: Page | None = None
        self.live_at = place.live.position
        self.line: deque[tuple[FromSource, EntityPredicate]] = deque()
        self.uncommitted: list[tuple[Deliver | None, EntityPredicate, ResumePoint]] = [
            (None, self.wanted, self.receiving.place)
        ]
        for name in sorted(consumer.awaiting):
            self.serving.ask_replay(Replay(name, consumer.known.get(name, 0) + 1))

    # -- the source's steps ----------------------------------------------------------------------------------------
    @property
    def wanted(self) -> EntityPredicate:
        place = self.serving.place
        return parse_filter((place.next or place.applied).criteria)

    @property
    def live_predicate(self) -> EntityPredicate:
        place = self.serving.place
        applied = parse_filter(place.applied.criteria)
        return AllOf((applied, parse_filter(place.next.criteria))) if place.next else applied

    def send(self, message: FromSource) -> None:
        self.line.append((message, self.wanted))

    def step_live(self) -> bool:
        """Take a stretch in hand, or send the one that is."""
        serving, place = self.serving, self.serving.place
        if self.hand is not None:
            page, self.hand = self.hand, None
            self.send_page(DeliveryLane.LIVE, page)
            return True
        if place.live.scan is not None:
            return self.step_scan(DeliveryLane.LIVE, place.live, place.live.scan)
        if serving.has_met:
            self.send(serving.end_change())
            self.hand_back = None
            return True
        if serving.wants_change:
            self.send(serving.begin_change(self.begin_of_backfill()))
            return True
        if serving.holds_live:
            return False
        self.hand = self.source.read(
            self.live_predicate, self.live_at, len(self.source.rows), states_past=self.consumer.states_past
        )
        if self.hand is not None:
            self.live_at = self.hand.through
        return self.hand is not None

    def begin_of_backfill(self) -> LogCursor:
        if self.start is Begin.LOG:
            return LogCursor(0)
        head = self.serving.place.live.position
        return LogCursor(0, scan=SnapshotScan(head, self.source.uncovered_after(head), ""))

    def step_scan(self, lane: DeliveryLane, cursor: LogCursor, scan: SnapshotScan) -> bool:
        place = self.serving.place
        names = sorted(name for name in self.source.snapshots if name > scan.after)[:2]
        predicate = self.live_predicate if lane is DeliveryLane.LIVE else self.backfill_predicate
        if names:
            found = [self.source.snapshots[name] for name in names]
            chosen = [one for one in found if predicate.matches(one.persistence_id, one.tags)]
            following = replace(scan, after=names[-1])
            self.serving.move(lane, cursor.position, digest=cursor.digest, scan=following)
            events = snapshot_batch(chosen)
            self.send(
                Deliver(
                    lane, cursor.position, cursor.position, 0, cursor.digest, events,
                    snapshots=len(chosen), scan=following,
                )
            )  # fmt: skip
            return True
        through = max(scan.low, cursor.position)
        if lane is DeliveryLane.BACKFILL:
            through = min(through, place.live.position)
        else:
            self.live_at = through
        after = self.serving.move(lane, through)
        self.send(Deliver(lane, after, through))
        return True

    @property
    def backfill_predicate(self) -> EntityPredicate:
        place = self.serving.place
        assert place.next is not None
        return OnlyNew(parse_filter(place.next.criteria), parse_filter(place.applied.criteria))

    def step_backfill(self) -> bool:
        place = self.serving.place
        if place.backfill is None:
            return False
        if place.backfill.scan is not None:
            return self.step_scan(DeliveryLane.BACKFILL, place.backfill, place.backfill.scan)
        if self.hand_back is not None:
            page, self.hand_back = self.hand_back, None
            self.send_page(DeliveryLane.BACKFILL, page)
            return True
        self.hand_back = self.source.read(
            self.backfill_predicate,
            place.backfill.position,
            place.live.position,
            states_past=self.consumer.states_past,
        )
        return self.hand_back is not None

    def send_page(self, lane: DeliveryLane, page: Page) -> None:
        events = columns(page.rows)
        leaving = self.serving.leaving_to_tell(events, page.leaving, self.wanted)
        ranges = self.serving.ranges_to_state(lane, page.ranges)
        after = self.serving.move(lane, page.through)
        assert after == page.after
        first = snapshot_batch(page.snapshots)
        first.extend(EventBatch(*events.columns()))
        if len(first) or ranges:
            message = Deliver(lane, after, page.through, 0, "", first, ranges, leaving, len(page.snapshots))
            is_cut = len(first) > 1 and page.through % 2
            for part in halves(message) if is_cut else [message]:
                self.send(part)
        else:
            self.send(Progress(lane, after, page.through))

    def step_replay(self) -> bool:
        """One page of the replay whose turn it is; its end is read in the same turn as it is sent."""
        replay, position = self.serving.next_replay, self.serving.place.live.position
        if replay is None:
            return False
        name, wanted = replay.persistence_id, self.wanted
        found = self.source.entity(name, replay.from_seq_nr, position)
        read, is_last = found[:2], not found[2:]
        deleted = self.source.deleted_to.get(name)
        first_stored = max(replay.from_seq_nr, deleted.seq_nr + 1 if deleted else 1)
        page = EntityPage(
            columns(read), first_stored, is_last, deleted.tags if deleted else "", 0, self.source.snapshots.get(name)
        )
        parts, rest = replay_page(replay, page, wanted, self.consumer.past)
        if rest is not None:
            self.serving.replay_goes_on(rest)
        else:
            self.serving.replay_ends()
            parts = parts or [ReplayPart(EventBatch())]
        for number, part in enumerate(parts, 1):
            self.send(
                Deliver(DeliveryLane.REPLAY, 0, position, events=part.events, ranges=part.ranges, leaving=part.leaving,
                        snapshots=part.snapshots, replay_of=name, replay_done=rest is None and number == len(parts))
            )  # fmt: skip
        return True

    # -- the consumer's steps --------------------------------------------------------------------------------------
    def step_receive(self) -> bool:
        if not self.line:
            return False
        message, wanted = self.line.popleft()
        match message:
            case Deliver():
                self.uncommitted.append((message, wanted, self.receiving.deliver(message)))
            case Progress():
                self.uncommitted.append((None, wanted, self.receiving.progress(message)))
            case FilterApplied():
                self.uncommitted.append((None, wanted, self.receiving.filter_applied(message)))
            case BackfillDone():
                self.uncommitted.append((None, wanted, self.receiving.backfill_done(message)))
            case _:
                raise AssertionError(message)
        return True

    def step_commit(self) -> bool:
        """Everything received takes effect together with the place after it."""
        if not self.uncommitted:
            return False
        for message, wanted, place in self.uncommitted:
            before = set(self.consumer.awaiting)
            if message is not None:
                self.consumer.take(message, wanted, place)
            for name in sorted(self.consumer.awaiting - before):
                self.serving.ask_replay(Replay(name, self.consumer.known.get(name, 0) + 1))
            self.consumer.place = place
        self.uncommitted.clear()
        self.serving.ack(ConsumerAck(self.serving.acked), 0.0)
        return True

    def step_filter(self) -> bool:
        requested = self.consumer.requested
        if requested.version <= self.receiving.newest_requested:
            return False
        self.receiving.asked(requested)
        self.serving.ask_filter(FilterUpdate(requested.version, requested.criteria), 10.0 * requested.version)
        return True

    def settle(self) -> None:
        """Take steps until there are none."""
        steps = (
            self.step_filter, self.step_live, self.step_backfill, self.step_replay, self.step_receive,
            self.step_commit,
        )  # fmt: skip
        for _ in range(10_000):
            taken = [step() for step in steps]
            if not any(taken):
                return
        raise AssertionError("it does not come to rest")
