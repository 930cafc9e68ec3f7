"""The judges of the way down: what consumers store, and what is said to them, against the source's whole history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from common.core.events.batch import LEFT_TAGS
from common.core.events.leaving import LEAVING_TYPE, mark_problem
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.predicates import EntityPredicate
from common.core.journal.admission import GONE_REASONS
from common.core.subscription.messages import Deliver, DeliveryLane, FromSource, OrderTime, Progress
from common.core.subscription.place import reached_by
from tests.simulation.disks import Disk
from tests.simulation.down.facts import History, Number, Received, Row, Stated, StreamWatch
from tests.simulation.facts import named

Complain = Callable[[str, str], None]


class DownChecker:
    """What a checker of the way down may want to hear of. ``complain`` ends the run.

    ``begins_with_snapshots``: a subscription, or a new filter of one, may begin with the snapshots instead of the whole log.
    """

    def __init__(self, complain: Complain, *, begins_with_snapshots: bool) -> None:
        self._complain = complain
        self._begins_with_snapshots = begins_with_snapshots

    def complain(self, what: str) -> None:
        """The promise is broken."""
        self._complain(type(self).__name__, what)

    def heard(self, watch: StreamWatch, message: FromSource) -> None:
        """A consumer has received a message; the watch has not taken it in yet."""

    def said(self, source: History, message: FromSource) -> None:
        """A source hands a message to the line."""

    def received(self, commit: Received) -> None:
        """A consumer has committed."""

    def at_end(self, disk: Disk, name: str, source: History, wanted: EntityPredicate, types: frozenset[str]) -> None:
        """A consumer has everything it wants, as it believes."""


class ReceivedIsServed(DownChecker):
    """What a consumer stores is in the source's history, byte for byte, or is a snapshot that was taken there."""

    def received(self, commit: Received) -> None:
        source = commit.watch.source
        for row in commit.rows:
            event = row.event
            if row.replaces:
                if event.payload not in source.disk.snapshots.get((event.persistence_id, event.seq_nr), ()):
                    self.complain(f"{commit.disk.name} has a snapshot {event.payload!r} that nobody took")
                continue
            served = source.row(event.persistence_id, event.seq_nr)
            payload = b"" if event.event_type == LEAVING_TYPE else served and served.payload
            if served is None or (payload, served.position) != (event.payload, event.position):
                self.complain(f"{commit.disk.name} has {event.persistence_id} {event.seq_nr}, the source {served}")


class ReceivedOnceInOrder(DownChecker):
    """Each entity's numbers only grow."""

    def received(self, commit: Received) -> None:
        last = commit.known_before | {name: first - 1 for name, first in commit.restarts.items()}
        for row in commit.rows:
            event = row.event
            if event.seq_nr <= last.get(event.persistence_id, 0):
                self.complain(
                    f"{commit.disk.name} has {event.persistence_id} {event.seq_nr} after {last[event.persistence_id]}"
                )
            last[event.persistence_id] = event.seq_nr
        for name, seq_nr in last.items():
            if commit.known.get(name, 0) < seq_nr:
                self.complain(f"{commit.disk.name} has {seq_nr} of {name} and knows of {commit.known.get(name, 0)}")


class RestartsAreWanted(DownChecker):
    """An entity begins again only where the filter says so, and then it waits, with its known number set back."""

    def received(self, commit: Received) -> None:
        for name, first in commit.restarts.items():
            if commit.watch.wanted.from_seq_nr(name) != first:
                self.complain(f"{commit.disk.name} begins {name} again from {first}, which nobody asked for")
            if commit.known.get(name) != first - 1 or name not in commit.waiting:
                self.complain(f"{commit.disk.name} begins {name} again from {first} and knows {commit.known.get(name)}")
        for name, last in commit.known_before.items():
            if commit.known.get(name, 0) < last and name not in commit.restarts:
                self.complain(f"{commit.disk.name} forgets what it knows of {name} after {last}")


