"""Filters decide as a naive model of the rules does, and what they tell an index never leaves a match out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import NO_TAGS, EventBatch, join_tags, new_events, predecessor_tags, split_tags
from common.core.events.ids import entity_type_of
from common.core.filters import predicates as filters
from common.core.filters.permission import Matched, Walled, match_batch
from common.core.filters.predicates import AllOf, EntityPredicate, Filter, Keys, OnlyNew, parse_filter
from common.core.filters.selection import Selection
from tests.core.filters.test_topics import naive as naive_topic

IDS = ("S|a", "S|b", "S|ab", "T|a", "T|工場", "T|ü")
TAGS = ("red", "blue", "t:site/1", "t:site/1/x", "t:site/2", "t:site", "t:$x", "t:", "ü")
EXPRESSIONS = ("site/1", "site/+", "site/#", "#", "+/1", "+/+/x", "$x", "site/1/#")
PATTERNS = ("a", "a.*", "[^a]*", "工.", ".*")

tag_sets = st.lists(st.sampled_from(TAGS), max_size=3, unique=True).map(join_tags)
ids = st.sampled_from(IDS)
_named = st.sampled_from([*IDS, "a", "b", "工場"])
_values = {
    "exclude_tags": st.sampled_from(("red", "ü", "t:site/1")),
    "exclude_ids": _named,
    "exclude_regex": st.sampled_from(PATTERNS),
    "include_tags": st.sampled_from(("blue", "ü", "t:site/2")),
    "include_ids": _named,
    "include_regex": st.sampled_from(PATTERNS),
    "include_topics": st.sampled_from(EXPRESSIONS),
}
_lists = st.sampled_from(sorted(_values)).flatmap(
    lambda name: st.lists(_values[name], min_size=1, max_size=2).map(lambda entries: {name: entries})
)
criteria_lists = st.tuples(st.booleans(), st.lists(_lists, max_size=5)).map(
    lambda drawn: ([{"exclude_all": True}] if drawn[0] else []) + drawn[1]
)
filters_drawn = criteria_lists.map(lambda criteria: parse_filter(json.dumps(criteria)))
predicates = st.recursive(
    filters_drawn,
    lambda parts: (
        st.lists(parts, min_size=1, max_size=2).map(lambda some: AllOf(tuple(some)))
        | st.tuples(parts, parts).map(lambda pair: OnlyNew(*pair))
        | st.tuples(parts, parts).map(lambda pair: Walled(*pair))
    ),
    max_leaves=3,
)


def naive(criteria: list[dict[str, list[str]]], persistence_id: str, tags: str) -> bool:
    """The rules of the module's docstring, clause by clause."""
    entity_id, carried = persistence_id.partition("|")[2], split_tags(tags)
    topics = [tag[2:] for tag in carried if tag.startswith("t:")]

    def clause(kind: str, value: str) -> bool:
        if kind == "tags":
            return value in carried
        if kind == "ids":
            return value in (persistence_id, entity_id)
        if kind == "regex":
            return re.fullmatch(value, entity_id) is not None
        return any(topic and naive_topic(value, topic) for topic in topics)

    clauses = [(key, value) for criterion in criteria for key, values in criterion.items() for value in _listed(values)]
    excluded = any(
        key == "exclude_all" or clause(key.removeprefix("exclude_"), value)
        for key, value in clauses
        if key.startswith("exclude")
    )
    included = any(clause(key.removeprefix("include_"), value) for key, value in clauses if key.startswith("include"))
    return included or not excluded


def _listed(values: object) -> list[str]:
    return values if isinstance(values, list) else [""]


@given(criteria_lists, ids, tag_sets)
def test_a_filter_decides_as_the_naive_model(criteria: list[dict[str, list[str]]], who: str, tags: str) -> None:
    made = parse_filter(json.dumps(criteria))
    assert made.matches(who, tags) == naive(criteria, who, tags)
    assert made.matches(who, tags) == naive(criteria, who, tags), "the second time from what is remembered"


@given(criteria_lists)
def test_what_is_everything_withholds_nothing(criteria: list[dict[str, list[str]]]) -> None:
    made = parse_filter(json.dumps(criteria))
    if made.is_everything:
        assert all(made.matches(who, tags) for who in IDS for tags in ("", *TAGS))


def test_equal_filters_are_one_key() -> None:
    one = parse_filter('[{"exclude_all": true}, {"include_tags": ["b", "a"]}]')
    other = parse_filter('[{"include_tags": ["a"]}, {"exclude_all": true}, {"include_tags": ["b"]}]')
    assert one == other
    assert len({one, other}) == 1
    assert one.changed('[{"remove_include_tags": ["b"]}]') == parse_filter(
        '[{"exclude_all": true}, {"include_tags": ["a"]}]'
    )


def test_a_stated_start_is_told() -> None:
    made = parse_filter('[{"exclude_all": true}, {"include_ids": [{"id": "a", "from_seq_nr": 5}, "T|a"]}]')
    assert (made.from_seq_nr("S|a"), made.from_seq_nr("T|a"), made.from_seq_nr("S|b")) == (5, 0, 0)


def test_an_expression_is_decided_once_for_an_entity_and_what_is_remembered_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided: list[str] = []
    decide = filters._any_matches

    def counted(patterns: list[Callable[[str], bool]], who: str) -> bool:
        if patterns:
            decided.append(who)
        return decide(patterns, who)

    monkeypatch.setattr(filters, "_any_matches", counted)
    made = parse_filter('[{"exclude_all": true}, {"include_regex": ["a.*"]}]')
    for number in range(1_000):
        assert not made.matches("S|b", f"tag-{number}")
    assert decided == ["b"]
    for number in range(3 * filters.VERDICTS_MAX):
        assert made.matches(f"S|a{number}", "")
    assert len(made._by_id) == filters.VERDICTS_MAX


