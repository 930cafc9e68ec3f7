"""Feeds the checkers of the way down: hears both ends of every subscription's stream and every commit at a consumer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import common.runtime.stream_serving
from common.core.events.deleted import stated_by
from common.core.filters.permission import within
from common.core.filters.predicates import parse_filter
from common.core.subscription.messages import ConsumerAck, Deliver, FromSource
from common.core.subscription.place import NO_RESUME_POINT
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.memory.state import SubscriptionEntry
from common.transport.codec.subscription import decode_from_consumer, decode_from_source
from tests.simulation.disks import Disk, Followed, State
from tests.simulation.down.checkers import DOWN_CHECKERS, DownChecker
from tests.simulation.down.facts import History, Received, StreamWatch, passed_by
from tests.simulation.down.plan import ENFORCED, STREAM_TYPES, DownPlan, FollowedStream
from tests.simulation.facts import CLOUD, Facts, named
from tests.simulation.plan import Sizes
from tests.simulation.taps import Told
from tests.simulation.trace import Trace

_SNAPSHOTS_AT_ONCE = 500


class DownReferee:
    """``plan`` None: nobody follows anything."""

    def __init__(
        self, plan: DownPlan | None, sizes: Sizes, facts: Facts, trace: Trace, complain: Callable[[str, str], None]
    ) -> None:
        self._plan = plan
        self._sizes = sizes
        self._facts = facts
        self._trace = trace
        self._complain = complain
        begins_with_snapshots = plan is not None and (plan.start_from == "snapshots" or plan.snapshots_if_behind > 0)
        self._checkers: list[DownChecker] = [
            made(complain, begins_with_snapshots=begins_with_snapshots) for made in DOWN_CHECKERS
        ]
        self._histories: dict[Disk, History] = {}
        self._watches: dict[tuple[Disk, str], StreamWatch] = {}
        self._promised: dict[bytes, None] = {}
        self.firehoses: list[Firehose] = []

    def history(self, disk: Disk) -> History:
        """The history of a disk as rows."""
        if disk not in self._histories:
            self._histories[disk] = History(disk)
        return self._histories[disk]

    def published(self, payloads: list[bytes]) -> None:
        """A publisher was told that its events are stored."""
        self._promised.update(dict.fromkeys(payloads))

    def cloud_replaced(self) -> None:
        """The cloud has an older disk again."""
        self._promised = {payload: None for payload in self._promised if self._facts.has(payload)}

    # -- lines -----------------------------------------------------------------------------------------------------
    def consumer_ears(self, disk: Disk, source: Disk, edge: str) -> tuple[Told, Told]:
        """What listens at the consumer's end of a new stream."""
        life, history = self._facts.cloud_lives, self.history(source)
        watch = StreamWatch(disk, history, edge, lambda: source.name != CLOUD or self._facts.cloud_lives == life)

        def said(message: bytes) -> None:
            answer = decode_from_consumer(message)
            self._trace.add(disk.name, f"⇒ {type(answer).__name__} {watch.name}", message)
            watch.said(answer)

        def heard(message: bytes) -> None:
            answer = decode_from_source(message)
            self._trace.add(disk.name, f"⇐ {_shown(answer)} {watch.name}", message)
            if not watch.is_current():
                return
            if watch.place is None:
                self._watches[disk, watch.name] = watch
            for checker in self._checkers if watch.place is not None else ():
                checker.heard(watch, answer)
            watch.heard(answer)

        return said, heard

    def source_ears(self, source: Disk) -> tuple[Told, Told]:
        """What listens at the source's end of a new stream."""
        in_flight: list[int] = []
        acked = 0
        life = self._facts.cloud_lives

        def said(message: bytes) -> None:
            answer = decode_from_source(message)
            if isinstance(answer, Deliver):
                in_flight.append(len(message))
                self._check_bounds(source.name, answer, in_flight[acked:])
            if self._facts.cloud_lives == life:
                for checker in self._checkers:
                    checker.said(self.history(source), answer)
            for firehose in self.firehoses:
                self._check_firehose(firehose)

        def heard(message: bytes) -> None:
            nonlocal acked
            answer = decode_from_consumer(message)
            if isinstance(answer, ConsumerAck):
                acked = answer.deliveries

        return said, heard

    def _check_bounds(self, source: str, answer: Deliver, in_flight: list[int]) -> None:
        sizes = self._sizes
        # A page that tells of deleted entities tells of all of them.
        if len(answer.events) - answer.snapshots > sizes.batch_events:
            self._complain("StreamBoundsHeld", f"{source} sends {len(answer.events)} events in one message")
        waiting = sum(in_flight) - in_flight[-1]
        if waiting and waiting + in_flight[-1] > sizes.window_bytes:
            self._complain("StreamBoundsHeld", f"{source} sends {in_flight[-1]} bytes with {waiting} in flight")

    def _check_firehose(self, firehose: Firehose) -> None:
        plan, ring = self._plan, firehose.fan_out.ring
        if plan is None:
            return
        newest = len(ring.last.events) if ring.last else 0
        if ring.events - newest > plan.ring_max_events:
            self._complain("RingBoundsHeld", f"the ring has {ring.events} events")
        for cursor in firehose._feeds:
            if len(cursor._pending) > plan.pending_max:
                self._complain("RingBoundsHeld", f"{len(cursor._pending)} positions wait for {cursor.name}")

    # -- disks -----------------------------------------------------------------------------------------------------
    def committed(self, disk: Disk, before: State, after: State) -> None:
        """A consumer's disk has taken a commit."""
        if before.subscriptions is after.subscriptions:
            return
        for name in before.subscriptions.keys() - after.subscriptions.keys():
            self._begins_anew(disk, name)
        for name, entry in after.subscriptions.items():
            old = before.subscriptions.get(name)
            if old is entry or entry.current.revision == (old.current.revision if old else 0):
                continue
            if entry.current.place == NO_RESUME_POINT:
                self._begins_anew(disk, name)
            else:
                self._received(disk, name, old, entry)

    def _begins_anew(self, disk: Disk, name: str) -> None:
        disk.followed[name] = Followed()
        self._watches.pop((disk, name), None)

    def _received(self, disk: Disk, name: str, old: SubscriptionEntry | None, new: SubscriptionEntry) -> None:
        followed = disk.followed.setdefault(name, Followed())
        last_id, known = (old.last_id, old.known) if old else (0, {})
        deleted = [stated_by(row.event) for row in new.inbox if row.id > last_id and row.is_deleted]
        rows = [row for row in new.inbox if row.id > last_id and not row.is_deleted]
        restarts = {row.event.persistence_id: row.event.seq_nr + 1 for row in rows if row.is_restart}
        rows = [row for row in rows if not row.is_restart]
        for entity, first in restarts.items():
            followed.begin_again(entity, first)
        passed = list(passed_by(known, new.known, rows))
        watch = self._watches.get((disk, name))
        self._trace.add(disk.name, f"{name} has {len(rows)} more, {len(passed)} passed, {_place(new)} {restarts or ''}")
        if watch is not None and watch.is_current():
            waiting = old.awaiting if old else frozenset()
            owed = watch.owed_at(new.current)
            commit = Received(
                disk, watch, rows, known, new.known, waiting, new.awaiting, passed, owed, restarts, deleted
            )
            for checker in self._checkers:
                checker.received(commit)
        for row in rows:
            followed.accepted.setdefault(row.event.persistence_id, {})[row.event.seq_nr] = row.event.payload
        for entity, seq_nr in passed:
            followed.passed.setdefault(entity, set()).add(seq_nr)

    # -- the end ---------------------------------------------------------------------------------------------------
    def not_yet(self, one: FollowedStream, disk: Disk, source: Disk) -> str:
        """Why a subscription has not come to rest, '' when it has."""
        entry = disk.state.subscriptions.get(one.name)
        if entry is None:
            return f"{one.edge} has not begun {one.name}"
        place, state = entry.current.place, source.state
        waiting = entry.awaiting - self._facts.damaged
        is_there = place.journal_id == state.journal_id and place.live.position == state.head_position
        is_quiet = (
            place.next is None and place.live.scan is None and place.applied.version == entry.current.requested.version
        )
        if is_there and is_quiet and not waiting:
            return ""
        return f"{one.edge} {one.name}: {_place(entry)}, waits for {sorted(waiting)}, {source.name} is at {state.head_position}"

    def at_end(self, disks: Mapping[str, Disk]) -> None:
        """Everything has converged and stopped."""
        for payload in self._promised:
            if not self._facts.has(payload):
                self._complain("PublishedIsKept", f"{named(payload)} was told to be stored")
        for one in self._plan.subscriptions if self._plan else ():
            disk = disks[one.edge]
            requested = disk.state.subscriptions[one.name].current.requested
            allowed = parse_filter(ENFORCED.get(one.stream, "[]").replace("{id}", one.edge))
            wanted = within(allowed, parse_filter(requested.criteria))
            types = STREAM_TYPES.get(one.stream, frozenset({one.stream}))
            for checker in self._checkers:
                checker.at_end(disk, one.name, self.history(disks[one.source]), wanted, types)

    def sized(self) -> AbstractContextManager[Any]:
        """Have every firehose as tight as the plan says, and known here, while the block runs."""
        plan, serving = self._plan, common.runtime.stream_serving
        stack = ExitStack()
        if plan is None:
            return stack
        settings = partial(
            FirehoseSettings,
            ring_max_events=plan.ring_max_events,
            pending_max=plan.pending_max,
            block_events=plan.block_events,
            deleted_max=plan.deleted_max,
        )

        def firehose(*args: Any) -> Firehose:  # noqa: ANN401
            made = Firehose(*args)
            self.firehoses.append(made)
            return made

        stack.enter_context(patch.object(serving, "FirehoseSettings", settings))
        stack.enter_context(patch.object(serving, "Firehose", firehose))
        return stack


def _shown(answer: FromSource) -> str:
    if not isinstance(answer, Deliver):
        return f"{type(answer).__name__}"
    lane = answer.lane.value or "live"
    numbers = zip(answer.events.persistence_id, answer.events.seq_nr, strict=True)
    shown = " ".join(f"{name}:{seq_nr}" for name, seq_nr in list(numbers)[:8])
    return f"{lane} {answer.after}..{answer.through} snapshots {answer.snapshots} ranges {answer.ranges} {shown}"


def _place(entry: SubscriptionEntry) -> str:
    place = entry.current.place
    backfill = place.backfill.position if place.backfill else "-"
    versions = f"{place.applied.version}/{entry.current.requested.version}"
    return f"at {place.live.position}, backfill {backfill}, filter {versions}, awaiting {sorted(entry.awaiting)}"
