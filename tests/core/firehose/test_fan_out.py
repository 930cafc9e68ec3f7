"""Cursors over ring and journal, in any interleaving: each selected event once, in order, never past the head."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import EventBatch, join_tags
from common.core.events.stated_range import StatedRange
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, parse_filter
from common.core.firehose.demotion import DemotionHistory, DemotionRule, SubscriberTier
from common.core.firehose.fan_out import FanOut
from common.core.firehose.fetch_builder import FetchLimits, Stated
from common.core.firehose.fetch_result import FetchResult
from common.core.firehose.ring import LogSource, LogStretch, Ring
from common.core.firehose.subscriber_cursor import SubscriberCursor
from tests.support.growing_log import Consumer, GrowingLog, plain_encoding

ALL: frozenset[str] = frozenset()
PUMPS = frozenset({"Pump"})
SOURCE = LogSource("j", plain_encoding)
RULE = DemotionRule(first_s=1, most_s=8, forgiven_after_s=60)
LIMITS = FetchLimits(100, 1_000_000)
PREDICATES = [
    EVERY_ENTITY,
    parse_filter('[{"exclude_all": true}, {"include_topics": ["site/1/#"]}]'),
    parse_filter('[{"exclude_all": true}, {"include_topics": ["site/+"]}, {"include_ids": ["b"]}]'),
    parse_filter('[{"exclude_tags": ["t:site/2"]}]'),
    parse_filter('[{"exclude_regex": ["[ab]"]}]'),
    parse_filter('[{"exclude_all": true}, {"include_ids": [{"id": "a", "from_seq_nr": 3}]}]'),
]
ENTITIES = ["Pump|a", "Pump|b", "Valve|a", "Valve|c"]
TAGS = ["", "t:site/1", "t:site/2", join_tags(["t:site/1/line", "other"]), join_tags(["t:site/2", "t:site/1"])]


def fan_out(*, max_events: int = 1_000, after: int = 0) -> FanOut:
    return FanOut(Ring(SOURCE, after, max_events=max_events, max_bytes=100_000_000))


def cursor(
    predicate: EntityPredicate = EVERY_ENTITY,
    entity_types: frozenset[str] = ALL,
    *,
    position: int = 0,
    pending_max: int = 1_000,
) -> SubscriberCursor:
    return SubscriberCursor("consumer", predicate, entity_types, position, DemotionHistory(RULE), pending_max)


@dataclass
class Subscriber:
    """A cursor, what came of it, and what should have: filters in force from a position on."""

    cursor: SubscriberCursor
    consumer: Consumer
    filters: list[tuple[int, EntityPredicate]] = field(default_factory=list)

    def took(self, stretch: FetchResult | None) -> None:
        if stretch is not None:
            assert stretch.encoded == plain_encoding(stretch.events)
            self.consumer.take(stretch)

    def expected(self, log: GrowingLog, through: int) -> list[int]:
        ends = [*(position for position, _ in self.filters[1:]), through]
        wanted: list[int] = []
        for (after, predicate), end in zip(self.filters, ends, strict=True):
            selected = log.selected(predicate, self.cursor.entity_types, after, max(after, end))
            wanted += [position for position in selected if not _before_stated_start(predicate, log.events, position)]
        return wanted


def _before_stated_start(predicate: EntityPredicate, events: EventBatch, position: int) -> bool:
    return events.seq_nr[position - 1] < predicate.from_seq_nr(events.persistence_id[position - 1])


class World:
    """A log, the ring that follows it, and subscribers in every state."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.log = GrowingLog()
        self.fan_out = fan_out(max_events=chance.randint(1, 40))
        self.now_s = 0.0
        self.subscribers: list[Subscriber] = []

    def _row(self) -> tuple[str, str]:
        return self._chance.choice(ENTITIES), self._chance.choice(TAGS)

    def subscribe(self) -> None:
        predicate = self._chance.choice(PREDICATES)
        entity_types = self._chance.choice([ALL, PUMPS])
        made = cursor(predicate, entity_types, pending_max=self._chance.randint(1, 20))
        self.subscribers.append(Subscriber(made, Consumer(), [(0, predicate)]))

    def append(self) -> None:
        self.log.append(*[self._row() for _ in range(self._chance.randint(1, 12))])

    def follow(self) -> None:
        ring = self.fan_out.ring
        if ring.through < self.log.head:
            through = self._chance.randint(ring.through + 1, self.log.head)
            self.fan_out.extend(self.log.between(ring.through, through), self.now_s)

    def restart(self) -> None:
        ring = self.fan_out.ring
        self.fan_out.restart(self._chance.randint(ring.through, self.log.head))

    def limits(self) -> FetchLimits:
        return FetchLimits(self._chance.randint(1, 15), self._chance.choice([1, 500, 100_000]))

    def take(self, subscriber: Subscriber) -> None:
        limits = self.limits()
        stretch = self.fan_out.take(subscriber.cursor, limits, self.now_s)
        if stretch is not None and self.fan_out.ring.through <= self.log.head and subscriber.cursor.is_member:
            assert stretch.n <= limits.max_events
            assert stretch.n <= 1 or stretch.events.byte_size() <= limits.max_bytes
        subscriber.took(stretch)

    def take_page(self, subscriber: Subscriber) -> None:
        one = subscriber.cursor
        seen = one.seen(self.fan_out.ring)
        if one.is_member or seen >= self.log.head:
            return
        after = self._chance.randint(max(0, seen - 5), seen)
        through = self._chance.randint(after + 1, self.log.head)
        events = self.log.between(after, through)
        if not one.is_plain and self._chance.random() < 0.5:  # as an index of the journal would find them
            wanted = set(self.log.selected(one.predicate, one.entity_types, after, through))
            events = events.select([index for index, position in enumerate(events.position) if position in wanted])
        page = LogStretch(SOURCE, after, through, events)
        subscriber.took(one.take_page(page, Stated(), self.limits(), self.log.head))

    def progress(self, subscriber: Subscriber) -> None:
        ring = self.fan_out.ring
        stretch = None if subscriber.cursor.has_pending else subscriber.cursor.take_withheld(ring, self.log.head)
        if stretch is not None:
            assert stretch.is_empty
        subscriber.took(stretch)

    def change(self, subscriber: Subscriber) -> None:
        predicate = self._chance.choice(PREDICATES)
        self.fan_out.change(subscriber.cursor, predicate)
        subscriber.filters.append((subscriber.cursor.position, predicate))
        known = Consumer(checks_numbers=False)
        known.positions, known.position = subscriber.consumer.positions, subscriber.consumer.position
        subscriber.consumer = known

    def step(self) -> None:
        self.now_s += self._chance.choice([0.0, 0.5, 10.0])
        general = [self.subscribe, self.append, self.append, self.follow, self.follow, self.restart, self.sweep]
        of_one = [self.take, self.take, self.take_page, self.progress, self.change]
        number = self._chance.randint(0, len(general) + len(of_one) - 1)
        if number < len(general):
            general[number]()
        elif self.subscribers:
            subscriber = self._chance.choice(self.subscribers)
            of_one[number - len(general)](subscriber)
            assert subscriber.cursor.position <= self.log.head
            self.check(subscriber)

    def sweep(self) -> None:
        for fallen in self.fan_out.sweep(self.now_s):
            assert fallen.record.standing is SubscriberTier.DEMOTED

    def check(self, subscriber: Subscriber) -> None:
        assert subscriber.consumer.position == subscriber.cursor.position
        assert subscriber.consumer.positions == subscriber.expected(self.log, subscriber.cursor.position)

    def settle(self, subscriber: Subscriber) -> None:
        """Nothing is appended any more: it gets to the end, whatever state it is in."""
        one, ring = subscriber.cursor, self.fan_out.ring
        self.now_s += 1_000
        for _ in range(2 * self.log.head + 10):
            subscriber.took(self.fan_out.take(one, self.limits(), self.now_s))
            seen = one.seen(ring)
            if not one.is_member and seen < self.log.head:
                page = LogStretch(SOURCE, seen, self.log.head, self.log.between(seen, self.log.head))
                subscriber.took(one.take_page(page, Stated(), self.limits(), self.log.head))
        self.progress(subscriber)
        assert subscriber.cursor.position == self.log.head
        self.check(subscriber)
        self.fan_out.take(one, LIMITS, self.now_s)
        assert one.is_member


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_every_subscriber_gets_each_selected_event_once_in_order(seed: int) -> None:
    chance = Random(seed)
    world = World(chance)
    for _ in range(chance.randint(5, 100)):
        world.step()
    if world.fan_out.ring.through < world.log.head:
        world.fan_out.extend(world.log.between(world.fan_out.ring.through, world.log.head), world.now_s)
    for subscriber in world.subscribers:
        world.settle(subscriber)
        world.fan_out.leave(subscriber.cursor)
    assert world.fan_out.members == 0


