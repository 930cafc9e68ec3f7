"""Filters on the way up, both pure ends and the judge together: changes, cuts and restarts at any point of a log.

Whatever happens, an entity's events are stored once and in order, jumps are stated, and in the end everything that the
last filter selects is there: all of it where entities are selected by id, and by tags all that no statement had passed. With
the past that an entity brings no statement is needed, whatever selects it.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events, tags_before
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import match_batch
from common.core.filters.predicates import parse_filter
from common.core.journal.admission import EntityHead, admit_pushed
from common.core.journal.append import OutOfStep, Pushed, PushLane
from common.core.journal.history import Offset, Resume
from common.core.push.filter_transition import (
    EVERYTHING,
    NO_FILTER,
    UNFILTERED,
    Entry,
    FilterTransition,
    PushFilter,
    PushFilterApplied,
    PushFilterState,
)
from common.core.push.messages import Ack, PushBatch, PushLimits, Start
from common.core.push.past import KnownEntities, PastBatch, known_of, owed_past
from common.core.push.producer import Producer
from common.core.push.receiver import Endpoint
from common.core.subscription.replay import EntityPage, replay_page

LIMITS = PushLimits(window_events=8, window_bytes=20_000, batch_bytes=2_000, event_bytes=1_000)
IDS = ("S|a", "S|b", "S|c", "S|d")
TAGS = ("", "red", "blue", "t:site/1", "t:site/2")


def only(**includes: list[object]) -> str:
    criteria: list[object] = [{"exclude_all": True}]
    criteria += [{name: value} for name, value in includes.items()]
    return parse_filter(json.dumps(criteria)).criteria


BY_ID = (
    EVERYTHING,
    only(),
    only(include_ids=["a"]),
    only(include_ids=["a", "b"]),
    only(include_regex=["[bc]"]),
    parse_filter('[{"exclude_ids": ["a", "d"]}]').criteria,
)
BY_TAG = (
    EVERYTHING,
    only(),
    only(include_tags=["red"]),
    only(include_topics=["site/+"]),
    only(include_topics=["site/1"], include_tags=["blue"]),
    only(include_ids=["a"], include_tags=["red"]),
    parse_filter('[{"exclude_tags": ["red"]}]').criteria,
)


@dataclass
class Log:
    """An edge's journal: every event it ever took."""

    events: EventBatch = field(default_factory=EventBatch)
    last: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, name: str, tags: str) -> None:
        seq_nr, before = self.last.get(name, (0, tags))
        self.last[name] = (seq_nr + 1, tags)
        one = new_events([name], ["happened"], [b""], tags=[tags])
        one.position = [len(self.events) + 1]
        one.seq_nr, one.prev_seq_nr = [seq_nr + 1], [seq_nr]
        one.prev_tags = [tags_before(before, tags)]
        self.events.extend(one)

    def read(self, after: int, through: int | None, max_events: int) -> tuple[EventBatch, int]:
        stop = min(len(self.events) if through is None else through, after + max_events)
        return self.events.slice(after, stop), stop

    def is_own_between(self, entry: Entry, after: int) -> bool:
        """Whether the entity has events behind a position and before the one with which it comes in."""
        return entry.persistence_id in self.events.persistence_id[after : entry.position - 1]

    def page(self, name: str, from_seq_nr: int, last: int, max_events: int) -> EntityPage:
        rows = zip(self.events.persistence_id, self.events.seq_nr, strict=True)
        found = [at for at, (who, number) in enumerate(rows) if who == name and from_seq_nr <= number <= last]
        events = self.events.select(found[:max_events])
        return EntityPage(events, from_seq_nr, is_last=len(found) <= max_events)


@dataclass
class Cloud:
    """What a cloud keeps: cursors, entity heads, events and statements."""

    position: int = 0
    place: PushFilterState = UNFILTERED
    requested: PushFilter = NO_FILTER
    heads: dict[str, EntityHead] = field(default_factory=dict)
    stored: list[tuple[str, int]] = field(default_factory=list)
    stated: list[StatedRange] = field(default_factory=list)
    applied: list[PushFilter] = field(default_factory=lambda: [NO_FILTER])

    def start(self) -> Start:
        stored = Offset("j", "g", self.position)
        return Start(1, stored, Resume.RESUME, "c", "cg", LIMITS, 0, self.place, self.requested)

    def commit(self, endpoint: Endpoint) -> Ack:
        if endpoint.change:
            change = endpoint.change
            assert change.position == self.position
            self.place = self.place.changed(change.filter, change.position, change.needs_backfill)
            self.applied.append(change.filter)
            ack = endpoint.changed_or_refused(None)
            assert endpoint.place == self.place
            return ack
        request = endpoint.take(4, 10_000)
        is_live, is_past = request.lane is PushLane.LIVE, request.lane is PushLane.PAST
        at = self.position if is_live else self.place.backfill_position
        if request.after_position != at and not is_past:
            return endpoint.settle(OutOfStep(at), request.through.position, request.lane)
        admission = admit_pushed(request, self.heads)
        assert admission.parked == []
        events = request.events
        self.stored += [(events.persistence_id[index], events.seq_nr[index]) for index in admission.accepted]
        self.stated += admission.skipped
        through = request.through.position
        if is_live:
            self.position = through
        elif not is_past:
            self.place = replace(self.place, backfill_position=through)
        return endpoint.settle(Pushed(through, len(admission.accepted)), through, request.lane)


