"""The index tells what asking every subscriber one by one would, and asks few of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import EventBatch, new_events
from common.core.filters import index as filter_index
from common.core.filters import predicates as filters
from common.core.filters.index import FilterIndex
from common.core.filters.permission import Matched, match_batch
from common.core.filters.predicates import EntityPredicate, parse_filter
from tests.core.filters.test_predicates import histories, history_of, predicates


def one_by_one(subscribers: dict[int, EntityPredicate], events: EventBatch) -> dict[int, Matched]:
    answer = {key: match_batch(predicate, events) for key, predicate in subscribers.items()}
    return {key: matched for key, matched in answer.items() if matched.indexes}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_index_equals_asking_every_subscriber(data: st.DataObject) -> None:
    index: FilterIndex[int] = FilterIndex()
    subscribers: dict[int, EntityPredicate] = {}
    for _ in range(data.draw(st.integers(1, 4))):
        for key, predicate in data.draw(st.lists(st.tuples(st.integers(0, 5), predicates), max_size=5)):
            index.add(key, predicate)
            subscribers[key] = predicate
        for key in data.draw(st.sets(st.integers(0, 5), max_size=3)):
            index.remove(key)
            subscribers.pop(key, None)
        events = history_of(data.draw(histories)).events
        assert index.match(events) == one_by_one(subscribers, events)
        assert len(index) == len(subscribers)
    for key in range(6):
        index.remove(key)
    left = (index._groups, index._by_tag, index._by_id, index._by_topic, index._scanned)
    assert not any(left), "what nobody asks for is forgotten"


def batch(*tags: str) -> EventBatch:
    return new_events([f"S|{tag}" for tag in tags], ["happened"] * len(tags), [b""] * len(tags), tags=list(tags))


def test_a_thousand_with_a_topic_each_cost_one_evaluation_an_event() -> None:
    index: FilterIndex[int] = FilterIndex()
    for number in range(1_000):
        index.add(number, parse_filter(f'[{{"exclude_all":true}},{{"include_topics":["site/{number}/#"]}}]'))
    found = index.match(batch(*(f"t:site/{number}/door" for number in range(1_000))))
    assert found == {number: Matched([number]) for number in range(1_000)}
    assert index.evaluations == 1_000


def test_equal_filters_are_asked_once_for_all() -> None:
    index: FilterIndex[int] = FilterIndex()
    for number in range(100):
        index.add(number, parse_filter('[{"exclude_tags":["red"]}]'))
    assert index.match(batch("red", "blue")) == {number: Matched([1]) for number in range(100)}
    assert index.evaluations == 2


def test_an_entity_that_leaves_is_found_by_what_it_was() -> None:
    index: FilterIndex[str] = FilterIndex()
    index.add("red", parse_filter('[{"exclude_all":true},{"include_tags":["red"]}]'))
    index.add("blue", parse_filter('[{"exclude_all":true},{"include_tags":["blue"]}]'))
    events = history_of([("S|a", "red"), ("S|a", "blue")]).events
    assert index.match(events) == {"red": Matched([0, 1], [1]), "blue": Matched([1], [], [1])}


def test_an_expression_of_a_thousand_subscribers_is_decided_once_for_an_entity(monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[str] = []
    decide = filters._any_matches

    def counted(patterns: list[Callable[[str], bool]], who: str) -> bool:
        if patterns:
            decided.append(who)
        return decide(patterns, who)

    monkeypatch.setattr(filters, "_any_matches", counted)
    index: FilterIndex[int] = FilterIndex()
    for number in range(1_000):
        index.add(number, parse_filter('[{"exclude_all":true},{"include_regex":["a.*"]}]'))
    for _ in range(5):
        assert len(index.match(new_events(["S|a", "S|b"], ["happened"] * 2, [b""] * 2))) == 1_000
    assert decided == ["a", "b"]


def test_what_is_remembered_of_tags_is_bounded() -> None:
    index: FilterIndex[int] = FilterIndex()
    index.add(1, parse_filter('[{"exclude_all":true},{"include_tags":["tag-7"]}]'))
    tags = [f"tag-{number}" for number in range(filter_index.REMEMBERED_TAGS_MAX + 10)]
    assert index.match(batch(*tags)) == {1: Matched([7])}
    assert len(index._remembered) <= filter_index.REMEMBERED_TAGS_MAX