def test_those_at_the_same_place_share_one_stretch() -> None:
    hub, log = fan_out(), GrowingLog()
    cursors = [cursor() for _ in range(3)]
    for one in cursors:
        hub.take(one, LIMITS, 0)
    hub.extend(log.append(("Pump|a", ""), ("Valve|a", "")), 0)

    stretches = [hub.take(one, LIMITS, 0) for one in cursors]
    assert stretches[0] is not None
    assert all(stretch is stretches[0] for stretch in stretches)


def test_small_stretches_are_shared_by_those_with_other_room_and_when_the_log_goes_on() -> None:
    hub, log = fan_out(), GrowingLog()
    quick, slow, slower = (cursor() for _ in range(3))
    for one in (quick, slow, slower):
        hub.take(one, LIMITS, 0)
    hub.extend(log.append(*[("Pump|a", "")] * 4), 0)
    taken = [hub.take(quick, FetchLimits(1, 1_000_000), 0) for _ in range(4)]
    hub.extend(log.append(*[("Pump|a", "")] * 40), 0)

    found = [hub.take(slow, FetchLimits(1, 65_536), 0) for _ in range(4)]
    assert [stretch is before for stretch, before in zip(found, taken, strict=True)] == [True, True, True, False]
    last = found[-1]
    assert last is not None
    assert (last.through, last.head) == (4, 44), (
        "the one that had reached the ring's end did not say that there is more"
    )
    again = [hub.take(slower, FetchLimits(2, 65_536), 0) for _ in range(2)]
    assert [stretch.n for stretch in again if stretch] == [2, 2]


