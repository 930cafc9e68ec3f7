"""Both ends of a push stream as pure machines: what may be sent, what an answer means, what is a broken promise.

The producer (edge) sends its journal from the position the endpoint (cloud) names, keeps to the window, and takes acks.
The endpoint takes contiguous batches, merges what queues while a commit runs into the next commit, and acknowledges
what is durable. Neither reads a clock, a stream or a store: the shells in ``common.transport`` do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, auto
from operator import lt

from common.core import event_rules
from common.core.append import (
    AppendOutcome,
    Fenced,
    OriginBlocked,
    OutOfStep,
    ParkedEvent,
    Pushed,
    PushedAppend,
    StatedRange,
)
from common.core.batch import UNIT_SEPARATOR, Envelope, EventBatch, concat
from common.core.errors import BackhaulError, ErrorKind
from common.core.history import History, Offset
from common.core.ids import NAME_MAX_BYTES, persistence_id_problem, text_problem
from common.core.push_messages import Ack, PushBatch, PushLimits, Start
from common.core.window import AdaptiveWindow

# What a queued batch takes in memory beside its bytes, roughly: even empty ones are bounded.
_BATCH_OVERHEAD_BYTES = 2_048


class StartVerdict(Enum):
    """What the producer thinks of the place it is told to go on from."""

    GO_ON = auto()
    PEER_LOST_HISTORY = auto()
    """The endpoint has less than it once acknowledged: what is still kept here is pushed again."""


def judge_start(start: Start, history: History, acked: Offset | None, at_stored: Envelope | None) -> StartVerdict:
    """Compare the endpoint's last stored event with the producer's own log, before anything is sent or trimmed.

    ``at_stored`` is the own event at that position (None when it was deleted or is position 0); ``acked`` the last
    acknowledged place this side remembers.

    Raises:
        BackhaulError: ``push.history_mismatch`` when the two logs cannot be copies of one.
    """
    stored = start.stored
    same_event = (
        at_stored is None
        or not stored.timestamp_us
        or (
            (at_stored.timestamp_us, at_stored.persistence_id, at_stored.seq_nr)
            == (stored.timestamp_us, stored.persistence_id, stored.seq_nr)
        )
    )
    if stored.journal_id != history.journal_id or stored.position > history.head_position or not same_event:
        raise BackhaulError(
            "push.history_mismatch",
            f"the cloud's last event of this journal (position {stored.position}) is not the one in this journal",
            "two services may be using one edge id or a copied journal: give each its own id and file",
            details={"position": stored.position, "head": history.head_position},
        )
    if acked and acked.journal_id == history.journal_id and stored.position < acked.position:
        return StartVerdict.PEER_LOST_HISTORY
    return StartVerdict.GO_ON


def ranges_to_state(events: EventBatch, deleted: Sequence[StatedRange]) -> tuple[StatedRange, ...]:
    """What a batch must say about events deleted before they were sent.

    ``deleted`` may be newer than ``events``: an entity's range ends before its first event in the batch.
    """
    first = dict(zip(reversed(events.persistence_id), reversed(events.seq_nr), strict=True))
    stated = []
    for entry in deleted:
        to_seq_nr = min(entry.to_seq_nr, first.get(entry.persistence_id, entry.to_seq_nr + 1) - 1)
        if to_seq_nr >= entry.from_seq_nr:
            stated.append(StatedRange(entry.persistence_id, entry.from_seq_nr, to_seq_nr, entry.reason))
    return tuple(stated)


class Producer:
    """The sending end after Start. ``position`` is how far was sent, ``acked`` how far is durable over there."""

    def __init__(self, start: Start, limits: PushLimits, *, batches_max: int, ack_target_s: float) -> None:
        theirs = start.limits
        self._batch_bytes = min(limits.batch_bytes, theirs.batch_bytes)
        self.message_bytes = min(limits.window_bytes, theirs.window_bytes)
        """A message that is larger is to be cut, if it can be."""
        self.window = AdaptiveWindow(
            batches_max=batches_max,
            events_max=min(limits.window_events, theirs.window_events),
            bytes_max=min(limits.window_bytes, theirs.window_bytes),
            ack_target_s=ack_target_s,
        )
        self.position = start.stored.position
        self.acked = start.stored.position
        self.draining = False

    def room_bytes(self) -> int:
        """Size of the batch that may be sent now; 0 = wait for an ack.

        A sliver of room is left alone: on a full window it would make every batch a small one.
        """
        room = self.window.room_bytes
        is_sliver = not self.window.is_empty and room < min(self.window.bytes_limit, self._batch_bytes) // 4
        return 0 if self.draining or is_sliver else min(room, self._batch_bytes)

    def sent(self, batch: PushBatch, weight: int, now_s: float) -> None:
        """The batch was handed to the line."""
        self.window.sent(batch.through_position, len(batch.events), weight, now_s)
        self.position = batch.through_position

    def ack(self, ack: Ack, now_s: float) -> float | None:
        """Take an acknowledgement; returns the age in seconds of what it settles (None when it is a repeat).

        Raises:
            BackhaulError: ``link.protocol`` when it acknowledges what was not sent, or less than before.
        """
        if not self.acked <= ack.position <= self.position:
            raise BackhaulError(
                "link.protocol",
                f"ack of position {ack.position} while {self.acked} to {self.position} may be acknowledged",
                "this is a fault of the peer: report it",
            )
        self.acked = ack.position
        return self.window.acked(ack.position, now_s)


class Endpoint:
    """The receiving end after Start: queue, merge, settle."""

    def __init__(
        self, origin_id: str, session: int, branch: int, stored: Offset, limits: PushLimits, parked_max: int
    ) -> None:
        self.origin_id = origin_id
        self.session = session
        self._branch = branch
        self._journal_id = stored.journal_id
        self._limits = limits
        self._parked_max = parked_max
        self._queue: deque[tuple[PushBatch, int]] = deque()
        self.received = stored.position
        self.stored = stored.position
        self.queued_events = 0
        self.queued_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether reading must wait until a commit made room; one batch is always admitted."""
        over = self.queued_events >= self._limits.window_events or self.queued_bytes >= self._limits.window_bytes
        return bool(self._queue) and over

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be committed."""
        return not self._queue

    def receive(self, batch: PushBatch, size: int) -> None:
        """Queue a batch that took ``size`` bytes on the line; it must continue where the last one ended.

        Raises:
            BackhaulError: ``link.protocol``.
        """
        positions = batch.events.position
        in_order = all(map(lt, [batch.after_position, *positions], positions))
        if (
            batch.after_position != self.received
            or batch.through_position <= batch.after_position
            or not in_order
            or (positions and positions[-1] > batch.through_position)
        ):
            raise BackhaulError(
                "link.protocol",
                f"a batch of positions {batch.after_position} to {batch.through_position} after {self.received}",
                "send the journal in order, without overlap, from the position Start names",
            )
        problem = next(filter(None, map(_range_problem, batch.ranges)), "")
        problem = problem or text_problem(batch.generation_id, NAME_MAX_BYTES)
        if problem:
            raise BackhaulError(
                "link.protocol", f"a stated range or generation {problem}", "this is a fault of the peer: report it"
            )
        weight = size + _BATCH_OVERHEAD_BYTES
        self._queue.append((batch, weight))
        self.received = batch.through_position
        self.queued_events += len(batch.events)
        self.queued_bytes += weight

    def take(self, events_max: int, bytes_max: int) -> PushedAppend:
        """What is queued, merged into one append up to the bounds (at least one batch)."""
        batch, weight = self._queue.popleft()
        taken, events = [batch], len(batch.events)
        while self._queue:
            batch, more = self._queue[0]
            if events + len(batch.events) > events_max or weight + more > bytes_max:
                break
            taken.append(batch)
            events, weight = events + len(batch.events), weight + more
            self._queue.popleft()
        self.queued_events -= events
        self.queued_bytes -= weight
        merged = taken[0].events if len(taken) == 1 else concat(batch.events for batch in taken)
        last = taken[-1]
        poison = {index: code for index, (code, _) in event_rules.problems(merged, self._limits.event_bytes).items()}
        if poison:
            merged = _storable(merged, poison)
        through = Offset(self._journal_id, last.generation_id, last.through_position)
        if merged.position and merged.position[-1] == last.through_position:
            through = replace(
                through,
                timestamp_us=merged.timestamp_us[-1],
                persistence_id=merged.persistence_id[-1],
                seq_nr=merged.seq_nr[-1],
            )
        return PushedAppend(
            self.origin_id,
            self.session,
            self._branch,
            taken[0].after_position,
            through,
            merged,
            _ranges_of(taken),
            poison,
            self._parked_max,
        )

    def settle(self, outcome: AppendOutcome, through: int) -> Ack:
        """The ack that an append's outcome allows.

        Raises:
            BackhaulError: ``push.fenced``, ``push.blocked`` or ``push.out_of_step``: the stream must end.
        """
        parked: tuple[ParkedEvent, ...] = ()
        match outcome:
            case Pushed(parked=parked):
                pass
            case OutOfStep(position) if position >= through:
                pass  # a repeat of what had been stored
            case OutOfStep(position):
                raise BackhaulError(
                    "push.out_of_step",
                    f"the stored position of {self.origin_id} is {position}, not where this stream goes on",
                    "dial again: the stream resumes at the stored position",
                    retry_after_s=1.0,
                )
            case Fenced(session):
                raise fenced(self.origin_id, session)
            case OriginBlocked(count, maximum):
                raise BackhaulError(
                    "push.blocked",
                    f"{self.origin_id} has {count} parked events and may have {maximum}",
                    "look at `cloud-service parked list`, then retry or discard; or raise parked_max_events",
                    kind=ErrorKind.FULL,
                    retry_after_s=30.0,
                )
            case _:
                raise AssertionError(f"not an outcome of a pushed append: {outcome!r}")
        self.stored = through
        return Ack(through, parked)


def fenced(origin_id: str, session: int) -> BackhaulError:
    """The refusal for a stream whose origin has opened a newer one."""
    return BackhaulError(
        "push.fenced",
        f"session {session} of {origin_id} has taken over",
        "if two services run with this edge id, stop one; else nothing is to be done",
        kind=ErrorKind.CONFLICT,
    )


def _range_problem(stated: StatedRange) -> str:
    """What makes a range one that no honest peer states, or ''. Its texts and numbers are stored as they are."""
    if not 1 <= stated.from_seq_nr <= stated.to_seq_nr:
        return f"from {stated.from_seq_nr} to {stated.to_seq_nr}"
    return persistence_id_problem(stated.persistence_id) or text_problem(stated.reason, NAME_MAX_BYTES)


def _ranges_of(batches: Sequence[PushBatch]) -> tuple[StatedRange, ...]:
    """The ranges of batches that become one append, in which an entity's numbers alone say what comes first.

    A sender counts an entity's range from 1, also over events that earlier batches brought: here it begins after those.
    """
    if len(batches) == 1 or not any(batch.ranges for batch in batches):
        return batches[0].ranges
    stated: list[StatedRange] = []
    brought: dict[str, int] = {}
    for batch in batches:
        for entry in batch.ranges:
            from_seq_nr = max(entry.from_seq_nr, brought.get(entry.persistence_id, 0) + 1)
            if from_seq_nr <= entry.to_seq_nr:
                stated.append(replace(entry, from_seq_nr=from_seq_nr))
        brought.update(zip(batch.events.persistence_id, batch.events.seq_nr, strict=True))
    return tuple(stated)


def _storable(events: EventBatch, poison: dict[int, str]) -> EventBatch:
    """A copy in which the texts of poisoned events can be kept in any database."""
    kept = events.slice(0, len(events))
    for index in poison:
        kept.persistence_id[index] = event_rules.storable_id(kept.persistence_id[index])
        for name in ("event_type", "codec", "tags", "metadata"):
            column = getattr(kept, name)
            parts = column[index].split(UNIT_SEPARATOR)
            column[index] = UNIT_SEPARATOR.join(map(event_rules.storable, parts))
    return kept
