"""May this event be the next one of its entity? The second, independent check beside the origin's position.

Storages without server functions call these with the heads they hold; the PostgreSQL function ``append_batch`` is the
same rule in sets, and one contract suite holds both (DESIGN.md 3.3, 3.4). Judging changes the heads it accepts for,
so one call after another sees what the earlier ones stored.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

from common.core.append import LOCAL_OWNER, AppendRefused, LocalAppend, ParkedEvent, PushedAppend, StatedRange


@dataclass(slots=True)
class EntityHead:
    """The state of one entity in one journal; kept in its own row, never derived from events.

    ``origin_seq_nr`` is the last number known in the owner's numbering on ``branch`` of its history; ``parked`` counts
    its parked events; ``deleted_to`` is the last number that retention removed, ``deleted_position`` where it stood.
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


Heads = MutableMapping[str, EntityHead]


def judge_local(request: LocalAppend, heads: Heads) -> list[int] | AppendRefused:
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


@dataclass(slots=True)
class PushJudgement:
    """Which events of a pushed batch are stored (indexes and their numbers here), which parked, what was skipped."""

    accepted: list[int] = field(default_factory=list)
    seq_nr: list[int] = field(default_factory=list)
    parked: list[tuple[int, ParkedEvent]] = field(default_factory=list)
    skipped: list[StatedRange] = field(default_factory=list)


def judge_pushed(request: PushedAppend, heads: Heads) -> PushJudgement:
    """Judge every stated range, then every event, of a pushed batch.

    An event is accepted when its entity is owned by the origin, has nothing parked, and the event follows the last known
    one: ``prev_seq_nr`` is what is known and ``seq_nr`` is one more. On the first event of a new branch the known number
    is what the peer says, as long as it is not above what the old branch had: the fork is rebased onto the head.
    """
    judgement = PushJudgement()
    for stated in request.ranges:
        skipped = _skip(request, stated, heads)
        if skipped:
            judgement.skipped.append(skipped)
    events = request.events
    rows: Sequence[tuple[str, int, int]] = list(
        zip(events.persistence_id, events.seq_nr, events.prev_seq_nr, strict=True)
    )
    for index, (persistence_id, seq_nr, prev_seq_nr) in enumerate(rows):
        head = heads.get(persistence_id)
        if head is None:
            head = heads[persistence_id] = EntityHead(persistence_id, owner=request.origin_id, branch=request.branch)
        code = request.poison.get(index) or _objection(request, head, seq_nr, prev_seq_nr)
        if code:
            head.parked += head.owner == request.origin_id
            parked = ParkedEvent(events.position[index], persistence_id, seq_nr, code)
            judgement.parked.append((index, parked))
            continue
        head.seq_nr += 1
        head.origin_seq_nr = seq_nr
        head.branch = request.branch
        judgement.accepted.append(index)
        judgement.seq_nr.append(head.seq_nr)
    return judgement


def _objection(request: PushedAppend, head: EntityHead, seq_nr: int, prev_seq_nr: int) -> str:
    if head.owner != request.origin_id:
        return "parked.foreign_owner"
    if head.parked:
        return "parked.behind"
    if head.branch != request.branch:
        follows = prev_seq_nr <= head.origin_seq_nr and seq_nr == prev_seq_nr + 1
        return "" if follows else "parked.gap"
    if seq_nr <= head.origin_seq_nr:
        return "parked.conflict"
    return "" if prev_seq_nr == head.origin_seq_nr and seq_nr == prev_seq_nr + 1 else "parked.gap"


def _skip(request: PushedAppend, stated: StatedRange, heads: Heads) -> StatedRange | None:
    """Move an entity's expectation past a stated range; answers the part of it that was news."""
    head = heads.get(stated.persistence_id)
    if head is None:
        head = heads[stated.persistence_id] = EntityHead(
            stated.persistence_id, owner=request.origin_id, branch=request.branch
        )
    if head.owner != request.origin_id:
        return None
    known = head.origin_seq_nr if head.branch == request.branch else min(stated.from_seq_nr - 1, head.origin_seq_nr)
    if stated.from_seq_nr > known + 1 or stated.to_seq_nr <= known:
        return None
    head.origin_seq_nr, head.branch = stated.to_seq_nr, request.branch
    return StatedRange(stated.persistence_id, known + 1, stated.to_seq_nr, stated.reason)