class World:
    """One edge, one cloud and the line between them, a step at a time."""

    def __init__(self, history: Past = Past.NONE) -> None:
        self.log, self.cloud = Log(), Cloud(requested=PushFilter(history=history))
        self.own = EVERYTHING
        self.brought: list[tuple[str, int]] = []
        self.dial()

    def dial(self) -> None:
        """The line is cut, or either side died: what was under way is gone, what is stored goes on."""
        cloud, start = self.cloud, self.cloud.start()
        self.producer = Producer(start, LIMITS, batches_max=3, ack_target_s=10, own_filter=self.own)
        self.endpoint = Endpoint("edge", 1, 1, start.stored, LIMITS, 10, cloud.place)
        self.up: deque[PushBatch | PushFilterApplied] = deque()
        self.down: deque[Ack | tuple[int, str, Past]] = deque()
        self.left = KnownEntities()

    def ask_for(self, criteria: str) -> None:
        before = self.cloud.requested
        self.cloud.requested = PushFilter(before.version + 1, criteria, history=before.history)
        self.down.append((self.cloud.requested.version, criteria, before.history))

    def send(self, max_events: int = 3) -> bool:
        producer, lanes = self.producer, self.producer.lanes
        change = producer.change_filter()
        if change:
            self.up.append(change)
            return True
        if not producer.room_bytes():
            return False
        after = producer.cursor
        page, through = self.log.read(after, producer.bound, max_events)
        if through == after:
            return False
        chosen = lanes.choose(page)
        if chosen.end is not None:
            through = page.position[chosen.end] - 1
        for entry in chosen.entries:
            if lanes.lane is PushLane.LIVE and self.log.is_own_between(entry, after):
                through = entry.position - 1
                chosen = lanes.choose(page.slice(0, through - after))
                break
            self.bring(entry)
        self.hand_over(PushBatch(after, through, "g", page.select(chosen.indexes), chosen.ranges, lanes.lane))
        self.left.note(chosen.leaving)
        return True

    def hand_over(self, batch: PushBatch) -> None:
        self.producer.sent(batch, 10, 0.0)
        self.up.append(batch)

    def bring(self, entry: Entry) -> None:
        """As the shell does it, without waiting: what is still being stored is not in the answer."""
        name, lanes = entry.persistence_id, self.producer.lanes
        known = self.left.number_of(name)
        if known is None:
            head = self.cloud.heads.get(name)
            known = known_of("edge", head.owner, head.origin_seq_nr, None) if head else 0
        rest = owed_past(entry, known)
        batch = PastBatch()
        if rest is not None:
            batch.begin(entry, known)
        covered = rest.covered if rest else 0
        while rest is not None:
            page = self.log.page(name, rest.from_seq_nr, entry.seq_nr - 1, 3)
            parts, rest = replay_page(rest, page, lanes.predicate, lanes.past)
            for part in parts:
                covered = batch.add(part, covered)
            if batch:
                self.brought += zip(batch.events.persistence_id, batch.events.seq_nr, strict=True)
                count = self.producer.past_sent
                halves = batch.halves() if len(batch.events) > 1 else (batch,)
                for at, half in enumerate(halves, start=count):
                    self.hand_over(PushBatch(at, at + 1, "g", half.events, tuple(half.ranges), PushLane.PAST))
                batch = PastBatch()

    def receive(self) -> bool:
        if not self.up:
            return False
        message = self.up.popleft()
        if isinstance(message, PushFilterApplied):
            self.endpoint.receive_change(message)
        else:
            self.endpoint.receive(message, 10)
        return True

    def commit(self) -> bool:
        if self.endpoint.is_idle:
            return False
        self.down.append(self.cloud.commit(self.endpoint))
        self.check_reach()
        return True

    def hear(self) -> bool:
        if not self.down:
            return False
        message = self.down.popleft()
        if isinstance(message, Ack):
            self.producer.ack(message, 0.0)
        else:
            self.producer.lanes.desire(*message)
        return True

    def run(self) -> None:
        """Until nothing moves."""
        while any([self.hear(), self.commit(), self.receive(), self.send()]):
            pass

    def check_reach(self) -> None:
        """Nothing is known from beyond the stored position: a message speaks of its own positions and those before."""
        events = self.log.events
        places = dict(zip(zip(events.persistence_id, events.seq_nr, strict=True), events.position, strict=True))
        for name, head in self.cloud.heads.items():
            assert places.get((name, head.origin_seq_nr), 0) <= self.cloud.position

    def check_story(self) -> None:
        """Once, in order, and nothing missing in silence."""
        stored: dict[str, list[int]] = {}
        for name, seq_nr in self.cloud.stored:
            stored.setdefault(name, []).append(seq_nr)
        for name, head in self.cloud.heads.items():
            numbers = stored.get(name, [])
            assert numbers == sorted(set(numbers))
            answer = [n for each in self.cloud.stated if each.persistence_id == name for n in numbers_of(each)]
            assert sorted(numbers + answer) == list(range(1, head.origin_seq_nr + 1))

    def selected(self, which: PushFilter) -> list[tuple[str, int]]:
        events = self.log.events
        indexes = match_batch(which.predicate(), events).indexes if len(events) else []
        return [(events.persistence_id[index], events.seq_nr[index]) for index in indexes]


