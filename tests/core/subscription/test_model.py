"""Whole sessions of source and consumer as pure machines over any history: nothing lost, repeated or out of order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import join_tags
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


@settings(max_examples=600)
@given(st.lists(OPERATIONS, max_size=60), TAG_SETS, st.sampled_from([Begin.LOG, Begin.SNAPSHOTS]))
def test_the_consumer_ends_with_what_its_filter_selects_whatever_happens(
    operations: list[tuple[object, ...]], first_filter: frozenset[str], start: Begin
) -> None:
    source = Source()
    consumer = Consumer(source, FilterState(1, criteria(first_filter)))
    session = Session(source, consumer, start)
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
                session = Session(source, consumer, start)
            case "snapshot", [str(name)]:
                source.take_snapshot(name)
            case "delete", [str(name)]:
                source.delete(name)
    session.settle()
    consumer.check_complete(start)
