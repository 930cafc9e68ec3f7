"""Deleted events that a place passes before they are stated, and a source that is put back to when it still had them.

The model is a log with what it deleted, as a journal keeps it (one number an entity, and where the last of them stood),
copies of it, and a consumer that follows it through the real rules: a page goes out in stretches, these in parts, and
the line may end behind any of them. Payloads are serial numbers, so that an event that two copies have in common is the
same one.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.filters.predicates import EVERY_ENTITY
from common.core.firehose.catch_up import cap_to_stored
from common.core.firehose.demotion import DemotionHistory, DemotionRule
from common.core.firehose.fetch_builder import FetchLimits, Stated
from common.core.firehose.fetch_result import FetchResult
from common.core.firehose.ring import LogSource, LogStretch, Ring
from common.core.firehose.subscriber_cursor import SubscriberCursor
from common.core.journal.history import Generation, History, begin_generation
from common.core.subscription.consumer import Receiving, admit_received
from common.core.subscription.messages import Deliver, DeliveryLane, Progress, Subscribed
from common.core.subscription.parts import halves
from common.core.subscription.place import (
    NO_RESUME_POINT,
    FilterState,
    LogCursor,
    PlaceVerdict,
    ResumePoint,
    SnapshotScan,
    Unstated,
    decide_resume_point,
    gone_back,
)
from tests.support.growing_log import plain_encoding

ENTITIES = ["T|a", "T|b", "T|c"]
FIRST, SECOND = FilterState(1, "[]"), FilterState(2, "[]")
OLDER, NEWER = History("j", (Generation("g1", 1),), 90), History("j", (Generation("g1", 1), Generation("g2", 91)), 100)


@dataclass
class Log:
    """A source's journal; ``events`` are (position, entity, seq_nr, serial)."""

    events: list[tuple[int, str, int, int]] = field(default_factory=list)
    serials: dict[tuple[str, int], int] = field(default_factory=dict)
    """Of every event there ever was, by entity and number."""
    numbers: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, tuple[int, int]] = field(default_factory=dict)
    generations: tuple[Generation, ...] = (Generation("g0", 1),)
    head: int = 0

    @property
    def history(self) -> History:
        return History("j", self.generations, self.head)

    @property
    def floor(self) -> int:
        return max((position for _, position in self.deleted.values()), default=0)

    def append(self, name: str, serial: int) -> None:
        self.head += 1
        self.numbers[name] = self.numbers.get(name, 0) + 1
        self.events.append((self.head, name, self.numbers[name], serial))
        self.serials[name, self.numbers[name]] = serial

    def delete(self, name: str, count: int) -> None:
        """An entity loses its oldest events."""
        for event in [event for event in self.events if event[1] == name][:count]:
            self.deleted[name] = (event[2], event[0])
            self.events.remove(event)

    def messages(self, after: int, through: int, stretch_max: int, part_max: int) -> list[Deliver | Progress]:
        """A page as a catch-up reads it and a cursor hands it on; what an entity lost is stated with the page that has
        the last of it."""
        events = columns([event for event in self.events if after < event[0] <= through])
        gone = [
            StatedRange(name, 1, seq_nr, "trimmed")
            for name, (seq_nr, position) in self.deleted.items()
            if after < position <= through
        ]
        has_holes = len(events) < through - after
        ahead = self.floor if has_holes and self.floor > through else 0
        source = LogSource("key", plain_encoding)
        page = LogStretch(source, after, through, events)
        cursor = SubscriberCursor("", EVERY_ENTITY, frozenset(), after, DemotionHistory(DemotionRule(1, 1, 1)), 1)
        limits, stated = FetchLimits(stretch_max, 10**9), Stated(cap_to_stored(gone, events))
        messages: list[Deliver | Progress] = []
        while (stretch := cursor.take_page(page, stated, limits, self.head, ahead)) is not None:
            messages += parts_of(delivery_of(stretch), part_max)
        withheld = cursor.take_withheld(Ring(source, 0, max_events=1, max_bytes=1), self.head)
        if withheld is not None:
            messages.append(
                Progress(DeliveryLane.LIVE, withheld.after, withheld.through, unstated_to=withheld.unstated_to)
            )
        return messages

    def replay(self, name: str, from_seq_nr: int) -> Deliver:
        rows = [event for event in self.events if event[1] == name and event[2] >= from_seq_nr]
        gone, position = self.deleted.get(name, (0, 0))
        ranges = (StatedRange(name, from_seq_nr, gone, "trimmed"),) if gone >= from_seq_nr else ()
        reached = max([position, *(event[0] for event in rows)])
        replayed: dict[str, object] = {"replay_of": name, "replay_done": True, "reached": reached}
        return Deliver(DeliveryLane.REPLAY, 0, self.head, events=columns(rows), ranges=ranges, **replayed)  # type: ignore[arg-type]


