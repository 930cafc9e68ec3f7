"""Events deleted before they were sent, whatever copy of the log goes on: nothing good is parked, nothing is silent.

The model is a log with what it deleted, as a journal keeps it (one number an entity, and where it stood), copies of it,
and the endpoint's heads and ranges, judged by the rules themselves. Payloads are serial numbers, so that an event that
two copies have in common is the same one.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import EntityHead, admit_pushed, cut_range
from common.core.journal.append import PushedAppend
from common.core.journal.history import (
    Generation,
    History,
    Offset,
    OriginState,
    Resume,
    begin_generation,
    decide_resume,
)
from common.core.push.deletions import AHEAD_MAX_BYTES, RANGE_BYTES, StatedDeletions, fits_ahead

ENTITIES = ["P|a", "P|b", "P|c"]


@dataclass
class Log:
    """A sender's journal; ``events`` are (position, entity, seq_nr, serial)."""

    events: list[tuple[int, str, int, int]] = field(default_factory=list)
    written: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    generations: tuple[Generation, ...] = (Generation("g0", 1),)
    head: int = 0
    deletions: int = 0

    def append(self, name: str, serial: int) -> None:
        self.head += 1
        self.numbers[name] = self.numbers.get(name, 0) + 1
        self.events.append((self.head, name, self.numbers[name], serial))
        self.written[self.head] = (name, self.numbers[name], serial)

    def delete(self, count: int, through: int, reason: str) -> None:
        """Remove the oldest events, as retention does."""
        self.deletions += 1
        gone = [event for event in self.events if event[0] <= through][:count]
        for position, name, seq_nr, _ in gone:
            self.deleted[name] = (seq_nr, position, reason)
        self.events = self.events[len(gone) :]

    def ahead(self, after: int) -> list[StatedRange]:
        return [
            StatedRange(name, 1, seq_nr, reason)
            for name, (seq_nr, position, reason) in self.deleted.items()
            if position > after
        ]

    def page(self, after: int, count: int) -> tuple[EventBatch, int]:
        rows = [event for event in self.events if event[0] > after][:count]
        events = new_events([row[1] for row in rows], [""] * len(rows), [str(row[3]).encode() for row in rows])
        events.position = [row[0] for row in rows]
        events.seq_nr = [row[2] for row in rows]
        events.prev_seq_nr = [row[2] - 1 for row in rows]
        return events, rows[-1][0] if len(rows) == count else self.head


@dataclass
class Cloud:
    """The endpoint: an origin, heads, ranges by branch, and the serial numbers of what is stored."""

    origin: OriginState | None = None
    heads: dict[str, EntityHead] = field(default_factory=dict)
    ranges: list[tuple[int, StatedRange]] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)

    def dial(self, log: Log, instance: str) -> Resume:
        decision = decide_resume(self.origin, "edge", instance, History("j", log.generations, log.head), 0)
        self.origin = decision.state
        return decision.resume

    def take(self, log: Log, after: int, through: int, events: EventBatch, ranges: list[StatedRange]) -> None:
        origin = self.origin
        assert origin
        generation = History("j", log.generations, log.head).generation_at(through)
        request = PushedAppend(
            "edge",
            origin.session,
            origin.branch,
            after,
            Offset("j", generation, through),
            events,
            tuple(ranges),
        )
        admission = admit_pushed(
            request,
            self.heads,
            {},
            lambda name: [
                kept for branch, kept in self.ranges if branch == request.branch and kept.persistence_id == name
            ],
        )
        assert not admission.parked, (admission.parked, request)
        cut = []
        for branch, kept in self.ranges:
            back = admission.returned.get(kept.persistence_id) if branch == request.branch else None
            left = kept if back is None else cut_range(kept, back)
            cut += [(branch, left)] if left else []
        self.ranges = [*cut, *((request.branch, stated) for stated in admission.skipped)]
        self.stored += [int(events.payload[index]) for index in admission.accepted]
        self.origin = OriginState(
            **{
                name: getattr(origin, name)
                for name in ("origin_id", "session", "instance", "branch", "generations", "left_behind")
            },
            stored=request.through if through > after else origin.stored,
        )


