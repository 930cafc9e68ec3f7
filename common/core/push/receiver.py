"""The receiving end of a push stream as a pure machine: queue, merge, settle.

The endpoint (cloud) takes contiguous batches lane by lane, merges what queues while a commit runs into the next commit,
and acknowledges what is durable. A breach of the protocol by the peer is ``link.protocol``. It reads no clock, stream
or store: the shell in ``common.transport`` does.

    state       on                                   does                                   goes to
    ----------  -----------------------------------  -------------------------------------  ----------
    IDLE        batch that continues its lane        queue it                               QUEUED
    QUEUED      batch, within the window             merge it with what is queued           QUEUED
    QUEUED      no commit under way                  take the merged batch for the commit   COMMITTING
    COMMITTING  batch, within the window             queue it behind                        COMMITTING
    COMMITTING  stored                               ack the position, name parked ones     IDLE or QUEUED
    COMMITTING  fenced, superseded, refused          end with the code                      ended
    any         question about entities              answer what is known of them           same
    any         batch beyond the window, or that     ``link.protocol``                      ended
                does not continue its lane
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter, lt

from common.core.errors import BackhaulError, ErrorKind
from common.core.events import rules as event_rules
from common.core.events.batch import UNIT_SEPARATOR, EventBatch, concat
from common.core.events.ids import NAME_MAX_BYTES, persistence_id_problem, text_problem
from common.core.events.stated_range import StatedRange
from common.core.events.transformations import Transformed
from common.core.journal.append import (
    NOT_ALLOWED,
    AppendOutcome,
    Fenced,
    OriginBlocked,
    OutOfStep,
    ParkedEvent,
    Pushed,
    PushedAppend,
    PushLane,
)
from common.core.journal.history import Offset
from common.core.policy.rules import EVERYTHING
from common.core.push.filter_transition import UNFILTERED, PushFilterApplied, PushFilterState
from common.core.push.messages import Ack, PastKnown, PastQuestion, PushBatch, PushLimits
from common.core.push.past import QUESTION_MAX, UNWANTED

# What a queued batch takes in memory beside its bytes, roughly: even empty ones are bounded.
_BATCH_OVERHEAD_BYTES = 2_048


class Endpoint:
    """The receiving end after Start: queue, merge, settle."""

    def __init__(
        self,
        origin_id: str,
        session: int,
        branch: int,
        stored: Offset,
        limits: PushLimits,
        parked_max: int,
        place: PushFilterState = UNFILTERED,
        on_receive: Callable[[EventBatch], Transformed] | None = None,
        generation_id: str = "",
    ) -> None:
        self._on_receive = on_receive
        self.rights = EVERYTHING.rights_of(origin_id)
        """What the origin may write; its owner changes it with the policy."""
        self.origin_id = origin_id
        self.session = session
        self._branch = branch
        self._generation_id = generation_id
        self._journal_id = stored.journal_id
        self._limits = limits
        self._parked_max = parked_max
        self._queue: deque[tuple[PushBatch, int]] = deque()
        self.received = stored.position
        self.stored = stored.position
        self.place = place
        """Where the origin's lanes are; what a change asks for is not in it before it is stored."""
        self.change: PushFilterApplied | None = None
        self._backfill_received = place.backfill_position
        self._past_received = 0
        self._question: PastQuestion | None = None
        self.queued_rows = 0
        """Events and stated ranges."""
        self.queued_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether reading must wait until a commit made room; one batch is always admitted."""
        over = self.queued_rows >= self._limits.window_events or self.queued_bytes >= self._limits.window_bytes
        return bool(self._queue) and over

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be committed."""
        return not self._queue and self.change is None

    @property
    def may_take_at_once(self) -> bool:
        """Whether something waits, and neither a change of filter nor a question that came before it: it must not pass those."""
        return bool(self._queue) and self.change is None and self._question is None

    @property
    def question(self) -> tuple[str, ...]:
        """Entities of which is asked how far they are known; empty when nothing is asked."""
        return self._question.persistence_ids if self._question else ()

    def receive(self, batch: PushBatch, size: int) -> None:
        """Queue a batch that took ``size`` bytes on the line; it must continue where the last one ended.

        Raises:
            BackhaulError: ``link.protocol``.
        """
        positions = batch.events.position
        is_past = batch.lane is PushLane.PAST
        in_order = is_past or all(map(lt, [batch.after_position, *positions], positions))
        received, lane_is_open = self._received(batch)
        if (
            not lane_is_open
            or batch.after_position != received
            or batch.through_position < batch.after_position
            or (batch.through_position == batch.after_position and not batch.ranges)
            or not in_order
            or (positions and positions[-1] > batch.through_position and not is_past)
        ):
            raise BackhaulError(
                "link.protocol",
                f"a {batch.lane.value} batch of positions {batch.after_position} to {batch.through_position}"
                f" after {received}",
                "send the journal in order, without overlap, from the position Start names, lane by lane",
            )
        problem = _ranges_problem(batch.ranges)
        problem = problem or text_problem(batch.generation_id, NAME_MAX_BYTES)
        if problem:
            raise BackhaulError(
                "link.protocol", f"a stated range or generation {problem}", "this is a fault of the peer: report it"
            )
        weight = size + _BATCH_OVERHEAD_BYTES
        self._queue.append((batch, weight))
        if batch.lane is PushLane.LIVE:
            self.received = batch.through_position
        elif batch.lane is PushLane.BACKFILL:
            self._backfill_received = batch.through_position
        else:
            self._past_received = batch.through_position
        self.queued_rows += batch.rows
        self.queued_bytes += weight

    def _received(self, batch: PushBatch) -> tuple[int, bool]:
        """How far the batch's lane has come, and whether it may go on to where the batch ends."""
        place = self._expected_place()
        if batch.lane is PushLane.LIVE:
            return self.received, self._backfill_received >= place.change_position
        if batch.lane is PushLane.PAST:
            return self._past_received, batch.through_position == batch.after_position + 1
        return self._backfill_received, batch.through_position <= place.change_position

    def _expected_place(self) -> PushFilterState:
        change = self.change
        return self.place.changed(change.filter, change.position, change.needs_backfill) if change else self.place

    def receive_change(self, change: PushFilterApplied) -> None:
        """Queue a change of filter: everything sent before it must be stored, and no other be under way.

        Raises:
            BackhaulError: ``link.protocol``, or ``filter.…`` for criteria that are none.
        """
        if (
            self._queue
            or self.change
            or not self.place.is_settled
            or not change.position == self.received == self.stored
        ):
            raise BackhaulError(
                "link.protocol",
                f"a filter applied at {change.position} while {self.stored} is stored and {self.received} received",
                "change the filter between two lanes, when everything is acknowledged",
            )
        change.filter.predicate()
        self.change = change
        self._backfill_received = self._expected_place().backfill_position

    def receive_question(self, question: PastQuestion) -> None:
        """Keep a question until it is answered.

        Raises:
            BackhaulError: ``link.protocol``.
        """
        names = question.persistence_ids
        problem = f"asks of {len(names)} entities" if not 1 <= len(names) <= QUESTION_MAX else ""
        problem = problem or next(filter(None, map(persistence_id_problem, names)), "")
        if self._question or problem:
            raise BackhaulError(
                "link.protocol",
                f"a question about entities {problem or 'came before the last one was answered'}",
                f"ask of at most {QUESTION_MAX} entities at a time, one question after the other",
            )
        self._question = question

    def answered(self, known: Sequence[int]) -> PastKnown:
        """The answer to the question that waits, from what the journal has of its entities.

        Of those that the origin may not write nothing is said. Where an application may give entities other ids than those
        that are asked for, nothing is known of them: what is sent again is passed over.
        """
        names = self.question
        self._question = None
        denied = self.rights.denied(names)
        if self._on_receive is not None:
            known = [0] * len(names)
        return PastKnown(
            tuple(UNWANTED if name in denied else seq_nr for name, seq_nr in zip(names, known, strict=True))
        )

    def changed_or_refused(self, refused: Fenced | OutOfStep | None) -> Ack:
        """The ack of the change that was queued, once it is stored.

        Raises:
            BackhaulError: ``push.fenced`` or ``push.out_of_step``: it was not, and the stream must end.
        """
        if isinstance(refused, Fenced):
            raise fenced(self.origin_id, refused.session)
        if isinstance(refused, OutOfStep):
            raise _out_of_step(self.origin_id, refused.position)
        self.place = self._expected_place()
        self.change = None
        return Ack(self.place.backfill_position, lane=PushLane.BACKFILL)

    def take(self, rows_max: int, bytes_max: int) -> PushedAppend:
        """What is queued, merged into one append up to the bounds (at least one batch)."""
        batch, weight = self._queue.popleft()
        taken, rows = [batch], batch.rows
        while self._queue:
            batch, more = self._queue[0]
            if rows + batch.rows > rows_max or weight + more > bytes_max or batch.lane is not taken[0].lane:
                break
            taken.append(batch)
            rows, weight = rows + batch.rows, weight + more
            self._queue.popleft()
        self.queued_rows -= rows
        self.queued_bytes -= weight
        merged = taken[0].events if len(taken) == 1 else concat(batch.events for batch in taken)
        last = taken[-1]
        place = self._journal_id, last.generation_id, last.through_position
        if merged.position and merged.position[-1] == last.through_position:
            through = Offset(*place, merged.timestamp_us[-1], merged.persistence_id[-1], merged.seq_nr[-1])
        else:
            through = Offset(*place)
        ranges, faults = _ranges_of(taken), set[int]()
        denied = self.rights.denied(merged.persistence_id)
        if ranges:
            denied |= self.rights.denied(stated.persistence_id for stated in ranges)
        refused: EventBatch | None = None
        if denied:
            merged, refused = _parted(merged, denied)
            ranges = tuple(stated for stated in ranges if stated.persistence_id not in denied)
        if self._on_receive is not None and merged:
            transformed = self._on_receive(merged)
            merged, ranges = transformed.events, (*ranges, *transformed.ranges)
            faults = set(transformed.faults)
        if len(ranges) > 1:
            # What an application withheld comes behind what else is stated: an entity's numbers say what is before what.
            ranges = tuple(sorted(ranges, key=attrgetter("from_seq_nr")))
        poison = {
            index: code
            for index, (code, _) in event_rules.problems(merged, self._limits.event_bytes, may_leave=True).items()
        }
        poison |= dict.fromkeys(faults - set(poison), "transformation.failed")
        if refused:
            poison |= dict.fromkeys(range(len(merged), len(merged) + len(refused)), NOT_ALLOWED)
            merged = concat([merged, refused])
        if poison:
            merged = _storable(merged, poison)
        return PushedAppend(
            self.origin_id,
            self.session,
            self._branch,
            taken[0].after_position,
            through,
            merged,
            ranges,
            poison,
            self._parked_max if self.rights.parked_events is None else self.rights.parked_events,
            last.lane,
            self._generation_id,
        )

    @staticmethod
    def is_plain(outcome: AppendOutcome, lane: PushLane) -> bool:
        """Whether an outcome says no more than that all is stored: ``settle`` does not raise then, and only the ack is to do."""
        return lane is PushLane.LIVE and isinstance(outcome, Pushed) and not outcome.parked

    def settle(self, outcome: AppendOutcome, through: int, lane: PushLane = PushLane.LIVE) -> Ack:
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
                raise _out_of_step(self.origin_id, position)
            case Fenced(session) if session == self.session:
                raise _other_history(self.origin_id)
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
        if lane is PushLane.LIVE:
            self.stored = through
        elif lane is PushLane.BACKFILL:
            self.place = replace(self.place, backfill_position=through)
        return Ack(through, parked, lane)


