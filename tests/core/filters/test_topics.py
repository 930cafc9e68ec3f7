"""Topic expressions match as MQTT 3.1.1 says, one by one and in a tree of many."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.filters.topics import TopicTree, fixed_prefix, is_wildcard, topic_problem

level = st.sampled_from(["a", "b", "", "$s", "ü", "工場"])
topics = st.lists(level, min_size=1, max_size=4).map("/".join).filter(bool)
expressions = (
    st.tuples(st.lists(level | st.just("+"), max_size=4), st.booleans())
    .map(lambda drawn: "/".join([*drawn[0], *(["#"] if drawn[1] else [])]))
    .filter(bool)
)


def naive(expression: str, topic: str) -> bool:
    """By regular expression, as a reader of the specification would write it."""
    if topic.startswith("$") and expression[0] in "+#":
        return False
    pattern = "/".join("[^/]*" if one == "+" else re.escape(one) for one in expression.split("/"))
    if expression.endswith("#"):
        pattern = ".*" if expression == "#" else pattern.removesuffix("/" + re.escape("#")) + "(/.*)?"
    return re.fullmatch(pattern, topic, re.DOTALL) is not None


def matches(expression: str, topic: str) -> bool:
    tree: TopicTree[str] = TopicTree()
    tree.add(expression, "it")
    assert tree.matches(topic) == bool(tree.match(topic))
    return tree.matches(topic)


@pytest.mark.parametrize(
    ("expression", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/", False),
        ("a/#", "a", True),
        ("a/#", "a/", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "a/b", True),
        ("#", "/", True),
        ("#", "$sys/a", False),
        ("+/a", "$sys/a", False),
        ("$sys/#", "$sys/a", True),
        ("a/+/#", "a", False),
        ("a/+/#", "a/b", True),
        ("+/#", "a", True),
        ("a/+", "a/+", True),
        ("a/b", "a/+", False),
        ("a/b", "a/#", False),
        ("#", "", False),
    ],
)
def test_the_vectors_of_the_specification(expression: str, topic: str, expected: bool) -> None:
    assert matches(expression, topic) is expected


@given(expressions, topics)
def test_one_expression_matches_as_the_naive_model(expression: str, topic: str) -> None:
    assert topic_problem(expression) == ""
    assert matches(expression, topic) == naive(expression, topic)


@given(st.lists(st.tuples(expressions, st.integers(0, 3)), max_size=12), st.data(), topics)
def test_a_tree_finds_what_its_expressions_match_also_after_some_are_removed(
    added: list[tuple[str, int]], data: st.DataObject, topic: str
) -> None:
    tree: TopicTree[int] = TopicTree()
    for expression, key in added:
        tree.add(expression, key)
    kept = set(added)
    for one in data.draw(st.lists(st.sampled_from(added), unique=True)) if added else []:
        kept.discard(one)
        tree.remove(*one)
    assert tree.match(topic) == {key for expression, key in kept if naive(expression, topic)}
    for one in kept:
        tree.remove(*one)
    assert not tree


def test_removing_what_was_never_added_changes_nothing() -> None:
    tree: TopicTree[int] = TopicTree()
    tree.add("a/b", 1)
    for expression in ("a", "a/+", "x/#", "a/b/c", "a/b/#"):
        tree.remove(expression, 1)
    assert tree.match("a/b") == {1}


@pytest.mark.parametrize(
    "bad", ["", "#/a", "a#", "a/b#", "a+", "+a/b", "a/++", "##", "a/\x00", "a\x1fb", "\ud800", "x" * 255]
)
def test_what_is_no_expression_is_named(bad: str) -> None:
    assert topic_problem(bad)


@given(expressions.filter(is_wildcard), topics)
def test_every_topic_that_matches_begins_with_the_fixed_prefix_or_is_the_level_above(
    expression: str, topic: str
) -> None:
    if naive(expression, topic):
        assert topic.startswith(fixed_prefix(expression)) or topic == expression.removesuffix("/#")