def numbers_of(stated: StatedRange) -> range:
    return range(stated.from_seq_nr, stated.to_seq_nr + 1)


def play(
    world: World, data: st.DataObject, filters: tuple[str, ...], owns: tuple[str, ...] | None = None
) -> PushFilter:
    """A random story and its end; the filter that is in force then."""
    names, tags = st.sampled_from(IDS), st.sampled_from(TAGS)
    for _ in range(data.draw(st.integers(5, 40))):
        match data.draw(st.sampled_from("aaasssrrrccchhhfdo")):
            case "a":
                for name, tag in data.draw(st.lists(st.tuples(names, tags), min_size=1, max_size=4)):
                    world.log.add(name, tag)
            case "s":
                world.send(data.draw(st.integers(1, 4)))
            case "r":
                world.receive()
            case "c":
                world.commit()
            case "h":
                world.hear()
            case "f":
                world.ask_for(data.draw(st.sampled_from(filters)))
            case "d":
                world.dial()
            case _:
                world.own = data.draw(st.sampled_from(owns or filters))
                world.dial()
    world.dial()
    world.run()
    world.check_story()
    assert world.cloud.place.is_settled
    assert world.cloud.position == len(world.log.events)
    last = replace(world.cloud.requested, producer=world.own)
    assert world.cloud.place.new == last
    return last


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_entities_selected_by_id_are_there_whole_whatever_was_changed_and_cut(data: st.DataObject) -> None:
    world = World()
    last = play(world, data, BY_ID)
    assert set(world.selected(last)) <= set(world.cloud.stored)
    assert world.cloud.stated == [], "an entity that was taken out and put back goes on where it was"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_tags_select_is_there_unless_a_later_event_had_passed_it(data: st.DataObject) -> None:
    world = World()
    last = play(world, data, BY_TAG)
    passed = {(stated.persistence_id, number) for stated in world.cloud.stated for number in numbers_of(stated)}
    assert set(world.selected(last)) <= set(world.cloud.stored) | passed
    ever = {event for which in world.cloud.applied for event in world.selected(which)}
    assert set(world.cloud.stored) <= ever, "what no filter ever selected stays where it is"


def test_a_filter_that_is_widened_backfills_an_entity_that_never_emits_again() -> None:
    world = World()
    world.ask_for(BY_ID[2])
    world.run()
    for name in ("S|a", "S|b", "S|b", "S|a"):
        world.log.add(name, "")
    world.run()
    assert world.cloud.stored == [("S|a", 1), ("S|a", 2)]
    world.ask_for(BY_ID[3])
    world.run()
    assert world.cloud.stored[2:] == [("S|b", 1), ("S|b", 2)]
    assert world.cloud.place.change_position == 4


def test_changes_that_come_during_a_change_are_one_change_after_it() -> None:
    world = World()
    world.ask_for(only())
    world.run()
    for name in IDS * 3:
        world.log.add(name, "")
    world.run()
    world.ask_for(BY_ID[2])
    assert world.hear()
    assert world.send()
    for criteria in (BY_ID[4], BY_ID[5], BY_ID[3]):
        world.ask_for(criteria)
    world.run()
    assert [which.version for which in world.cloud.applied] == [0, 1, 2, 5]
    assert set(world.cloud.stored) == {(name, number) for name in ("S|a", "S|b") for number in (1, 2, 3)}


