"""A wall is asked about each event's own tags; a wish selects entities, and shows how they leave."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from common.core.events.batch import FOLDS_TAG, join_tags, predecessor_tags
from common.core.filters.permission import Matched, Walled, match_batch, within
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, Filter, OnlyNew, parse_filter
from tests.core.filters.test_predicates import histories, history_of, predicates

ONLY_RED = parse_filter('[{"exclude_all":true},{"include_tags":["red"]}]')
NOT_BLUE = parse_filter('[{"exclude_tags":["blue"]}]')


@settings(max_examples=300)
@given(predicates, predicates, histories)
def test_nothing_that_a_wall_forbids_is_delivered(
    wall: EntityPredicate, wish: EntityPredicate, rows: list[tuple[str, str]]
) -> None:
    """And what is permitted is what the wish alone gives, where the predecessor was permitted too."""
    events = history_of(rows).events
    given_out, wished = match_batch(Walled(wall, wish), events), match_batch(wish, events)
    assert set(given_out.indexes) <= set(wished.indexes)
    for index in set(given_out.indexes) - set(given_out.marks):
        assert wall.matches(events.persistence_id[index], events.tags[index])
    for index in set(wished.indexes) - set(wished.leaving):
        permitted = wall.matches(events.persistence_id[index], events.tags[index])
        assert (index in given_out.indexes and index not in given_out.marks) == permitted
    for index in given_out.marks:
        name, before = events.persistence_id[index], predecessor_tags(events.tags[index], events.prev_tags[index])
        assert wall.matches(name, before) and wish.matches(name, before)  # noqa: PT018
        assert not Walled(wall, wish).permits(name, events.tags[index])


@settings(max_examples=100)
@given(predicates, predicates, predicates, histories)
def test_a_wall_within_a_wall_holds(
    outer: EntityPredicate, inner: EntityPredicate, wish: EntityPredicate, rows: list[tuple[str, str]]
) -> None:
    events = history_of(rows).events
    for nested in (Walled(outer, Walled(inner, wish)), Walled(outer, OnlyNew(Walled(inner, wish), EVERY_ENTITY))):
        matched = match_batch(nested, events)
        for index in set(matched.indexes) - set(matched.marks):
            assert outer.matches(events.persistence_id[index], events.tags[index])
            assert inner.matches(events.persistence_id[index], events.tags[index])


def test_an_entity_is_seen_to_leave_a_wish_and_not_through_a_wall() -> None:
    events = history_of([("S|a", "red"), ("S|a", "blue"), ("S|a", "red")]).events
    assert match_batch(ONLY_RED, events) == Matched([0, 1, 2], [1], [2])
    assert match_batch(within(ONLY_RED, EVERY_ENTITY), events) == Matched([0, 1, 2], [1], [2], [1])
    assert match_batch(within(NOT_BLUE, ONLY_RED), events) == Matched([0, 1, 2], [1], [2], [1])


def test_a_snapshot_in_a_log_that_folds_other_tags_passes_no_wall_by_tags() -> None:
    folding = join_tags(("blue", FOLDS_TAG))
    for wall in ('[{"exclude_tags":["secret"]}]', '[{"exclude_all":true},{"include_tags":["blue"]}]'):
        walled = within(parse_filter(wall), EVERY_ENTITY)
        assert walled.matches("S|a", "blue")
        assert walled.permits("S|a", "blue")
        assert not walled.matches("S|a", folding)
        assert not walled.permits("S|a", folding)
    assert within(parse_filter('[{"exclude_ids":["b"]}]'), EVERY_ENTITY).matches("S|a", folding)
    assert parse_filter('[{"exclude_all":true},{"include_tags":["blue"]}]').matches("S|a", folding), "a wish is no wall"


def test_a_wall_costs_one_question_an_event_and_none_where_it_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    events = history_of([(f"S|{i % 3}", "red") for i in range(30)]).events
    asked: Counter[str] = Counter()
    matches = Filter.matches

    def counted(self: Filter, persistence_id: str, tags: str) -> bool:
        asked[self.criteria] += 1
        return matches(self, persistence_id, tags)

    monkeypatch.setattr(Filter, "matches", counted)
    match_batch(within(parse_filter("[]"), ONLY_RED), events)
    assert asked == {ONLY_RED.criteria: 30}
    asked.clear()
    match_batch(within(NOT_BLUE, ONLY_RED), events)
    assert asked == {NOT_BLUE.criteria: 30, ONLY_RED.criteria: 30}
    asked.clear()
    match_batch(within(NOT_BLUE, EVERY_ENTITY), events)
    assert asked == {NOT_BLUE.criteria: 30}