def fenced(origin_id: str, session: int) -> BackhaulError:
    """The refusal for a stream whose origin has opened a newer one."""
    return BackhaulError(
        "push.fenced",
        f"session {session} of {origin_id} has taken over",
        "if two services run with this edge id, stop one; else nothing is to be done",
        kind=ErrorKind.CONFLICT,
    )


def _out_of_step(origin_id: str, position: int) -> BackhaulError:
    return BackhaulError(
        "push.out_of_step",
        f"the stored position of {origin_id} is {position}, not where this stream goes on",
        "dial again: the stream resumes at the stored position",
        retry_after_s=1.0,
    )


def _other_history(origin_id: str) -> BackhaulError:
    return BackhaulError(
        "push.out_of_step",
        f"the journal has another history since {origin_id} connected, and may lack what was acknowledged",
        "dial again: the stream resumes at the stored position",
        retry_after_s=1.0,
    )


def _ranges_problem(ranges: Sequence[StatedRange]) -> str:
    """What makes one of these ranges one that no honest peer states, or ''. Their texts and numbers are stored as they are."""
    for stated in ranges:
        if not 1 <= stated.from_seq_nr <= stated.to_seq_nr:
            return f"from {stated.from_seq_nr} to {stated.to_seq_nr}"
        if problem := persistence_id_problem(stated.persistence_id):
            return problem
    reasons = {stated.reason for stated in ranges}
    return next(filter(None, (text_problem(reason, NAME_MAX_BYTES) for reason in reasons)), "")


