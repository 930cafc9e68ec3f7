"""May this event be the next one of its entity? The second, independent check beside the origin's position.

Storages without server functions call these with the heads they hold; the PostgreSQL function ``append_batch`` is the
same rule in sets, and one contract suite holds both. Judging changes the heads it accepts for,
so one call after another sees what the earlier ones stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from math import inf

from common.core.events.batch import EventBatch, tags_before
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.journal.append import (
    LOCAL_OWNER,
    NOT_ALLOWED,
    Appended,
    AppendRefused,
    LocalAppend,
    ParkedEvent,
    PushedAppend,
    PushLane,
)


@dataclass(slots=True)
class EntityHead:
    """The state of one entity in one journal; kept in its own row, never derived from events.

    ``origin_seq_nr`` is the last number known in the owner's numbering on ``branch`` of its history; ``parked`` counts
    its parked events; ``deleted_to`` is the last number that retention removed, ``deleted_position`` where it stood.
    ``tags`` are those of its last event, kept when that is deleted.
    """

    persistence_id: str
    seq_nr: int = 0
    owner: str = LOCAL_OWNER
    origin_seq_nr: int = 0
    branch: int = 0
    parked: int = 0
    deleted_to: int = 0
    deleted_position: int = 0
    deleted_reason: str = ""
    tags: str = ""


Heads = MutableMapping[str, EntityHead]


def link_tags(events: EventBatch, heads: Heads) -> list[str]:
    """The column ``prev_tags`` of numbered events that are being stored, in log order; their heads go on to their tags."""
    names = events.persistence_id
    if not any(events.tags) and not any(heads[name].tags for name in set(names)):
        return [""] * len(events)
    column = []
    for name, seq_nr, tags in zip(names, events.seq_nr, events.tags, strict=True):
        head = heads[name]
        column.append(tags_before(head.tags, tags) if seq_nr > 1 else "")
        head.tags = tags
    return column


def admit_local(request: LocalAppend, heads: Heads) -> list[int] | AppendRefused:
    """Numbers for all events of a local append, or why none is stored. Heads change only on acceptance."""
    for persistence_id, expected in request.expected.items():
        head = heads.get(persistence_id)
        actual = head.seq_nr if head else 0
        if actual != expected:
            return AppendRefused(
                "append.wrong_expected_seq_nr",
                f"{persistence_id} is at {actual}, not at the expected {expected}",
                persistence_id,
                expected,
                actual,
            )
    for persistence_id in request.events.persistence_id:
        head = heads.get(persistence_id)
        if head and head.owner != LOCAL_OWNER:
            return AppendRefused(
                "append.foreign_owner",
                f"{persistence_id} is owned by {head.owner}: only its owner writes it",
                persistence_id,
            )
    seq_nrs = []
    for persistence_id in request.events.persistence_id:
        head = heads.get(persistence_id)
        if head is None:
            head = heads[persistence_id] = EntityHead(persistence_id)
        head.seq_nr += 1
        seq_nrs.append(head.seq_nr)
    return seq_nrs


def admit_repeat(request: LocalAppend, stored_digest: bytes, stored: Appended) -> Appended | AppendRefused:
    """The answer to an append id that was seen before: the stored outcome, or a refusal when the body is another."""
    if request.digest != stored_digest:
        return AppendRefused(
            "append.id_reused",
            f"append id {request.append_id!r} was used before with other events: nothing is stored",
        )
    return Appended(stored.first_position, stored.seq_nr, repeated=True)


# Reasons of ranges that say: the sender's log has these events no more. Another copy of that log may still have them.
GONE_REASONS = frozenset({"trimmed", "dropped"})
# The same, or a snapshot is sent for them. Another copy of the log may not know that one was to come.
RETURNING_REASONS = GONE_REASONS | {REPLACED}


@dataclass(slots=True)
class PushAdmission:
    """Which events of a pushed batch are stored (indexes and their numbers here), which parked, what was skipped.

    ``returned`` holds entities of which an event came that had been stated as gone, with its number: what is kept of
    their ranges on this branch ends below it (``cut_range``), before ``skipped`` is kept.
    """

    accepted: list[int] = field(default_factory=list)
    seq_nr: list[int] = field(default_factory=list)
    parked: list[tuple[int, ParkedEvent]] = field(default_factory=list)
    skipped: list[StatedRange] = field(default_factory=list)
    returned: dict[str, int] = field(default_factory=dict)


def admit_pushed(
    request: PushedAppend,
    heads: Heads,
    parked_to: Mapping[str, int] | None = None,
    ranges_of: Callable[[str], Sequence[StatedRange]] = lambda _persistence_id: (),
) -> PushAdmission:
    """Judge the events of a pushed batch in order, each after the entity's stated ranges that begin below it.

    An event is accepted when its entity is owned by the origin, has nothing parked, and the event follows the last known
    one: ``prev_seq_nr`` is what is known and ``seq_nr`` is one more. On the first event of a new branch the known number
    is what the peer says, as long as it is not above what the old branch had: the fork is rebased onto the head.
    A range and the events around it may come in one batch: within an entity, numbers say what comes first.
    In the backfill and past lanes an event whose number is known, or is parked (``parked_to``: the last number an entity has
    parked), is passed over, on whichever branch it came: up to where a log was forked its branches are one.
    An event that was stated as gone, with all known ones behind it (``ranges_of``: what is kept of an entity from this
    origin on this branch), is not gone: a copy of the log that had not lost it goes on. It is judged as if the range
    ended below it.
    """
    admission = PushAdmission()
    waiting: dict[str, deque[StatedRange]] = {}
    for stated in request.ranges:
        waiting.setdefault(stated.persistence_id, deque()).append(stated)

    def skip(ranges: deque[StatedRange], below: float) -> None:
        while ranges and ranges[0].from_seq_nr <= below:
            kept = _skip(request, ranges.popleft(), heads)
            if kept:
                admission.skipped.append(kept)

    events = request.events
    rows = zip(events.persistence_id, events.seq_nr, events.prev_seq_nr, strict=True)
    for index, (persistence_id, seq_nr, prev_seq_nr) in enumerate(rows):
        if persistence_id in waiting:
            skip(waiting[persistence_id], seq_nr)
        if request.poison.get(index) == NOT_ALLOWED:
            known = heads.get(persistence_id) or EntityHead(persistence_id)
            if request.lane is PushLane.LIVE or not _has(request, known, seq_nr, parked_to or {}):
                parked = ParkedEvent(events.position[index], persistence_id, seq_nr, NOT_ALLOWED)
                admission.parked.append((index, parked))
            continue
        head = _head_for(request, persistence_id, heads)
        if (
            persistence_id not in admission.returned
            and _is_stated_ahead(request, head, seq_nr, prev_seq_nr)
            and _are_gone(ranges_of(persistence_id), seq_nr, head.origin_seq_nr)
        ):
            admission.returned[persistence_id] = seq_nr
            head.origin_seq_nr = prev_seq_nr
        if request.lane is not PushLane.LIVE and _has(request, head, seq_nr, parked_to or {}):
            continue
        code = request.poison.get(index) or _objection(request, head, seq_nr, prev_seq_nr)
        if code:
            head.parked += head.owner == request.origin_id
            parked = ParkedEvent(events.position[index], persistence_id, seq_nr, code)
            admission.parked.append((index, parked))
            continue
        admission.accepted.append(index)
        admission.seq_nr.append(_accept(head, seq_nr, request.branch))
    for ranges in waiting.values():
        skip(ranges, inf)
    return admission


def _head_for(request: PushedAppend, persistence_id: str, heads: Heads) -> EntityHead:
    head = heads.get(persistence_id)
    if head is None:
        head = heads[persistence_id] = EntityHead(persistence_id, owner=request.origin_id, branch=request.branch)
    return head


def _has(request: PushedAppend, head: EntityHead, seq_nr: int, parked_to: Mapping[str, int]) -> bool:
    """Whether the origin's event with this number is stored, stated or parked already."""
    is_known = head.owner == request.origin_id and seq_nr <= head.origin_seq_nr
    return is_known or seq_nr <= parked_to.get(head.persistence_id, 0)


