"""Whole sessions of source and consumer as pure machines over any history: nothing lost, repeated or out of order."""

from __future__ import annotations

from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common.core.subscription.source
from common.core.events.batch import join_tags
from common.core.filters.past import Past
from common.core.subscription.messages import Begin
from common.core.subscription.place import FilterState
from tests.support.subscription.model import Source, criteria
from tests.support.subscription.sessions import Consumer, Session

NAMES = ["T|a", "T|b", "T|c"]
TAGS = ["red", "blue"]
TAG_SETS = st.frozensets(st.sampled_from(TAGS))
STEPS = ["step_live", "step_live", "step_backfill", "step_replay", "step_receive", "step_receive", "step_commit"]
OPERATIONS = st.one_of(
    st.tuples(st.just("append"), st.sampled_from(NAMES), TAG_SETS),
    st.tuples(st.just("step"), st.sampled_from(STEPS)),
    st.tuples(st.just("steps"), st.lists(st.sampled_from(STEPS), min_size=3, max_size=8)),
    st.tuples(st.just("change"), TAG_SETS),
    st.tuples(st.just("cut")),
    st.tuples(st.just("snapshot"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
)


Operation = tuple[object, ...]


def run_sessions(operations: list[Operation], first_filter: frozenset[str], start: Begin, past: Past) -> None:
    """Take the operations, let all come to rest, and check what the consumer has."""
    source = Source()
    consumer = Consumer(source, FilterState(1, criteria(first_filter)), start, past)
    session = Session(source, consumer)
    for operation, *details in operations:
        match operation, details:
            case "append", [str(name), tags]:
                source.append(name, join_tags(sorted(tags)))  # type: ignore[call-overload]
            case "step", [str(step)]:
                getattr(session, step)()
            case "steps", [list(steps)]:
                for step in steps:
                    getattr(session, step)()
            case "change", [frozenset() as tags]:
                consumer.change(tags)
                session.step_filter()
            case "cut", _:
                session = Session(source, consumer)
            case "snapshot", [str(name)]:
                source.take_snapshot(name)
            case "delete", [str(name)]:
                source.delete(name)
    session.settle()
    consumer.check_complete()


@settings(max_examples=600)
@given(
    st.lists(OPERATIONS, max_size=60), TAG_SETS, st.sampled_from([Begin.LOG, Begin.SNAPSHOTS]), st.sampled_from(Past)
)
def test_the_consumer_ends_with_what_its_filter_selects_whatever_happens(
    operations: list[Operation], first_filter: frozenset[str], start: Begin, past: Past
) -> None:
    run_sessions(operations, first_filter, start, past)


def long_history(chance: Random) -> list[Operation]:
    """More operations than examples are given: replays of many pages, slowly served, while filters change."""
    operations: list[Operation] = []
    for _ in range(300):
        kind = chance.choices(["step", "append", "change", "cut", "snapshot", "delete"], [70, 24, 8, 0.5, 1, 0.5])[0]
        tags = frozenset(tag for tag in TAGS if chance.random() < 0.5)
        match kind:
            case "step":
                operations.append(("step", chance.choices(sorted(set(STEPS)), [6, 4, 6, 6, 1])[0]))
            case "append":
                operations.append(("append", chance.choice(NAMES), tags))
            case "change":
                operations.append(("change", tags))
            case "cut":
                operations.append(("cut",))
            case _:
                operations.append((kind, chance.choice(NAMES)))
    return operations


@pytest.mark.parametrize("seed", range(8))
def test_long_histories_lose_nothing_however_soon_live_waits_for_backfill(seed: int) -> None:
    """A small ``MEET_WITHIN`` has changes end early: the next one begins while a replay still has pages to send."""
    for number in range(seed * 20, seed * 20 + 20):
        chance = Random(number)
        with patch.object(common.core.subscription.source, "MEET_WITHIN", chance.choice([3, 10, 30])):
            try:
                start, past = chance.choice([Begin.LOG, Begin.SNAPSHOTS]), chance.choice(list(Past))
                run_sessions(long_history(chance), frozenset(TAGS[:1]), start, past)
            except AssertionError as error:
                raise AssertionError(f"history {number}: {error}") from error
