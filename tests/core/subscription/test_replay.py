"""Pages of a replay against the plain rule: the past of what is selected, as far as it may be seen, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import NO_TAGS, join_tags
from common.core.filters.past import Past
from common.core.filters.permission import within
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, parse_filter
from common.core.journal.snapshot import Snapshot
from common.core.subscription.consumer import admit_received
from common.core.subscription.messages import Deliver, DeliveryLane
from common.core.subscription.replay import EntityPage, QueuedReplay, replay_page
from tests.support.subscription.model import Row, columns, criteria

NAME = "T|a"
RED = parse_filter(criteria(frozenset({"red"})))
NO_SECRETS = parse_filter('[{"exclude_tags":["secret"]}]')
TAGS = [join_tags(tags) for tags in ((), ("red",), ("secret",), ("red", "secret"))]


@dataclass(frozen=True)
class Entity:
    """Its events' tags, by number from 1; what was deleted, and its snapshot (0 = none)."""

    tags: tuple[str, ...]
    deleted_to: int
    snapshot_at: int

    def snapshot(self) -> Snapshot | None:
        at = self.snapshot_at
        tags = self.tags[at - 1] if at else ""
        return Snapshot(NAME, at, at, at, 0, 0, "State", "bytes", b"s", tags, "", 0) if at else None

    def rows(self, first: int) -> list[Row]:
        found = []
        for seq_nr in range(max(first, self.deleted_to + 1), len(self.tags) + 1):
            tags, before = self.tags[seq_nr - 1], self.tags[seq_nr - 2] if seq_nr > 1 else ""
            changed = (before or NO_TAGS) if seq_nr > 1 and before != tags else ""
            found.append(Row(seq_nr, NAME, seq_nr, tags, changed))
        return found


@st.composite
def entities(draw: st.DrawFn) -> Entity:
    tags = tuple(draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=14)))
    deleted_to = draw(st.integers(0, len(tags)))
    return Entity(tags, deleted_to, draw(st.one_of(st.just(0), st.integers(1, len(tags)))))


def selected(entity: Entity, wanted: EntityPredicate, seq_nr: int) -> tuple[bool, bool]:
    """Whether an event is delivered by itself, and whether it is a mark."""
    now = wanted.matches(NAME, entity.tags[seq_nr - 1])
    before = seq_nr > 1 and wanted.matches(NAME, entity.tags[seq_nr - 2])
    return now or before, not now and before and not wanted.permits(NAME, entity.tags[seq_nr - 1])


def expected(entity: Entity, known: int, wanted: EntityPredicate, past: Past) -> list[tuple[int, bool]]:
    """Numbers that are to be sent, in order, each with whether a snapshot brings it: the rule without pages."""
    sent: list[tuple[int, bool]] = []
    may_fold = all(wanted.permits(NAME, tags) for tags in entity.tags)
    at = entity.snapshot_at if may_fold else 0
    snapshot_is_selected = bool(at) and wanted.matches(NAME, entity.tags[at - 1])
    for number in range(max(known, entity.deleted_to) + 1, len(entity.tags) + 1):
        is_selected, _ = selected(entity, wanted, number)
        if not is_selected or number <= known:
            continue
        may_stand = snapshot_is_selected or (past is not Past.NONE and at < number)
        if known < entity.deleted_to:
            is_used = at > known and at >= entity.deleted_to and may_stand
            known = at if is_used else entity.deleted_to
            sent += [(at, True)] if is_used else []
        if known < number - 1 and past is Past.SNAPSHOT and at > known and may_stand:
            known = at
            sent.append((at, True))
        if past is not Past.NONE:
            between = range(known + 1, number)
            sent += [(one, False) for one in between if wanted.permits(NAME, entity.tags[one - 1])]
        if number > known:
            sent.append((number, False))
            known = number
    if not sent and known < entity.deleted_to and snapshot_is_selected and at > known and at >= entity.deleted_to:
        sent.append((at, True))
    return sent


def replayed(
    entity: Entity, known: int, wanted: EntityPredicate, past: Past, page_events: int
) -> tuple[list[tuple[int, bool]], list[str]]:
    """What a consumer takes in of a whole replay, and the reasons by which it was led over numbers."""
    taken: list[tuple[int, bool]] = []
    reasons: list[str] = []
    numbers, awaiting, missed = {NAME: known}, {NAME}, dict[str, int]()
    rest: QueuedReplay | None = QueuedReplay(NAME, known + 1, known)
    for _ in range(200):
        if rest is None:
            return taken, reasons
        rows = entity.rows(rest.from_seq_nr)
        first_stored = rows[0].seq_nr if rows else entity.deleted_to + 1
        last_tags = entity.tags[entity.deleted_to - 1] if entity.deleted_to else ""
        page = EntityPage(
            columns(rows[:page_events]),
            first_stored,
            len(rows) <= page_events,
            last_tags,
            0,
            entity.snapshot(),
            frozenset(entity.tags),
        )
        parts, rest = replay_page(rest, page, wanted, past)
        for part in parts:
            message = Deliver(
                DeliveryLane.REPLAY, 0, 0, events=part.events, ranges=part.ranges, leaving=part.leaving,
                snapshots=part.snapshots, replay_of=NAME,
            )  # fmt: skip
            received = admit_received(message, numbers, awaiting, missed)
            assert not received.parked, "a replay has no gap"
            reasons += [stated.reason for stated in received.passed]
            taken += [(part.events.seq_nr[index], index < part.snapshots) for index in received.accepted]
            for index in range(part.snapshots, len(part.events)):
                number = part.events.seq_nr[index]
                assert (part.events.position[index] in part.leaving) == _leaves(entity, wanted, number)
    raise AssertionError("it does not end")


def _leaves(entity: Entity, wanted: EntityPredicate, number: int) -> bool:
    return selected(entity, wanted, number)[0] and not wanted.matches(NAME, entity.tags[number - 1])


@settings(max_examples=500)
@given(
    entities(),
    st.integers(0, 14),
    st.sampled_from([RED, EVERY_ENTITY]),
    st.sampled_from([EVERY_ENTITY, NO_SECRETS]),
    st.sampled_from(Past),
    st.integers(1, 5),
)
def test_a_replay_brings_what_is_selected_and_its_past(
    entity: Entity, known: int, wish: EntityPredicate, wall: EntityPredicate, past: Past, page_events: int
) -> None:
    wanted, known = within(wall, wish), min(known, len(entity.tags))
    taken, reasons = replayed(entity, known, wanted, past, page_events)
    assert taken == expected(entity, known, wanted, past)
    if wall is EVERY_ENTITY and past is not Past.NONE:
        assert "withheld" not in reasons, "nothing is forbidden"


@pytest.mark.parametrize("page_events", [1, 2, 3, 20])
@pytest.mark.parametrize(
    ("past", "numbers"),
    [
        (Past.FULL, [1, 2, 3, 4, 5, 6, 7]),
        (Past.SNAPSHOT, [4, 5, 6, 7]),
        (Past.NONE, [7]),
    ],
)
def test_pages_that_turn_out_to_be_the_past_are_gone_back_to(past: Past, numbers: list[int], page_events: int) -> None:
    entity = Entity(("",) * 6 + ("red",) + ("",) * 2, 0, 4)
    taken, _ = replayed(entity, 0, RED, past, page_events)
    assert [number for number, _ in taken] == [*numbers, 8]
    assert [number for number, is_snapshot in taken if is_snapshot] == ([4] if past is Past.SNAPSHOT else [])