def test_the_edges_own_filter_is_obeyed_from_its_start_on_and_a_change_under_way_obeys_it_too() -> None:
    world = World()
    world.ask_for(only())
    world.run()
    for name in IDS * 2:
        world.log.add(name, "")
    world.run()
    world.ask_for(EVERYTHING)
    world.hear()
    world.send()
    world.receive()
    world.commit()
    assert not world.cloud.place.is_settled
    world.own = BY_ID[2]
    world.dial()
    world.run()
    assert {name for name, _ in world.cloud.stored} == {"S|a"}


def test_an_entity_that_enters_by_its_tags_states_what_it_jumps_over() -> None:
    world = World()
    world.ask_for(only(include_tags=["red"]))
    world.run()
    for tags in ("", "", "red", "red", "blue", "blue", "red"):
        world.log.add("S|a", tags)
    world.run()
    assert world.cloud.stored == [("S|a", 3), ("S|a", 4), ("S|a", 5), ("S|a", 7)]
    assert world.cloud.stated == [StatedRange("S|a", 1, 2, "withheld"), StatedRange("S|a", 6, 6, "withheld")]


def test_a_stated_start_is_obeyed_by_both_lanes() -> None:
    world = World()
    world.ask_for(only())
    world.run()
    for _ in range(5):
        world.log.add("S|a", "")
        world.log.add("S|b", "")
    world.run()
    world.ask_for(only(include_ids=[{"id": "a", "from_seq_nr": 4}, {"id": "b", "from_seq_nr": 7}]))
    world.run()
    for _ in range(3):
        world.log.add("S|a", "")
        world.log.add("S|b", "")
    world.run()
    assert sorted(world.cloud.stored) == [("S|a", n) for n in (4, 5, 6, 7, 8)] + [("S|b", n) for n in (7, 8)]
    world.check_story()


def test_a_log_that_parted_below_a_change_has_no_more_to_backfill_than_is_left() -> None:
    place = PushFilterState(NO_FILTER, PushFilter(1, only()), 100, 40)
    assert place.at(120) is place
    assert place.at(60) == replace(place, change_position=60)
    assert place.at(30).is_settled
    assert place.at(0) == replace(place, change_position=0, backfill_position=0)


def test_a_change_that_selects_the_same_or_less_than_everything_needs_no_backfill() -> None:
    def needs(old: PushFilter, new: PushFilter, position: int = 9) -> bool:
        return FilterTransition(PushFilterState(new=old), new).change(position).needs_backfill

    narrow, other = PushFilter(1, only()), PushFilter(2, BY_ID[2])
    assert needs(narrow, other)
    assert not needs(narrow, other, position=0)
    assert not needs(NO_FILTER, narrow)
    assert not needs(narrow, replace(narrow, version=2))


class TestWhatAPeerMustNotSend:
    def endpoint(self, place: PushFilterState = UNFILTERED) -> Endpoint:
        return Endpoint("edge", 1, 1, Offset("j", "g", 5), LIMITS, 10, place)

    @pytest.mark.parametrize(
        "change",
        [
            PushFilterApplied(PushFilter(1, only()), 4, needs_backfill=False),
            PushFilterApplied(PushFilter(1, only()), 6, needs_backfill=True),
        ],
    )
    def test_a_change_elsewhere_than_where_it_is(self, change: PushFilterApplied) -> None:
        with pytest.raises(BackhaulError, match=r"link\.protocol"):
            self.endpoint().receive_change(change)

    def test_a_change_during_a_change(self) -> None:
        change = PushFilterApplied(PushFilter(1, only()), 5, needs_backfill=True)
        endpoint = self.endpoint()
        endpoint.receive_change(change)
        with pytest.raises(BackhaulError, match=r"link\.protocol"):
            endpoint.receive_change(change)

    def test_a_filter_that_is_none(self) -> None:
        with pytest.raises(BackhaulError, match=r"filter\.invalid"):
            self.endpoint().receive_change(PushFilterApplied(PushFilter(1, "{}"), 5, needs_backfill=True))

    @pytest.mark.parametrize(
        ("place", "batch"),
        [
            (UNFILTERED, PushBatch(0, 3, "g", EventBatch(), (), PushLane.BACKFILL)),
            (PushFilterState(change_position=5), PushBatch(5, 6, "g", EventBatch())),
            (PushFilterState(change_position=5), PushBatch(0, 6, "g", EventBatch(), (), PushLane.BACKFILL)),
            (PushFilterState(change_position=5), PushBatch(1, 3, "g", EventBatch(), (), PushLane.BACKFILL)),
        ],
    )
    def test_a_batch_of_a_lane_that_is_not_served(self, place: PushFilterState, batch: PushBatch) -> None:
        with pytest.raises(BackhaulError, match=r"link\.protocol"):
            self.endpoint(place).receive(batch, 10)