def found(selection: Selection, who: str, tags: str) -> bool:
    """What an index of types, ids and single tags finds."""
    if selection.entity_types and entity_type_of(who) not in selection.entity_types:
        return False
    carried = split_tags(tags)
    return not (selection.tags or selection.tag_prefixes or selection.persistence_ids) or (
        who in selection.persistence_ids
        or not selection.tags.isdisjoint(carried)
        or any(tag.startswith(prefix) for tag in carried for prefix in selection.tag_prefixes)
    )


@given(predicates, ids, tag_sets, st.sampled_from([frozenset[str](), frozenset({"S"}), frozenset({"S", "T"})]))
def test_a_selection_never_leaves_out_a_match(
    predicate: EntityPredicate, who: str, tags: str, entity_types: frozenset[str]
) -> None:
    wanted = predicate.matches(who, tags) and (not entity_types or entity_type_of(who) in entity_types)
    if wanted:
        assert found(predicate.selection(entity_types), who, tags)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ('[{"include_tags": ["a"]}]', Selection(frozenset({"S"}))),
        ('[{"exclude_all": true}, {"include_regex": ["a"]}]', Selection(frozenset({"S"}))),
        (
            '[{"exclude_all": true}, {"include_topics": ["site/7/#", "site/8", "+/x"]}, {"include_ids": ["a", "T|b"]}]',
            Selection(
                frozenset({"S"}),
                frozenset({"t:site/7", "t:site/8"}),
                frozenset({"t:site/7/", "t:"}),
                frozenset({"S|a", "T|b"}),
            ),
        ),
    ],
)
def test_a_selection_says_what_an_index_can_use(criteria: str, expected: Selection) -> None:
    assert parse_filter(criteria).selection(frozenset({"S"})) == expected


def test_a_filter_of_nothing_is_looked_for_where_nothing_is() -> None:
    selection = parse_filter('[{"exclude_all": true}]').selection(frozenset())
    assert not any(found(selection, who, "") for who in IDS)
    assert not selection.is_all


def test_of_two_filters_the_narrower_one_finds_what_both_select() -> None:
    wide = parse_filter('[{"exclude_all": true}, {"include_topics": ["#"]}]')
    narrow = parse_filter('[{"exclude_all": true}, {"include_ids": ["S|a"]}]')
    assert AllOf((wide, narrow)).keys() == Keys(ids=frozenset({"S|a"}))
    assert AllOf((parse_filter("[]"),)).keys() is None


@dataclass
class History:
    """A log in which entities change their tags, and what a naive reader would be given of it."""

    events: EventBatch = field(default_factory=EventBatch)

    def add(self, who: str, tags: str) -> None:
        before = [tag for name, tag in zip(self.events.persistence_id, self.events.tags, strict=True) if name == who]
        one = new_events([who], ["happened"], [b""], tags=[tags])
        one.position = [len(self.events) + 1]
        one.seq_nr = [len(before) + 1]
        differs = before and set(split_tags(before[-1])) != set(split_tags(tags))
        one.prev_tags = [(before[-1] or NO_TAGS) if differs else ""]
        self.events.extend(one)

    def walk(self, predicate: EntityPredicate) -> Matched:
        last: dict[str, str] = {}
        matched = Matched()
        for index, (who, tags) in enumerate(zip(self.events.persistence_id, self.events.tags, strict=True)):
            now = predicate.matches(who, tags)
            before = predicate.matches(who, last[who]) if who in last else now
            last[who] = tags
            if now or before:
                matched.indexes.append(index)
            if before and not now:
                matched.leaving.append(index)
                if not predicate.permits(who, tags):
                    matched.marks.append(index)
            if now and not before:
                matched.entering.append(index)
        return matched


histories = st.lists(st.tuples(ids, tag_sets), max_size=25)


def history_of(rows: list[tuple[str, str]]) -> History:
    history = History()
    for who, tags in rows:
        history.add(who, tags)
    return history


@settings(max_examples=300)
@given(predicates, histories)
def test_a_batch_is_matched_as_a_walk_over_the_whole_history_does(
    predicate: EntityPredicate, rows: list[tuple[str, str]]
) -> None:
    history = history_of(rows)
    assert match_batch(predicate, history.events) == history.walk(predicate)


def test_who_leaves_and_who_enters() -> None:
    history = history_of([("S|a", "red"), ("S|a", "blue"), ("S|a", ""), ("S|a", "red"), ("S|b", "blue")])
    made = parse_filter('[{"exclude_all": true}, {"include_tags": ["red"]}]')
    assert match_batch(made, history.events) == Matched([0, 1, 3], [1], [3])


def test_a_predecessor_without_tags_has_none() -> None:
    assert predecessor_tags("a", "") == "a"
    assert predecessor_tags("a", "b") == "b"
    assert predecessor_tags("a", NO_TAGS) == ""


def test_a_filter_tells_itself() -> None:
    assert repr(parse_filter('[{"exclude_all":true}]')) == 'Filter([{"exclude_all":true}])'
    assert isinstance(filters.EVERY_ENTITY, Filter)
    assert filters.EVERY_ENTITY.is_everything