class SkippedIsStated(DownChecker):
    """No number is led over unless the source has said why, and that is true."""

    def received(self, commit: Received) -> None:
        kept = commit.watch.source.kept() if commit.passed else set()
        for name, seq_nr in commit.passed:
            row = commit.watch.source.row(name, seq_nr)
            if row is not None and row.position not in kept:
                row = None  # gone: any statement will do
            stated = [one for one in commit.watch.stated.get(name, ()) if one.to_seq_nr >= seq_nr]
            if not any(_is_true(one, row, commit.watch.source) for one in stated):
                self.complain(
                    f"{commit.disk.name} leads over {seq_nr} of {name}, said was {_stated(commit.watch, name)}"
                )


class PassedIsBehind(DownChecker):
    """What is led over lies behind the place: what is withheld behind live, what is gone up to where the place reaches.

    While live is in its snapshots, events that come in place of one are of the log up to the low mark, where live goes on.
    Else a number that another filter selects, or a source gives anew, would be taken for one that is known.
    """

    def received(self, commit: Received) -> None:
        place, watch = commit.place, commit.watch
        for name, seq_nr in commit.passed:
            row = watch.source.row(name, seq_nr)
            reasons = {one.reason for one in watch.stated.get(name, ()) if one.to_seq_nr >= seq_nr}
            live = max(place.live.position, place.live.scan.low if place.live.scan else 0)
            end = live if reasons == {"withheld"} else reached_by(place)
            is_start = seq_nr < watch.wanted.from_seq_nr(name)
            if row is not None and row.position > end and not is_start:
                self.complain(
                    f"{commit.disk.name} leads over {seq_nr} of {name} at {row.position} ({sorted(reasons)}), {place}"
                )


class DeletedIsStated(DownChecker):
    """Programs are informed of each deleted number that is led over, and of no other; in the end none is missing.

    Of an entity that had left the filter when the last of them was stored nothing is said; nor, where snapshots are the
    beginning, of what was deleted below the mark from which the log is read: there nothing is asked in the end.
    """

    def received(self, commit: Received) -> None:
        source, stated = commit.watch.source, _numbers(commit.deleted)
        kept = source.kept() if commit.passed else set()
        if not stated.issubset(commit.passed):
            self.complain(f"{commit.disk.name} has deleted marks for {commit.deleted}, passed are {commit.passed}")
        for name, seq_nr in commit.passed:
            row = source.row(name, seq_nr)
            reasons = {one.reason for one in commit.watch.stated.get(name, ()) if one.to_seq_nr >= seq_nr}
            is_there = row is None or row.position in kept
            if (name, seq_nr) in stated and is_there:
                self.complain(f"{commit.disk.name} has {seq_nr} of {name} as deleted, which is {row}")
            if (name, seq_nr) not in stated and reasons <= GONE_REASONS:
                self.complain(f"{commit.disk.name} leads over {seq_nr} of {name}, deleted, and informs nobody")

    def at_end(self, disk: Disk, name: str, source: History, wanted: EntityPredicate, types: frozenset[str]) -> None:
        if self._begins_with_snapshots:
            return
        followed, kept, heads = disk.followed[name], source.kept(), source.disk.state.heads
        begin = disk.state.subscriptions[name].current.place.begin
        for row in source.rows():
            entity = row.persistence_id
            if row.position in kept or row.position <= begin or (types and entity.partition("|")[0] not in types):
                continue
            last = source.row(entity, heads[entity].deleted_to)
            is_followed = row.is_selected(wanted) and last is not None and wanted.matches(entity, last.tags)
            is_known = row.seq_nr in followed.accepted.get(entity, {}) or row.seq_nr in followed.passed.get(entity, ())
            if is_followed and not is_known and not source.is_outdated(row, wanted):
                self.complain(
                    f"{disk.name} lacks {row.seq_nr} of {entity}, deleted at {row.position}: {name} is silent"
                )


def _numbers(ranges: Iterable[StatedRange]) -> set[Number]:
    return {(one.persistence_id, number) for one in ranges for number in range(one.from_seq_nr, one.to_seq_nr + 1)}