def _ranges_of(batches: Sequence[PushBatch]) -> tuple[StatedRange, ...]:
    """The ranges of batches that become one append, in which an entity's numbers alone say what comes first.

    A sender counts an entity's range from 1, also over events that earlier batches brought: here it begins after those.
    """
    if len(batches) == 1 or not any(batch.ranges for batch in batches):
        return batches[0].ranges
    stated: list[StatedRange] = []
    brought: dict[str, int] = {}
    for batch in batches:
        if not brought:
            stated += batch.ranges
        for entry in batch.ranges if brought else ():
            from_seq_nr = max(entry.from_seq_nr, brought.get(entry.persistence_id, 0) + 1)
            if from_seq_nr <= entry.to_seq_nr:
                goes_on = from_seq_nr > entry.from_seq_nr
                stated.append(entry._replace(from_seq_nr=from_seq_nr) if goes_on else entry)
        brought.update(zip(batch.events.persistence_id, batch.events.seq_nr, strict=True))
    return tuple(stated)


def _parted(events: EventBatch, denied: frozenset[str]) -> tuple[EventBatch, EventBatch]:
    """The events of other entities than these, and those of these."""
    ours, theirs = list[int](), list[int]()
    for index, name in enumerate(events.persistence_id):
        (theirs if name in denied else ours).append(index)
    return events.select(ours), events.select(theirs)


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