def delivery_of(stretch: FetchResult) -> Deliver:
    return Deliver(
        DeliveryLane.LIVE,
        stretch.after,
        stretch.through,
        events=stretch.events,
        ranges=stretch.ranges,
        reached=stretch.reached,
        unstated_to=stretch.unstated_to,
    )


def parts_of(message: Deliver, part_max: int) -> list[Deliver]:
    """As a sender cuts what is too large."""
    if len(message.events) <= part_max:
        return [message]
    return [part for half in halves(message) for part in parts_of(half, part_max)]


def columns(rows: list[tuple[int, str, int, int]]) -> EventBatch:
    events = new_events([row[1] for row in rows], ["Changed"] * len(rows), [str(row[3]).encode() for row in rows])
    events.position, events.seq_nr = [row[0] for row in rows], [row[2] for row in rows]
    events.prev_seq_nr = [row[2] - 1 for row in rows]
    return events


class World:
    """A live log, its backups, and a consumer; ``steps`` says what happens."""

    def __init__(self) -> None:
        self.log, self.backups = Log(), list[Log]()
        self.serial = self.starts = 0
        self.begin_anew()
        self.dial()

    def begin_anew(self) -> None:
        self.place = NO_RESUME_POINT
        self.known: dict[str, int] = {}
        self.stored: dict[tuple[str, int], int] = {}
        self.passed: dict[tuple[str, int], int] = {}
        """The events that were stated to be gone."""

    def dial(self) -> None:
        history = self.log.history
        verdict = decide_resume_point(self.place, history, self.log.floor)
        if verdict in (PlaceVerdict.DIVERGED, PlaceVerdict.BEYOND_HEAD):  # the consumer is told: nothing is silent
            self.begin_anew()
        start = gone_back(self.place, history)
        if not self.place.journal_id:
            start = ResumePoint("j", "", LogCursor(0), FIRST)
        self.receiving = Receiving(self.place, FIRST)
        self.receiving.begin(Subscribed(history, self.log.floor, "", start, 1, 1, 0))
        self.place = self.receiving.place

    def append(self, name: str) -> None:
        self.serial += 1
        self.log.append(name, self.serial)

    def follow(self, through: int, stretch_max: int = 9, part_max: int = 9, received: int = 100) -> None:
        """Take the first so many of the messages up to there; the others are lost with the line."""
        position = self.place.live.position
        if position >= min(through, self.log.head):
            return
        for message in self.log.messages(position, min(through, self.log.head), stretch_max, part_max)[:received]:
            if isinstance(message, Progress):
                self.place = self.receiving.progress(message)
            else:
                self.take(message)

    def take(self, message: Deliver) -> None:
        awaiting: set[str] = set()
        if message.replay_of:
            awaiting.add(message.replay_of)
        received = admit_received(message, self.known, awaiting, {})
        self.place = self.receiving.deliver(message)
        for index in received.accepted:
            number = (message.events.persistence_id[index], message.events.seq_nr[index])
            assert number not in self.stored
            self.stored[number] = int(message.events.payload[index])
        for stated in received.passed:
            for seq_nr in range(stated.from_seq_nr, stated.to_seq_nr + 1):
                number = stated.persistence_id, seq_nr
                self.passed[number] = self.log.serials[number]
        assert not received.parked
        for name in sorted(awaiting):
            self.take(self.log.replay(name, self.known.get(name, 0) + 1))

    def put_back(self, which: int) -> None:
        """The source is an older copy of itself from now on, with a generation of its own."""
        if self.backups:
            self.log = deepcopy(self.backups[which % len(self.backups)])
            self.starts += 1
            self.log.generations = begin_generation(self.log.generations, f"g{self.starts}", self.log.head)
            self.dial()

    def check(self) -> None:
        """At the log's end each event there ever was is with the consumer, or it was stated that it is gone."""
        self.follow(self.log.head)
        for number, serial in self.log.serials.items():
            assert self.stored.get(number, self.passed.get(number)) == serial, number