class World:
    """One live log, its backups, and the endpoint; ``data`` decides what happens."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.log, self.cloud = Log(), Cloud()
        self.backups: list[Log] = []
        self.serial = self.starts = 0
        self.deletions, self.looked_at = StatedDeletions(), -1
        self.begin()

    def begin(self) -> bool:
        """A process starts on the live log and dials; False when it is refused."""
        self.starts += 1
        self.log.generations = begin_generation(self.log.generations, f"g{self.starts}", self.log.head)
        self.deletions, self.looked_at = StatedDeletions(), -1
        return self.cloud.dial(self.log, f"i{self.starts}") is not Resume.SUPERSEDED

    @property
    def position(self) -> int:
        assert self.cloud.origin
        return self.cloud.origin.stored.position

    def push(self, count: int, ahead_max: int) -> None:
        """One message, as the sender makes it; events may be deleted between reading the page and asking for ranges."""
        log, after = self.log, self.position
        if after >= log.head:
            return
        events, through = log.page(after, count)
        if self.data.draw(st.integers(0, 3), "deleted meanwhile") == 0:
            log.delete(3, log.head, "dropped")
        ranges: list[StatedRange] = []
        if len(events) < through - after:
            if self.looked_at != log.deletions:
                self.looked_at, ahead = log.deletions, log.ahead(after)
                self.deletions.keep(stated.persistence_id for stated in ahead)
                self.deletions.look_at(ahead)
            ranges, is_all = self.deletions.unstated(events, ahead_max * 4 * (len(ENTITIES[0]) + RANGE_BYTES))
            if not is_all:
                events, through = EventBatch(), after
        self.deletions.sent(ranges)
        self.cloud.take(log, after, through, events, ranges)

    def step(self) -> None:
        draw = self.data.draw
        match draw(
            st.sampled_from(["append"] * 4 + ["push"] * 3 + ["drop", "drop", "trim", "back up", "restore", "restart"])
        ):
            case "append":
                for name in draw(st.lists(st.sampled_from(ENTITIES), min_size=1, max_size=4)):
                    self.serial += 1
                    self.log.append(name, self.serial)
            case "push":
                self.push(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
            case "drop":
                self.log.delete(draw(st.integers(1, 6)), self.log.head, "dropped")
            case "trim":
                self.log.delete(draw(st.integers(1, 6)), self.position, "trimmed")
            case "back up":
                self.backups.append(deepcopy(self.log))
            case "restore" if self.backups:
                kept, self.log = self.log, deepcopy(draw(st.sampled_from(self.backups)))
                before = deepcopy(self.cloud)
                if not self.begin():  # left behind by a fork: only an operator lets it in
                    self.log, self.cloud = kept, before
                    self.begin()
            case "restart":
                self.begin()
        self.check()

    def check(self) -> None:
        """Everything of the live log up to where it is stored is stored or stated; nothing is stored twice."""
        assert len(self.cloud.stored) == len(set(self.cloud.stored))
        stored = set(self.cloud.stored)
        for position, (name, seq_nr, serial) in self.log.written.items():
            if position <= self.position and serial not in stored:
                assert any(
                    kept.persistence_id == name and kept.from_seq_nr <= seq_nr <= kept.to_seq_nr
                    for _, kept in self.cloud.ranges
                ), (position, name, seq_nr, serial)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_copy_goes_on_nothing_good_is_parked_and_no_deletion_is_silent(data: st.DataObject) -> None:
    world = World(data)
    for _ in range(data.draw(st.integers(5, 30), "steps")):
        world.step()
    while world.position < world.log.head:
        world.push(3, 2)
        world.check()


def test_a_range_ends_before_the_entitys_first_event_in_the_page() -> None:
    events, _ = log_of("P|a", "P|a", "P|a").page(1, 2)
    news = StatedDeletions().news(events, [StatedRange("P|a", 1, 3, "dropped"), StatedRange("P|b", 1, 3, "trimmed")])
    assert list(news) == [StatedRange("P|a", 1, 1, "dropped"), StatedRange("P|b", 1, 3, "trimmed")]


def test_what_was_stated_is_not_stated_again_unless_more_is_gone() -> None:
    deletions, gone = StatedDeletions(), StatedRange("P|a", 1, 3, "dropped")
    deletions.sent([gone])
    more = StatedRange("P|a", 1, 4, "dropped")
    assert list(deletions.news(EventBatch(), [gone])) == []
    assert list(deletions.news(EventBatch(), [more])) == [more]
    deletions.keep(["P|b"])
    assert list(deletions.news(EventBatch(), [gone])) == [gone]


def test_what_was_looked_at_is_left_to_state_until_it_is_sent() -> None:
    deletions, gone = StatedDeletions(), [StatedRange(name, 1, 3, "dropped") for name in ENTITIES]
    deletions.look_at(gone)
    first, is_all = deletions.unstated(EventBatch(), 1)
    assert (first, is_all) == (gone[:1], False)
    deletions.sent([StatedRange("P|b", 1, 2, "dropped")])
    assert deletions.unstated(EventBatch(), 10**9) == (gone, True), "a part of it is not all"
    deletions.sent(first)
    assert deletions.unstated(EventBatch(), 10**9) == (gone[1:], True)
    deletions.sent(gone)
    assert deletions.unstated(EventBatch(), 10**9) == ([], True)


@pytest.mark.parametrize(
    ("count", "message_bytes", "fits"), [(3, 10**9, 3), (3, 1, 1), (10_000, 10**9, AHEAD_MAX_BYTES // 42), (0, 1, 0)]
)
def test_as_many_ranges_go_into_a_message_as_leave_room_for_its_events(
    count: int, message_bytes: int, fits: int
) -> None:
    ranges = [StatedRange(f"P|{n:08d}", 1, 3, "dropped") for n in range(count)]
    assert fits_ahead(ranges, message_bytes) == (ranges[:fits], fits == count)


def log_of(*names: str) -> Log:
    log = Log()
    for serial, name in enumerate(names, start=1):
        log.append(name, serial)
    return log
