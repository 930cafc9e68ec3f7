"""The consumer's end of a subscription as pure parts: does a message continue, and which of its events take effect?

``Receiving`` follows the stream: each lane must go on where it ended, and the answer to every message is the place that
is stored with its effect. ``admit_received`` is the second, independent check, per entity: an event takes effect when
its previous number is the one known; what is known already is a repeat; anything else is a gap, and the entity waits
for a replay while all others flow on. Nothing is ever taken in out of an entity's order.

    an entity    gets                                             does                              becomes
    -----------  -----------------------------------------------  --------------------------------  -----------
    in order     previous number = known                          take effect, known = number       in order
    in order     number <= known                                  drop as a repeat                  in order
    in order     range stated from known + 1                      known = end of the range          in order
    in order     previous number > known                          Replay from known + 1             awaiting
    awaiting     another lane: all but snapshots                  drop: the replay brings it        awaiting
    awaiting     event or range of the replay that continues      take effect, known = number       awaiting
    awaiting     replay_done, everything replayed is known       nothing                            in order
    awaiting     replay_done, a gap is left                       keep waiting, log it              awaiting
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from operator import lt
from typing import Protocol

from common.core.errors import BackhaulError, ErrorKind
from common.core.events import rules as event_rules
from common.core.events.batch import EventBatch
from common.core.events.ids import NAME_MAX_BYTES, persistence_id_problem, text_problem
from common.core.events.leaving import has_marks, is_mark
from common.core.events.stated_range import StatedRange
from common.core.subscription.messages import BackfillDone, Deliver, DeliveryLane, FilterApplied, Progress, Subscribed
from common.core.subscription.place import (
    FilterState,
    LogCursor,
    PlaceVerdict,
    ResumePoint,
    SnapshotScan,
    Unstated,
    decide_resume_point,
    reached_by,
)

_ANY_SIZE = 2**62
_OTHER_HISTORY = (PlaceVerdict.OTHER_JOURNAL, PlaceVerdict.DIVERGED, PlaceVerdict.BEYOND_HEAD)
DIGEST_MAX_BYTES = 64
SNAPSHOT = "snapshot"


class Waiting(Protocol):
    """Entities that wait for a replay: a set, or something that does as much."""

    def __contains__(self, name: object, /) -> bool: ...
    def add(self, name: str, /) -> None: ...
    def discard(self, name: str, /) -> None: ...


@dataclass(slots=True)
class Received:
    """What a delivery does: indexes of the events that take effect, what is known now, who begins or ends to wait.

    ``passed`` are the numbers that are led over: stated, or replaced by a snapshot. ``parked`` are entities whose replay has
    a gap: they go on waiting.
    """

    accepted: list[int] = field(default_factory=list)
    passed: list[StatedRange] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    awaiting: dict[str, bool] = field(default_factory=dict)
    parked: list[str] = field(default_factory=list)
    repeated: int = 0
    dropped: int = 0


def admit_received(
    message: Deliver, known: MutableMapping[str, int], awaiting: Waiting, missed: MutableMapping[str, int]
) -> Received:
    """Judge a delivery's ranges and events in their order; ``known``, ``awaiting`` and ``missed`` are moved along.

    ``known`` has the last number of every entity in the message that has one; ``awaiting`` those that wait for a replay:
    of them only a replay's events count, or a range stated on another lane would lead over what the replay brings.
    ``missed`` has, for all replays of this stream, the highest number that one brought and that did not fit. A replay is
    many messages and its end is one of them: an entity ends to wait only when everything that was replayed is known.
    """
    received = Received()
    in_replay = message.lane is DeliveryLane.REPLAY

    def move(persistence_id: str, seq_nr: int) -> None:
        known[persistence_id] = received.known[persistence_id] = seq_nr

    def lead_over(persistence_id: str, to_seq_nr: int, reason: str) -> None:
        first = known.get(persistence_id, 0) + 1
        if to_seq_nr >= first:
            received.passed.append(StatedRange(persistence_id, first, to_seq_nr, reason))
            move(persistence_id, to_seq_nr)

    def begin_to_wait(persistence_id: str, seq_nr: int) -> None:
        received.dropped += 1
        if in_replay:
            received.parked.append(persistence_id)
            missed[persistence_id] = max(seq_nr, missed.get(persistence_id, 0))
        if persistence_id not in awaiting:  # a start that the filter states is replayed to entities that do not wait
            awaiting.add(persistence_id)
            received.awaiting[persistence_id] = True
            move(persistence_id, known.get(persistence_id, 0))  # kept also when nothing is known of the entity yet

    for stated in message.ranges:
        name, last = stated.persistence_id, known.get(stated.persistence_id, 0)
        if name in awaiting and not in_replay:
            continue
        if stated.from_seq_nr > last + 1:
            begin_to_wait(name, stated.to_seq_nr)
        else:
            lead_over(name, stated.to_seq_nr, stated.reason)
    events = message.events
    rows = zip(events.persistence_id, events.seq_nr, events.prev_seq_nr, strict=True)
    for index, (name, seq_nr, prev_seq_nr) in enumerate(rows):
        last = known.get(name, 0)
        if name in awaiting and not in_replay and index >= message.snapshots:
            received.dropped += 1
        elif seq_nr <= last:
            received.repeated += 1
        elif index < message.snapshots or prev_seq_nr == last:
            if index < message.snapshots:
                lead_over(name, seq_nr - 1, SNAPSHOT)
            received.accepted.append(index)
            move(name, seq_nr)
        else:
            begin_to_wait(name, seq_nr)
    replayed = message.replay_of
    if message.replay_done and replayed in awaiting and known.get(replayed, 0) >= missed.get(replayed, 0):
        awaiting.discard(replayed)
        received.awaiting[replayed] = False
        missed.pop(replayed, None)
    return received


class Receiving:
    """The stream as the consumer sees it. ``place`` is where it is after all messages so far."""

    def __init__(self, place: ResumePoint, requested: FilterState) -> None:
        self.place = place
        self.deliveries = 0
        self._asked = {requested.version: requested}

    def begin(self, subscribed: Subscribed) -> None:
        """Take the place that the source goes on from; it must serve filters that this side has asked for.

        A source compares histories itself and refuses; one that does not would leave this side with a place in a history
        that it never followed. So both ends decide by the same rule.

        Raises:
            BackhaulError: ``link.protocol``; ``subscription.other_journal``, ``…diverged`` or ``…beyond_head``.
        """
        start = subscribed.place
        verdict = decide_resume_point(self.place, subscribed.history, 0)
        if verdict in _OTHER_HISTORY:
            raise BackhaulError(
                f"subscription.{verdict.value}",
                f"the source goes on with a history that is not the one followed up to {reached_by(self.place)}",
                "is the address that of the source followed so far? on_diverged = restart begins anew",
                kind=ErrorKind.CONFLICT,
            )
        known = [self.place.applied, *self._asked.values()]
        if self.place.next is not None:
            known.append(self.place.next)
        named = [start.applied] if start.next is None else [start.applied, start.next]
        wrong_filter = not all(any(map(one.is_asked_as, known)) for one in named)
        if wrong_filter or (start.next is None) != (start.backfill is None):
            raise _broken("Subscribed names filters that were not asked for")
        # What this side knows is for it to say: the source has kept nothing of it.
        reached, unstated = self.place.reached, self.place.unstated
        if start.live.position < self.place.live.position:  # it goes back over what it had not stated (``gone_back``)
            reached, unstated = reached_by(self.place), None
        self.place = replace(start, journal_id=subscribed.history.journal_id, reached=reached, unstated=unstated)
        self._generations = subscribed.history
        self._place_generation()

    def asked(self, requested: FilterState) -> None:
        """A FilterUpdate was sent."""
        self._asked[requested.version] = requested

    @property
    def newest_requested(self) -> int:
        """Version of the newest filter the source knows of."""
        return max(self._asked)

    def deliver(self, message: Deliver) -> ResumePoint:
        """The place after a delivery.

        Raises:
            BackhaulError: ``link.protocol`` when it does not continue its lane or contradicts itself.
        """
        self.deliveries += 1
        events, n = message.events, len(message.events)
        if not 0 <= message.snapshots <= n:
            raise _broken(f"a delivery of {n} events with {message.snapshots} snapshots")
        if event_rules.problems(events, _ANY_SIZE, is_stored=True, may_leave=True) or any(
            map(_range_problem, message.ranges)
        ):
            raise _broken("a delivery with events or ranges that cannot be stored")
        if message.lane is DeliveryLane.REPLAY:
            names = {*events.persistence_id, *(stated.persistence_id for stated in message.ranges)}
            if persistence_id_problem(message.replay_of) or names - {message.replay_of}:
                raise _broken("a replay of one entity with events of another")
            self._reach(message.reached)
            self._place_generation()
            return self.place
        positions = events.position[message.snapshots :]
        in_order = all(map(lt, [message.after, *positions], positions))
        if not in_order or (positions and positions[-1] > message.through):
            raise _broken(f"events out of place between {message.after} and {message.through}")
        if message.scan is not None and positions:
            raise _broken("events of the log among snapshots")
        return self._move(message.lane, message, message.scan)

    def progress(self, message: Progress) -> ResumePoint:
        """The place after it. Raises ``link.protocol``."""
        return self._move(message.lane, message, None)

    def _move(self, lane: DeliveryLane, message: Deliver | Progress, scan: SnapshotScan | None) -> ResumePoint:
        place = self.place
        cursor = place.backfill if lane is DeliveryLane.BACKFILL else place.live
        if lane is DeliveryLane.REPLAY or cursor is None:
            raise _broken(f"the {lane.value} lane is not open")
        is_scanning = cursor.scan is not None
        moved_in_scan = scan is not None and cursor.scan is not None and scan.after > cursor.scan.after
        has_content = isinstance(message, Deliver) and bool(message.snapshots or message.ranges)
        goes_on = message.through > message.after or moved_in_scan or has_content or (is_scanning and scan is None)
        if message.after != cursor.position or message.through < message.after or not goes_on:
            raise _broken(f"positions {message.after} to {message.through} after {cursor.position}")
        if scan is not None and (not moved_in_scan or message.through != message.after):
            raise _broken("snapshots that do not go on")
        if lane is DeliveryLane.BACKFILL and message.through > place.live.position:
            raise _broken(f"backfill at {message.through} has passed the live lane at {place.live.position}")
        if text_problem(message.digest, DIGEST_MAX_BYTES) or min(message.timestamp_us, message.unstated_to) < 0:
            raise _broken("a place that cannot be stored")
        cursor = LogCursor(message.through, message.digest, message.timestamp_us, scan)
        self.place = replace(place, backfill=cursor) if lane is DeliveryLane.BACKFILL else replace(place, live=cursor)
        self._reach(message.reached if isinstance(message, Deliver) else 0)
        self._note_unstated(message)
        self._place_generation()
        return self.place

    def filter_applied(self, message: FilterApplied) -> ResumePoint:
        """The place with the change in it. Raises ``link.protocol``."""
        place, asked = self.place, self._asked.get(message.version)
        if asked is None or place.next is not None or message.change_position != place.live.position:
            raise _broken(f"filter {message.version} applied at {message.change_position}")
        self._asked = {version: one for version, one in self._asked.items() if version >= message.version}
        asked = replace(asked, wall=message.wall)
        if message.begin is None:
            self.place = replace(place, applied=asked)
        else:
            self.place = replace(place, next=asked, backfill=message.begin, change_position=message.change_position)
        return self.place

    def backfill_done(self, message: BackfillDone) -> ResumePoint:
        """The place after the lanes have met. Raises ``link.protocol`` when they have not."""
        place = self.place
        if place.next is None or place.backfill is None or place.next.version != message.version:
            raise _broken(f"backfill for filter {message.version} is done and was not under way")
        if place.backfill.scan or not place.backfill.position == place.live.position == message.position:
            raise _broken(f"backfill is done at {place.backfill.position}, live is at {place.live.position}")
        self.place = replace(place, applied=place.next, next=None, backfill=None)
        return self.place

    def _reach(self, reached: int) -> None:
        """Keep how far numbers are from while that is beyond the live lane."""
        farthest = max(reached, self.place.reached)
        if farthest <= self.place.live.position:
            farthest = 0
        if farthest != self.place.reached:
            self.place = replace(self.place, reached=farthest)

    def _note_unstated(self, message: Deliver | Progress) -> None:
        """Keep from where to where deleted events were passed that are not stated yet; all lanes past it: they are."""
        place, unstated, newest = self.place, self.place.unstated, self._generations.generation_id
        if message.unstated_to > message.through:
            if unstated is None:
                unstated = Unstated(message.after, message.unstated_to, newest)
            after, to = min(unstated.after, message.after), max(unstated.to, message.unstated_to)
            self.place = replace(place, unstated=replace(unstated, after=after, to=to))
        elif unstated is not None and unstated.generation_id == newest:
            cursors = [place.live, *([place.backfill] if place.backfill else [])]
            if not any(one.scan or one.position < unstated.to for one in cursors):
                self.place = replace(place, unstated=None)

    def _place_generation(self) -> None:
        position = reached_by(self.place)
        if position:
            self.place = replace(self.place, generation_id=self._generations.generation_at(position))


def effect_of(message: Deliver, received: Received) -> tuple[EventBatch, frozenset[int], frozenset[int]]:
    """The events that take effect, and the indexes among them of those that leave the filter and of snapshots."""
    events, accepted = message.events, received.accepted
    taken = events if len(accepted) == len(events) else events.select(accepted)
    replaces = frozenset(at for at, index in enumerate(accepted) if index < message.snapshots)
    if not message.leaving and not has_marks(taken):
        return taken, frozenset(), replaces
    last = set(message.leaving)
    leaving = frozenset(
        at
        for at, index in enumerate(accepted)
        if index >= message.snapshots and (events.position[index] in last or is_mark(events, index))
    )
    return taken, leaving, replaces


def _range_problem(stated: StatedRange) -> str:
    if not 1 <= stated.from_seq_nr <= stated.to_seq_nr:
        return "is empty"
    return persistence_id_problem(stated.persistence_id) or text_problem(stated.reason, NAME_MAX_BYTES)


def _broken(what: str) -> BackhaulError:
    return BackhaulError("link.protocol", what, "this is a fault of the source: report it")