appended = st.lists(st.sampled_from(ENTITIES), max_size=4)
rounds = st.lists(
    st.fixed_dictionaries(
        {
            "before": appended,
            "after": appended,
            "deleted": st.lists(st.tuples(st.sampled_from(ENTITIES), st.integers(1, 9)), max_size=3),
            "followed": st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4)),
            "put back": st.integers(0, 3),
        }
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=500)
@given(rounds)
def test_what_a_source_has_again_comes_or_was_stated(script: list[dict[str, Any]]) -> None:
    """In each round a backup, more events, deletions, some messages to the consumer, and maybe an older log."""
    world = World()
    for one in script:
        for name in one["before"]:
            world.append(name)
        world.backups.append(deepcopy(world.log))
        for name in one["after"]:
            world.append(name)
        for name, count in one["deleted"]:
            world.log.delete(name, count)
        count, *how = one["followed"]
        world.follow(world.place.live.position + count, *how)
        if one["put back"]:
            world.put_back(-one["put back"])
        else:
            world.dial()
    world.check()


def test_events_that_were_passed_come_after_the_source_has_them_again() -> None:
    world = World()
    for name in ["T|a", "T|b"]:
        world.append(name)
    world.backups.append(deepcopy(world.log))
    world.append("T|a")
    world.log.delete("T|a", 2)
    world.follow(2)
    assert world.place.unstated == Unstated(0, 3, "g0"), "its first event is gone, which is stated at 3"
    world.put_back(0)
    assert world.place == ResumePoint("j", "g0", LogCursor(0), FIRST, reached=2)
    world.check()
    assert world.stored == {("T|a", 1): 1, ("T|b", 1): 2}


def test_once_all_is_stated_nothing_is_gone_back_over() -> None:
    world = World()
    for name in ["T|a", "T|b", "T|a", "T|b"]:
        world.append(name)
    world.backups.append(deepcopy(world.log))
    world.log.delete("T|a", 2)
    world.follow(2)
    world.follow(4)
    assert world.place.unstated is None
    world.put_back(0)
    assert world.place.live.position == 4


def test_it_is_kept_until_every_lane_is_past_it() -> None:
    place = ResumePoint("j", "g1", LogCursor(60), FIRST, LogCursor(10), SECOND, 50)
    end = Receiving(place, SECOND)
    end.begin(Subscribed(OLDER, 70, "resume", place, 1, 1, 0))
    assert end.progress(Progress(DeliveryLane.BACKFILL, 10, 20, unstated_to=70)).unstated == Unstated(10, 70, "g1")
    assert end.progress(Progress(DeliveryLane.LIVE, 60, 65, unstated_to=80)).unstated == Unstated(10, 80, "g1")
    assert end.progress(Progress(DeliveryLane.LIVE, 65, 85)).unstated == Unstated(10, 80, "g1")
    assert end.progress(Progress(DeliveryLane.BACKFILL, 20, 79)).unstated == Unstated(10, 80, "g1")
    assert end.progress(Progress(DeliveryLane.BACKFILL, 79, 80)).unstated is None


PLACE = ResumePoint("j", "g1", LogCursor(60, "d", 7), FIRST, unstated=Unstated(20, 70, "g1"))


@pytest.mark.parametrize(
    ("place", "history", "expected"),
    [
        (PLACE, OLDER, PLACE),
        (replace(PLACE, unstated=None), NEWER, replace(PLACE, unstated=None)),
        (PLACE, NEWER, replace(PLACE, live=LogCursor(20), reached=60, unstated=None)),
        (replace(PLACE, reached=80), NEWER, replace(PLACE, live=LogCursor(20), reached=80, unstated=None)),
        (
            replace(PLACE, backfill=LogCursor(30), next=SECOND, change_position=50),
            NEWER,
            replace(
                PLACE,
                live=LogCursor(20),
                backfill=LogCursor(20),
                next=SECOND,
                change_position=20,
                reached=60,
                unstated=None,
            ),
        ),
        (
            replace(PLACE, backfill=LogCursor(3), next=SECOND, change_position=5),
            NEWER,
            replace(
                PLACE,
                live=LogCursor(20),
                backfill=LogCursor(3),
                next=SECOND,
                change_position=5,
                reached=60,
                unstated=None,
            ),
        ),
        # In the middle of its snapshots a lane goes on.
        (
            replace(PLACE, live=LogCursor(60, scan=SnapshotScan(80, 5, "T|a"))),
            NEWER,
            replace(PLACE, live=LogCursor(60, scan=SnapshotScan(80, 5, "T|a"))),
        ),
    ],
)
def test_lanes_go_back_in_another_history_and_the_place_keeps_what_is_known(
    place: ResumePoint, history: History, expected: ResumePoint
) -> None:
    assert gone_back(place, history) == expected
