"""What a consumer's stream has said so far, as plainly as can be, beside the source's whole history.

``StreamWatch`` hears every message at the consumer's end and keeps its own idea of both cursors, of the filters and of
what each step of a cursor owes. ``Received`` is one commit at the consumer compared with that: the rows it brought, the
numbers it led over, and what it owes now that the place has moved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from common.core.events.ids import entity_type_of
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import within
from common.core.filters.predicates import AllOf, EntityPredicate, Filter, OnlyNew, parse_filter
from common.core.subscription.messages import (
    BackfillDone,
    Begin,
    Deliver,
    DeliveryLane,
    FilterApplied,
    FilterUpdate,
    FromConsumer,
    FromSource,
    OrderTime,
    Progress,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import FilterState, LogCursor, ResumePoint, Subscription
from common.journal.stores.subscriptions import InboxRow
from tests.simulation.disks import Disk
from tests.simulation.down.plan import ENFORCED, STREAM_TYPES

Number = tuple[str, int]
"""An event by its entity and number."""


@dataclass(frozen=True, slots=True)
class Row:
    """An event of a source's history; ``tags_before`` are its predecessor's, its own for a first one."""

    position: int
    persistence_id: str
    seq_nr: int
    tags: str
    tags_before: str
    payload: bytes

    def is_selected(self, predicate: EntityPredicate) -> bool:
        """Whether a reader with this filter is to have it."""
        name = self.persistence_id
        if self.seq_nr < predicate.from_seq_nr(name):
            return False
        return predicate.matches(name, self.tags) or predicate.matches(name, self.tags_before)


class History:
    """A disk's whole history as rows; what was committed since is taken in when somebody asks."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._source = disk.history
        self._rows: list[Row] = []
        self._of: dict[str, list[Row]] = {}

    def rows(self) -> Sequence[Row]:
        """All of them; the row at position p has index p - 1."""
        if self.disk.history is not self._source:  # the disk was put back to an older state
            self.__init__(self.disk)  # type: ignore[misc]
        events = self._source
        for index in range(len(self._rows), len(events)):
            name, tags = events.persistence_id[index], events.tags[index]
            own = self._of.setdefault(name, [])
            before = own[-1].tags if own else tags
            row = Row(events.position[index], name, events.seq_nr[index], tags, before, events.payload[index])
            assert row.position == index + 1, "positions have no holes"
            self._rows.append(row)
            own.append(row)
        return self._rows

    def row(self, name: str, seq_nr: int) -> Row | None:
        """One event."""
        self.rows()
        own = self._of.get(name, ())
        return own[seq_nr - 1] if 1 <= seq_nr <= len(own) else None

    def leaves(self, row: Row, wanted: EntityPredicate) -> bool:
        """Whether its entity leaves the filter with it."""
        name = row.persistence_id
        return wanted.matches(name, row.tags_before) and not wanted.matches(name, row.tags)

    def of_entity(self, name: str) -> Sequence[Row]:
        """All events of one entity."""
        self.rows()
        return self._of.get(name, ())

    def is_outdated(self, row: Row, wanted: EntityPredicate) -> bool:
        """Whether a snapshot stands for it that is not selected: its entity had left the filter when that was read."""
        for name, number in self.disk.snapshots:
            if name == row.persistence_id and number >= row.seq_nr:
                at = self.row(name, number)
                if at is not None and not wanted.matches(name, at.tags):
                    return True
        return False

    def kept(self) -> set[int]:
        """Positions that no retention has removed yet."""
        return set(self.disk.state.log.position)


@dataclass(frozen=True, slots=True)
class Stated:
    """Why numbers up to ``to_seq_nr`` may be led over, said when ``wanted`` was the filter."""

    to_seq_nr: int
    reason: str
    wanted: EntityPredicate
    past: Past
    begin: int
    """Where the consumer began from now."""


@dataclass(slots=True)
class _Step:
    """A message that has a place after it, and what is owed once that place is stored."""

    place: tuple[object, ...]
    owed: list[Number] = field(default_factory=list)