def _is_true(one: Stated, row: Row | None, source: History) -> bool:
    if row is None or one.reason == "snapshot":
        return True
    if one.reason == "before_start":
        return row.position <= one.begin
    name = row.persistence_id
    if (
        one.past is not Past.NONE
    ):  # what may be seen is the past of a later event: only what is below a start is not wanted
        return one.reason == "withheld" and (
            row.seq_nr < one.wanted.from_seq_nr(name) or not one.wanted.permits(name, row.tags)
        )
    # Without histories one range says what came before an entry: numbers that the filter withholds, and those before the start.
    is_before = row.position <= one.begin
    return one.reason == "withheld" and (
        is_before or not row.is_selected(one.wanted) or source.is_outdated(row, one.wanted)
    )


def _stated(watch: StreamWatch, name: str) -> list[tuple[int, str]]:
    return [(one.to_seq_nr, one.reason) for one in watch.stated.get(name, ())]


class LeavingIsMarked(DownChecker):
    """The event that takes an entity out of the filter is marked, and no other one."""

    def heard(self, watch: StreamWatch, message: FromSource) -> None:
        if not isinstance(message, Deliver) or not message.events:
            return
        wanted, events, leaving = watch.wanted, message.events, set(message.leaving)
        for index in range(message.snapshots, len(events)):
            name, tags, position = events.persistence_id[index], events.tags[index], events.position[index]
            row = watch.source.row(name, events.seq_nr[index])
            if row is not None and watch.source.leaves(row, wanted) != (position in leaving):
                self.complain(f"{watch.edge}: {name} at {position} with {tags!r} is marked {position in leaving}")

    def received(self, commit: Received) -> None:
        for row in commit.rows:
            number = row.event.persistence_id, row.event.seq_nr
            if not row.replaces and row.leaving not in commit.watch.leaving.get(number, {row.leaving}):
                self.complain(f"{commit.disk.name} stores {number} as {row.leaving}")


class NothingBeforeTheBeginning(DownChecker):
    """Who began from now or behind an order time is given nothing of before, and a beginning is not behind its time."""

    def received(self, commit: Received) -> None:
        begin, start = commit.watch.place.begin if commit.watch.place else 0, commit.watch.start
        if begin and isinstance(start, OrderTime):
            at_us = commit.watch.source.disk.history.timestamp_us[begin - 1]
            if at_us > start.timestamp_us:
                self.complain(f"{commit.disk.name} began at {begin}, of {at_us}, and not behind {start.timestamp_us}")
        for row in commit.rows:
            if begin and not row.replaces and row.event.position <= begin:
                self.complain(
                    f"{commit.disk.name} began at {begin} and has {row.event.persistence_id} {row.event.seq_nr}"
                )


class SnapshotsFitTheFilter(DownChecker):
    """A snapshot of a replay stands for what comes before a selected event, or for a selected one itself."""

    def heard(self, watch: StreamWatch, message: FromSource) -> None:
        if not isinstance(message, Deliver) or message.lane is not DeliveryLane.REPLAY:
            return
        events, wanted = message.events, watch.wanted
        for index in range(message.snapshots):
            name, number = events.persistence_id[index], events.seq_nr[index]
            later = [row for row in watch.source.of_entity(name) if row.seq_nr > number]
            is_past = watch.past is not Past.NONE and any(row.is_selected(wanted) for row in later)
            if not is_past and not wanted.matches(name, events.tags[index]):
                self.complain(f"{watch.edge} is sent a snapshot {number} of {name}, of which nothing is selected")