def _is_stated_ahead(request: PushedAppend, head: EntityHead, seq_nr: int, prev_seq_nr: int) -> bool:
    """Whether an event's number is known already, though nothing of its entity waits and its branch is the newest."""
    is_judged = head.owner == request.origin_id and not head.parked and head.branch == request.branch
    return is_judged and prev_seq_nr < seq_nr <= head.origin_seq_nr and seq_nr == prev_seq_nr + 1


def _are_gone(ranges: Sequence[StatedRange], from_seq_nr: int, to_seq_nr: int) -> bool:
    """Whether the sender said of each of these numbers that its log has the event no more."""
    left = to_seq_nr
    for stated in sorted(ranges, key=lambda stated: stated.to_seq_nr, reverse=True):
        if stated.reason in RETURNING_REASONS and stated.to_seq_nr >= left:
            left = min(left, stated.from_seq_nr - 1)
    return left < from_seq_nr


def cut_range(stated: StatedRange, returned: int) -> StatedRange | None:
    """What is left of a range when the event ``returned`` came after all; None when nothing is."""
    if stated.reason not in RETURNING_REASONS or stated.to_seq_nr < returned:
        return stated
    return stated._replace(to_seq_nr=returned - 1) if stated.from_seq_nr < returned else None


def _accept(head: EntityHead, seq_nr: int, branch: int) -> int:
    head.seq_nr += 1
    head.origin_seq_nr, head.branch = seq_nr, branch
    return head.seq_nr


def _objection(request: PushedAppend, head: EntityHead, seq_nr: int, prev_seq_nr: int) -> str:
    if head.owner != request.origin_id:
        return "parked.foreign_owner"
    if head.parked:
        return "parked.behind"
    return _misfit(head, request.branch, seq_nr, prev_seq_nr)


