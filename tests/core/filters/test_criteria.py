"""Criteria: order, removal, limits that refuse, and one text for equal filters."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.filters.criteria import Criteria, FilterLimits, compile_regex, parse_criteria

SMALL = FilterLimits(json_bytes=300, criteria=5, entries=3, regex_entries=2, regex_bytes=20)
NAMES = (
    "exclude_tags",
    "exclude_ids",
    "exclude_regex",
    "include_tags",
    "include_ids",
    "include_regex",
    "include_topics",
)

entry = st.sampled_from(["a", "b", "ü", "工場", "S|a"])
one_list = st.tuples(st.sampled_from(NAMES), st.booleans(), st.lists(entry, max_size=3)).map(
    lambda drawn: {("remove_" if drawn[1] else "") + drawn[0]: drawn[2]}
)
stated_start = st.tuples(entry, st.integers(0, 3)).map(
    lambda drawn: {"include_ids": [{"id": drawn[0], "from_seq_nr": drawn[1]}]}
)
everything_else = st.sampled_from([{"exclude_all": True}, {"remove_exclude_all": True}])
criteria_lists = st.lists(one_list | stated_start | everything_else, max_size=12)


def refused(criteria: object, limits: FilterLimits = SMALL) -> str:
    text = criteria if isinstance(criteria, str | bytes) else json.dumps(criteria)
    with pytest.raises(BackhaulError) as error:
        parse_criteria(text, limits)
    return error.value.code


def naive(criteria: list[dict[str, object]]) -> dict[str, object]:
    """One after the other, as one would on paper."""
    held: dict[str, dict[str, int]] = {name: {} for name in NAMES}
    excludes_all = False
    for criterion in criteria:
        [(key, value)] = criterion.items()
        if key.endswith("exclude_all"):
            excludes_all = key == "exclude_all"
            continue
        assert isinstance(value, list)
        for one in value:
            name = key.removeprefix("remove_")
            if key != name:
                held[name].pop(one, None)
            elif isinstance(one, dict):
                held[name][one["id"]] = one["from_seq_nr"]
            else:
                held[name][one] = 0
    return {"exclude_all": excludes_all, **held}


@given(criteria_lists)
def test_criteria_apply_in_list_order(criteria: list[dict[str, object]]) -> None:
    got = parse_criteria(json.dumps(criteria))
    expected = naive(criteria)
    assert got.exclude_all == expected["exclude_all"]
    for name in NAMES:
        held = getattr(got, name)
        assert (held if name == "include_ids" else dict.fromkeys(held, 0)) == expected[name], name


@given(criteria_lists, criteria_lists)
def test_applying_in_two_goes_is_applying_in_one(first: list[object], second: list[object]) -> None:
    at_once = parse_criteria(json.dumps(first + second))
    assert parse_criteria(json.dumps(second), onto=parse_criteria(json.dumps(first))) == at_once


@given(criteria_lists, criteria_lists)
def test_equal_filters_have_equal_text_and_others_another(first: list[object], second: list[object]) -> None:
    one, other = parse_criteria(json.dumps(first)), parse_criteria(json.dumps(second))
    assert (one == other) == (one.canonical() == other.canonical())
    assert parse_criteria(one.canonical()) == one


def test_no_text_is_no_criterion() -> None:
    assert parse_criteria("") == parse_criteria("[]") == Criteria()
    assert Criteria().canonical() == "[]"


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "{}",
        "null",
        b"\xff",
        '["exclude_all"]',
        '[{"exclude_all": true}',
        [{}],
        [{"exclude_all": True, "include_tags": []}],
        [{"exclude_all": False}],
        [{"exclude_all": 1}],
        [{"exclude_everything": True}],
        [{"remove_": ["a"]}],
        [{"remove_remove_include_tags": ["a"]}],
        [{"include_tags": "a"}],
        [{"include_tags": [1]}],
        [{"include_tags": [""]}],
        [{"include_tags": ["a\x1fb"]}],
        [{"include_tags": ["x" * 257]}],
        [{"exclude_ids": ["a|b|c"]}],
        [{"exclude_ids": ["|a"]}],
        [{"exclude_ids": [{"id": "a", "from_seq_nr": 1}]}],
        [{"include_ids": [{"id": "a"}]}],
        [{"include_ids": [{"id": "a", "from_seq_nr": -1}]}],
        [{"include_ids": [{"id": "a", "from_seq_nr": True}]}],
        [{"include_ids": [{"id": "a", "from_seq_nr": 2**63}]}],
        [{"include_ids": [{"id": "a", "from_seq_nr": 1, "to": 2}]}],
        [{"remove_include_ids": [1]}],
    ],
)
def test_what_is_wrong_is_refused(bad: object) -> None:
    assert refused(bad, FilterLimits()) == "filter.invalid"


def test_an_unknown_key_is_answered_with_those_there_are() -> None:
    with pytest.raises(BackhaulError, match=r"'exclude_topics'; known are exclude_all, .*, include_topics"):
        parse_criteria('[{"exclude_topics": ["a"]}]')


@pytest.mark.parametrize(
    "large",
    [
        [{"include_tags": ["x" * 250]}, {"exclude_tags": ["x" * 250]}],
        [{"exclude_all": True}] * 6,
        [{"include_tags": ["a", "b", "c", "d"]}],
        [{"include_tags": ["a", "b"]}, {"include_tags": ["c", "d"]}],
        [{"exclude_regex": ["a", "b", "c"]}],
        [{"include_regex": ["a" * 21]}],
    ],
)
def test_what_is_over_a_limit_is_refused_never_cut(large: object) -> None:
    assert refused(large) == "filter.too_large"


def test_limits_count_what_is_left_not_what_was_said() -> None:
    criteria = [{"include_tags": ["a", "b", "c"]}, {"remove_include_tags": ["a"]}, {"include_tags": ["d"]}]
    assert parse_criteria(json.dumps(criteria), SMALL).include_tags == {"b", "c", "d"}


@pytest.mark.parametrize("topic", ["#/a", "a+", "", "a#", "a/\x00"])
def test_a_bad_topic_has_its_own_code(topic: str) -> None:
    assert refused([{"include_topics": [topic]}]) == "filter.bad_topic"


@pytest.mark.parametrize("pattern", ["(", "a{1001}", r"(a)\1", "(?=a)", "*", r"(?:\pL{30}){30}", r"[\pL-z]{900}"])
def test_an_expression_that_cannot_run_in_linear_time_and_little_memory_is_refused(pattern: str) -> None:
    assert refused([{"exclude_regex": [pattern]}]) == "filter.bad_regex"


def test_an_expression_that_would_take_others_for_ever_is_decided_at_once() -> None:
    matches = compile_regex("(a|a|aa)*(a*)*b")
    assert not matches("a" * 100_000)
    assert matches("a" * 100_000 + "b")


def test_an_expression_matches_the_whole_id() -> None:
    matches = compile_regex("line-[0-9]+|工.")
    assert matches("line-12")
    assert matches("工場")
    assert not matches("line-12b")
    assert not matches("a line-12")


def test_limits_can_be_wider() -> None:
    criteria = json.dumps([{"include_tags": ["a", "b", "c", "d"]}])
    assert parse_criteria(criteria, replace(SMALL, entries=4)).include_tags == {"a", "b", "c", "d"}
