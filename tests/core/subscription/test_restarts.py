"""Which entities begin again when a filter takes the place of another."""

from __future__ import annotations

import json

import pytest

from common.core.filters.predicates import parse_filter
from common.core.subscription.restarts import begins_again, lower_starts


def including(*ids: object) -> str:
    return json.dumps([{"exclude_all": True}, {"include_ids": list(ids)}])


def start(name: str, first: int) -> dict[str, object]:
    return {"id": name, "from_seq_nr": first}


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        ("", including(start("T|a", 3)), {"T|a": 3}),
        (including("T|a"), including(start("T|a", 3)), {"T|a": 3}),
        (including(start("T|a", 5)), including(start("T|a", 3)), {"T|a": 3}),
        (including(start("T|a", 3)), including(start("T|a", 3), "T|b"), {}),
        (including(start("T|a", 3)), including(start("T|a", 5)), {}),
        (including(start("T|a", 3)), including("T|a"), {}),
        (including("b"), including("b", start("a", 1)), {"a": 1}),
    ],
)
def test_a_lower_start_is_news(before: str, after: str, news: dict[str, int]) -> None:
    assert lower_starts(parse_filter(before), parse_filter(after)) == news


def test_only_what_is_known_beyond_the_start_begins_again() -> None:
    known = {"T|a": 3, "T|b": 2, "U|a": 9, "T|c": 7}
    assert begins_again({"a": 3, "T|b": 3, "T|a": 2}, known) == {"T|a": 2, "U|a": 3}
    assert begins_again({}, known) == {}