def _misfit(head: EntityHead, branch: int, seq_nr: int, prev_seq_nr: int) -> str:
    """Why these numbers do not follow what is known of the entity, or ''."""
    if head.branch != branch:
        follows = prev_seq_nr <= head.origin_seq_nr and seq_nr == prev_seq_nr + 1
        return "" if follows else "parked.gap"
    if seq_nr <= head.origin_seq_nr:
        return "parked.conflict"
    return "" if prev_seq_nr == head.origin_seq_nr and seq_nr == prev_seq_nr + 1 else "parked.gap"


def _skip(request: PushedAppend, stated: StatedRange, heads: Heads) -> StatedRange | None:
    """Move an entity's expectation past a stated range; answers the part of it that is to be kept.

    Behind parked events the expectation waits, and the whole range is kept for when they are judged again.
    """
    head = _head_for(request, stated.persistence_id, heads)
    if head.owner != request.origin_id:
        return None
    if head.parked:
        return stated
    # What is backfilled lies where the branches of the log are one still: there is nothing to go back to. In the past lane
    # where the branches part is not known: what a number stood for on the branch before is taken for the same.
    return _pass_over(head, request.branch if request.lane is PushLane.LIVE else head.branch, stated)


def _pass_over(head: EntityHead, branch: int, stated: StatedRange) -> StatedRange | None:
    known = head.origin_seq_nr if head.branch == branch else min(stated.from_seq_nr - 1, head.origin_seq_nr)
    if stated.from_seq_nr > known + 1 or stated.to_seq_nr <= known:
        return None
    head.origin_seq_nr, head.branch = stated.to_seq_nr, branch
    return StatedRange(stated.persistence_id, known + 1, stated.to_seq_nr, stated.reason)


@dataclass(frozen=True, slots=True)
class ParkedNumbers:
    """What judging needs of a parked event: the row, the branch it came on, and its numbers at the origin."""

    row_id: int
    branch: int
    seq_nr: int
    prev_seq_nr: int


@dataclass(slots=True)
class RetryAdmission:
    """Which parked rows are stored now (ids and their numbers here), what was skipped, why the first one left stays."""

    accepted: list[int] = field(default_factory=list)
    seq_nr: list[int] = field(default_factory=list)
    skipped: list[StatedRange] = field(default_factory=list)
    left: str = ""


def admit_parked(
    head: EntityHead,
    rows: Sequence[ParkedNumbers],
    ranges: Sequence[tuple[int, StatedRange]],
    *,
    accept_gap: bool,
) -> RetryAdmission:
    """Judge the owner's parked events of one entity again, in order, until one does not fit.

    ``rows`` are those of ``head.owner`` only, in order of id; ``ranges`` are the ones stored for the entity, each with
    its branch, oldest first. An event that was parked as poison is stored when its numbers fit: retrying it is the
    operator's decision. ``accept_gap`` lets the first one jump; the jump is kept as a range with reason "accepted".
    """
    admission = RetryAdmission()
    head.parked = len(rows)  # events that were not allowed are not counted when they are parked
    for row in rows:
        _pass_over_up_to(head, row, ranges)
        admission.left = _misfit(head, row.branch, row.seq_nr, row.prev_seq_nr)
        if admission.left == "parked.gap" and accept_gap and not admission.accepted:
            if row.seq_nr - 1 > head.origin_seq_nr:
                jump = StatedRange(head.persistence_id, head.origin_seq_nr + 1, row.seq_nr - 1, "accepted")
                admission.skipped.append(jump)
            admission.left = ""
        if admission.left:
            break
        head.parked -= 1
        admission.accepted.append(row.row_id)
        admission.seq_nr.append(_accept(head, row.seq_nr, row.branch))
    if not admission.left:
        _pass_over_waiting(head, ranges)
    return admission


def discard_parked(head: EntityHead, row: ParkedNumbers, ranges: Sequence[tuple[int, StatedRange]]) -> StatedRange:
    """Count an owner's parked event as gone for good; answers the range to keep. What follows it may fit after that.

    ``ranges`` as in ``admit_parked``.
    """
    gone = StatedRange(head.persistence_id, row.seq_nr, row.seq_nr, "discarded")
    head.parked = max(0, head.parked - 1)  # one that was not allowed is not counted
    _pass_over_up_to(head, row, ranges)
    _pass_over(head, row.branch, gone)
    if not head.parked:
        _pass_over_waiting(head, ranges)
    return gone


def _pass_over_up_to(head: EntityHead, row: ParkedNumbers, ranges: Sequence[tuple[int, StatedRange]]) -> None:
    """Pass over what was stated before a parked event came.

    A range may reach over events that are parked: its sender counts from 1, and deleted them after they had come.
    """
    for branch, stated in ranges:
        if branch == row.branch and stated.from_seq_nr < row.seq_nr:
            _pass_over(head, branch, stated._replace(to_seq_nr=min(stated.to_seq_nr, row.seq_nr - 1)))


def _pass_over_waiting(head: EntityHead, ranges: Sequence[tuple[int, StatedRange]]) -> None:
    """Nothing is parked any more: pass over what was stated meanwhile."""
    for branch, stated in ranges:
        if branch >= head.branch:
            _pass_over(head, branch, stated)