@pytest.mark.parametrize("rooms", [(100_000, 3_000), (3_000, 100_000)])
def test_a_stretch_that_room_has_cut_is_not_shared_with_who_has_other_room(rooms: tuple[int, int]) -> None:
    hub, log = fan_out(), GrowingLog()
    cursors = [cursor() for _ in rooms]
    for one in cursors:
        hub.take(one, LIMITS, 0)
    hub.extend(log.append(*[("Pump|a", "")] * 9, payload_bytes=1_000), 0)
    for one, room in zip(cursors, rooms, strict=True):
        expected = 3 if room > 3_500 else 2
        stretch = hub.take(one, FetchLimits(3, room), 0)
        assert stretch is not None
        assert stretch.n == expected


def test_an_event_wakes_only_whom_it_concerns() -> None:
    hub, log = fan_out(), GrowingLog()
    topics = [parse_filter(f'[{{"exclude_all": true}}, {{"include_topics": ["site/{n}"]}}]') for n in range(100)]
    cursors = [cursor(topic) for topic in topics]
    pumps = cursor(EVERY_ENTITY, PUMPS)
    for one in [*cursors, pumps]:
        hub.take(one, LIMITS, 0)
    news = hub.extend(log.append(("Valve|a", "t:site/7")), 0)

    assert list(news.selecting) == [cursors[7]]
    assert not news.entity_types
    assert hub.evaluations <= 3