class TenantsApart(DownChecker):
    """Nothing of an entity that a consumer may not see is ever sent to it."""

    def heard(self, watch: StreamWatch, message: FromSource) -> None:
        if not isinstance(message, Deliver):
            return
        events = message.events
        for index, name in enumerate(events.persistence_id):
            row = watch.source.row(name, events.seq_nr[index])
            may_see = row is not None and watch.allowed.matches(name, row.tags)
            if index < message.snapshots and row is not None and events.payload[index] != row.payload:
                # One that is its event, as the rule takes them, says nothing of those before.
                folded = [one for one in watch.source.of_entity(name) if one.seq_nr <= events.seq_nr[index]]
                may_see = may_see and all(watch.allowed.matches(name, one.tags) for one in folded)
            elif row is not None and events.tags[index] == LEFT_TAGS:
                may_see = watch.allowed.matches(name, row.tags_before) and not mark_problem(events, index)
            if not may_see or not watch.is_of_stream(name):
                self.complain(f"{watch.edge} is sent {row} over {watch.name}")
        for stated in message.ranges:
            own = watch.source.of_entity(stated.persistence_id)
            is_named = bool(watch.wanted.from_seq_nr(stated.persistence_id))
            may_know = any(watch.allowed.matches(row.persistence_id, row.tags) for row in own)
            if not (may_know or is_named) or not watch.is_of_stream(stated.persistence_id):
                self.complain(f"{watch.edge} is told {stated} over {watch.name}")


class PlaceBehindEffect(DownChecker):
    """A stored place never promises what has not taken effect, and no entity stops waiting before it was replayed."""

    def received(self, commit: Received) -> None:
        if commit.owed is None:
            self.complain(f"{commit.disk.name} stores a place of {commit.watch.name} that its stream never had")
            return
        missing = [number for number in commit.owed if commit.misses(number)]
        if missing:
            self.complain(f"{commit.disk.name} is past {missing[:3]} of {commit.watch.name} and does not have them")
        for name in commit.waiting_before - commit.waiting:
            replays = commit.watch.replays_of(name) or [[(name, 2**62)]]
            lacking = [[number for number in owed if commit.misses(number)] for owed in replays]
            if all(lacking):
                for _, seq_nr in lacking[-1]:
                    self.complain(f"{commit.disk.name} waits no more for {name}, and lacks {seq_nr}")


class NothingPastTheHead(DownChecker):
    """What is said to consumers is durable: no event and no place beyond the end of the log on the disk."""

    def said(self, source: History, message: FromSource) -> None:
        if not isinstance(message, Deliver | Progress) or message.lane is DeliveryLane.REPLAY:
            return
        head = source.disk.state.head_position
        if message.through > head:
            self.complain(f"{message.lane or 'live'} is at {message.through}, the log ends at {head}")


class EverythingSelected(DownChecker):
    """In the end a consumer has each event that its filter selects and its source still has, or was told why not.

    Where it began with snapshots, one that is not selected may have stood for it.
    """

    def at_end(self, disk: Disk, name: str, source: History, wanted: EntityPredicate, types: frozenset[str]) -> None:
        followed, kept = disk.followed[name], source.kept()
        begin = disk.state.subscriptions[name].current.place.begin
        for row in source.rows():
            entity = row.persistence_id
            if (types and entity.partition("|")[0] not in types) or not row.is_selected(wanted):
                continue
            if row.position <= begin:
                if row.seq_nr in followed.accepted.get(entity, {}):
                    self.complain(f"{disk.name} has {row.seq_nr} of {entity} from before its beginning")
                continue
            stored = followed.accepted.get(entity, {}).get(row.seq_nr)
            if stored is not None or row.seq_nr in followed.passed.get(entity, ()):
                snapshots = source.disk.snapshots.get((entity, row.seq_nr), ())
                shown = row.payload if wanted.permits(entity, row.tags) else b""
                if stored is not None and stored != shown and stored not in snapshots:
                    self.complain(f"{disk.name} has {stored!r} as {row.seq_nr} of {entity}, it is {named(row.payload)}")
            elif row.position in kept and not source.is_outdated(row, wanted):
                self.complain(f"{disk.name} lacks {row.seq_nr} of {entity} at {row.position} in {name}")


DOWN_CHECKERS: Final[tuple[type[DownChecker], ...]] = (
    ReceivedIsServed,
    ReceivedOnceInOrder,
    RestartsAreWanted,
    SkippedIsStated,
    PassedIsBehind,
    DeletedIsStated,
    LeavingIsMarked,
    NothingBeforeTheBeginning,
    SnapshotsFitTheFilter,
    TenantsApart,
    PlaceBehindEffect,
    NothingPastTheHead,
    EverythingSelected,
)