class StreamWatch:
    """One stream from Subscribe on. ``is_current`` says whether the source is still the one that was dialled."""

    def __init__(self, disk: Disk, source: History, edge: str, is_current: Callable[[], bool]) -> None:
        self.disk = disk
        self.source = source
        self.edge = edge
        self.is_current = is_current
        self.name = ""
        self.allowed: Filter = parse_filter("[]")
        self.types: frozenset[str] = frozenset()
        self.past = Past.SNAPSHOT
        self.start: Begin | OrderTime = Begin.LOG
        self.place: ResumePoint | None = None
        self.stated: dict[str, list[Stated]] = {}
        self.leaving: dict[Number, set[bool]] = {}
        self._replays: dict[str, list[tuple[int, list[Number]]]] = {}
        self._asked: dict[int, FilterState] = {}
        self._steps: deque[_Step] = deque()
        self._made = 0
        self._passed = self._passed_before = 0

    # -- filters ---------------------------------------------------------------------------------------------------
    def _all(self, *filters: FilterState | None) -> EntityPredicate:
        return within(self.allowed, AllOf(tuple(parse_filter(one.criteria) for one in filters if one is not None)))

    @property
    def wanted(self) -> EntityPredicate:
        """What the consumer is to have in the end."""
        assert self.place is not None
        return self._all(self.place.next or self.place.applied)

    def _selects(self, lane: DeliveryLane) -> EntityPredicate:
        assert self.place is not None
        applied, following = self.place.applied, self.place.next
        if lane is DeliveryLane.LIVE or following is None:
            return self._all(applied, following)
        return within(self.allowed, OnlyNew(parse_filter(following.criteria), parse_filter(applied.criteria)))

    def is_of_stream(self, name: str) -> bool:
        """Whether the stream has entities of this type."""
        return not self.types or entity_type_of(name) in self.types

    # -- messages --------------------------------------------------------------------------------------------------
    def said(self, message: FromConsumer) -> None:
        """The consumer has sent it."""
        match message:
            case Subscribe():
                self.name = message.subscription
                self.allowed = parse_filter(ENFORCED.get(message.stream_id, "[]").replace("{id}", self.edge))
                self.past = message.past
                self.start = message.start
                self.types = STREAM_TYPES.get(message.stream_id, frozenset({message.stream_id}))
                asked = (message.requested, message.place.applied, message.place.next)
                self._asked = {one.version: one for one in asked if one is not None}
            case FilterUpdate():
                self._asked[message.version] = FilterState(message.version, message.criteria)
            case _:
                pass

    def heard(self, message: FromSource) -> None:
        """The consumer has received it."""
        place = self.place
        match message:
            case Subscribed():
                self.place = message.place
                self._step([])
            case FilterApplied():
                assert place is not None
                asked = replace(self._asked[message.version], wall=message.wall)
                if message.begin is None:
                    self.place = _with(place, applied=asked)
                else:
                    self.place = _with(place, next=asked, backfill=message.begin)
                self._step([])
            case BackfillDone():
                assert place is not None
                assert place.next is not None
                self.place = _with(place, applied=place.next, next=None, backfill=None)
                self._step([])
            case Progress():
                self._step(self._move(message, message.lane))
            case Deliver():
                self._delivered(message)
            case _:
                pass

    def _delivered(self, message: Deliver) -> None:
        wanted, begin = self.wanted, self.place.begin if self.place else 0
        for one in message.ranges:
            self.stated.setdefault(one.persistence_id, []).append(
                Stated(one.to_seq_nr, one.reason, wanted, self.past, begin)
            )
        events = message.events
        leaving = set(message.leaving)
        for index, name in enumerate(events.persistence_id):
            if index < message.snapshots:
                number = events.seq_nr[index]
                self.stated.setdefault(name, []).append(Stated(number, "snapshot", wanted, self.past, begin))
            else:
                self.leaving.setdefault((name, events.seq_nr[index]), set()).add(events.position[index] in leaving)
        if message.lane is not DeliveryLane.REPLAY:
            self._step(self._move(message, message.lane))
        elif message.replay_done:
            self._replayed(message.replay_of, message.through, wanted)

    def _replayed(self, name: str, through: int, wanted: EntityPredicate) -> None:
        """A replay of an entity is whole: up to its end it owes what the filter selects now, in place of earlier steps.

        The events of an entity that waits are not taken from the lanes, and by the time they are replayed the filter
        may have become narrower than it was when a lane led past them.
        """
        kept = self.source.kept()
        rows = [row for row in self.source.of_entity(name) if row.position <= through and self.is_of_stream(name)]
        begin = self.place.begin if self.place else 0
        owed = [row for row in rows if row.position in kept and row.position > begin and row.is_selected(wanted)]
        owes = [(name, row.seq_nr) for row in owed]
        settled = {(name, row.seq_nr) for row in rows} - set(owes)
        self._replays.setdefault(name, []).append((self._made, owes))
        for step in self._steps:
            step.owed = [number for number in step.owed if number not in settled]

    def _move(self, message: Deliver | Progress, lane: DeliveryLane) -> list[Number]:
        place, selects = self.place, self._selects(lane)
        assert place is not None
        before = place.backfill if lane is DeliveryLane.BACKFILL else place.live
        scan = message.scan if isinstance(message, Deliver) else None
        cursor = LogCursor(message.through, scan=scan)
        self.place = _with(place, backfill=cursor) if lane is DeliveryLane.BACKFILL else _with(place, live=cursor)
        if scan is not None:
            return []
        ends_scan = before is not None and before.scan is not None
        kept = self.source.kept()
        return [
            (row.persistence_id, row.seq_nr)
            for row in self.source.rows()[message.after : message.through]
            if row.position in kept
            and self.is_of_stream(row.persistence_id)
            and row.is_selected(selects)
            and not (ends_scan and self.source.is_outdated(row, selects))
        ]

    def _step(self, owed: list[Number]) -> None:
        assert self.place is not None
        self._steps.append(_Step(_key(self.place), owed))
        self._made += 1

    def owed_at(self, stored: Subscription) -> list[Number] | None:
        """What must have taken effect now that this place is stored; None when the stream has no such place."""
        key = _key(stored.place)
        last = max((index for index, step in enumerate(self._steps) if step.place == key), default=-1)
        if last < 0:
            return None
        owed = [number for index in range(last + 1) for number in self._steps[index].owed]
        for _ in range(last):
            self._steps.popleft()
        self._passed_before, self._passed = self._passed, self._passed + last
        self._steps[0].owed = []
        return owed

    def replays_of(self, name: str) -> list[list[Number]]:
        """What the replays owed that can have ended the entity's waiting by the place stored last.

        Those heard behind that place, and the last one between it and the place stored before. Later ones may be of another
        filter.
        """
        heard = self._replays.get(name, [])
        before = [owed for made, owed in heard if self._passed_before < made <= self._passed]
        return before[-1:] + [owed for made, owed in heard if made == self._passed + 1]