def test_a_full_list_demotes_and_nothing_is_lost() -> None:
    hub, log = fan_out(), GrowingLog()
    one = cursor(PREDICATES[1], pending_max=3)
    hub.take(one, LIMITS, 0)
    hub.extend(log.append(*[("Pump|a", "t:site/1")] * 2), 0)
    hub.extend(log.append(*[("Pump|a", "t:site/1")] * 2), 0)

    assert hub.changes == [one]
    assert one.record.standing is SubscriberTier.DEMOTED
    assert (one.position, one.seen(hub.ring)) == (0, 0)
    stretch = hub.take(one, LIMITS, 0)
    assert stretch is not None
    assert stretch.events.position == [1, 2, 3, 4]
    assert one.is_member


def test_a_selecting_member_whose_events_are_all_handed_over_never_falls_out() -> None:
    hub, log = fan_out(max_events=10), GrowingLog()
    one = cursor(PREDICATES[1])
    hub.take(one, LIMITS, 0)
    for _ in range(50):
        hub.extend(log.append(("Pump|a", "")), 0)

    assert hub.sweep(0) == []
    assert one.seen(hub.ring) == 50
    withheld = one.take_withheld(hub.ring, 50)
    assert withheld is not None
    assert (withheld.after, withheld.through, withheld.n) == (0, 50, 0)
    assert withheld.digest


def test_who_is_not_asked_for_is_found_fallen() -> None:
    hub, log = fan_out(max_events=10), GrowingLog()
    idle, selecting = cursor(), cursor(PREDICATES[1])
    for one in (idle, selecting):
        hub.take(one, LIMITS, 0)
    hub.extend(log.append(("Pump|a", "t:site/1")), 0)
    for _ in range(20):
        hub.extend(log.append(("Pump|b", "")), 0)

    assert hub.sweep(0) == [idle, selecting]
    assert hub.members == 0


def test_an_entity_that_comes_again_begins_another_stretch() -> None:
    log = GrowingLog()
    log.append(*[("Pump|a", tags) for tags in ("t:site/1", "", "", "t:site/1")])
    one, consumer = cursor(PREDICATES[1]), Consumer()
    page = LogStretch(SOURCE, 0, 4, log.events)

    stretches = [one.take_page(page, Stated(), LIMITS, 4) for _ in range(2)]
    for stretch in stretches:
        assert stretch is not None
        consumer.take(stretch)
    assert consumer.positions == [1, 2, 4]
    assert stretches[0] is not None
    assert stretches[0].leaving == (2,)
    assert stretches[1] is not None
    assert [(stated.from_seq_nr, stated.to_seq_nr, stated.reason) for stated in stretches[1].ranges] == [
        (1, 3, "withheld")
    ]


def test_deletions_of_a_page_are_stated_with_its_first_stretch_and_again_when_the_filter_changes_in_it() -> None:
    log = GrowingLog()
    log.append(*[("Pump|a", "t:site/1")] * 5)
    page = LogStretch(SOURCE, 0, 9, log.events)
    one, few = cursor(PREDICATES[1]), FetchLimits(2, 1_000_000)
    gone = [Stated([StatedRange(f"Pump|{name}", 1, 3, "trimmed")]) for name in "xy"]

    first = one.take_page(page, gone[0], few, 9)
    assert first is not None
    assert (first.through, first.ranges, first.reached) == (2, tuple(gone[0].ranges), 9)
    one.change(EVERY_ENTITY)
    again = one.take_page(page, gone[1], few, 9)
    assert again is not None
    assert (again.through, again.ranges, again.reached) == (4, tuple(gone[1].ranges), 9)
    last = one.take_page(page, gone[1], few, 9)
    assert last is not None
    assert (last.through, last.ranges, last.reached) == (9, (), 0)


@pytest.mark.parametrize("limits", [FetchLimits(1, 1_000_000), FetchLimits(100, 1)])
def test_one_event_always_fits(limits: FetchLimits) -> None:
    hub, log = fan_out(), GrowingLog()
    hub.extend(log.append(*[("Pump|a", "t:site/1")] * 3), 0)
    for predicate in (EVERY_ENTITY, PREDICATES[1]):
        one = cursor(predicate)
        taken = [hub.take(one, limits, 0) for _ in range(3)]
        assert [stretch.events.position for stretch in taken if stretch] == [[1], [2], [3]]