def _with(place: ResumePoint, **changes: object) -> ResumePoint:
    values = {name: getattr(place, name) for name in ("journal_id", "generation_id", "live", "applied")}
    values |= {"backfill": place.backfill, "next": place.next, "change_position": place.change_position}
    values |= {"begin": place.begin, **changes}
    return ResumePoint(**values)


def _key(place: ResumePoint) -> tuple[object, ...]:
    backfill = place.backfill
    cursors = (place.live.position, place.live.scan, backfill and (backfill.position, backfill.scan))
    return (*cursors, place.applied, place.next)


@dataclass(frozen=True, slots=True)
class Received:
    """A commit at a consumer. ``rows`` are new in the inbox, ``passed`` were led over, ``owed`` as of the new place."""

    disk: Disk
    watch: StreamWatch
    rows: list[InboxRow]
    known_before: dict[str, int]
    known: dict[str, int]
    waiting_before: frozenset[str]
    waiting: frozenset[str]
    passed: list[Number]
    owed: list[Number] | None
    restarts: dict[str, int]
    """Entities that begin again with this commit, with the number from which their events come."""
    deleted: list[StatedRange]
    """What programs are informed of as deleted at the source."""

    @property
    def place(self) -> ResumePoint:
        """The place that is stored with it."""
        place: ResumePoint = self.disk.state.subscriptions[self.watch.name].current.place
        return place

    def misses(self, number: Number) -> bool:
        """Whether a number is still to come, and its entity does not wait for a replay."""
        name, seq_nr = number
        return seq_nr > self.known.get(name, 0) and name not in self.waiting


def passed_by(known_before: dict[str, int], known: dict[str, int], rows: Sequence[InboxRow]) -> Iterator[Number]:
    """Numbers that a commit knows of and did not bring."""
    brought = {(row.event.persistence_id, row.event.seq_nr) for row in rows}
    for name, seq_nr in known.items():
        for number in range(known_before.get(name, 0) + 1, seq_nr + 1):
            if (name, number) not in brought:
                yield name, number
