"""Values as literals: the short way writes what the long one does, or leaves it to that one."""

from __future__ import annotations

from math import inf, nan
from typing import Any, cast

import pytest
from asyncpg.prepared_stmt import PreparedStatement
from hypothesis import example, given
from hypothesis import strategies as st

from common.journal.postgres.exchange import KnownStatement, call_text

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-(2**64), 2**64),
    "float8": st.floats(),
    "bool": st.booleans(),
    "text": st.text(st.sampled_from("a'\\%;\0ü\ud800")),
    "bytea": st.binary(max_size=3),
    "numeric": st.integers(),
}
rows = st.lists(st.sampled_from(sorted(VALUES)), max_size=5).flatmap(
    lambda types: st.tuples(st.just(types), st.tuples(*(st.none() | st.one_of(*VALUES.values()) for _ in types)))
)


class Prepared:
    """What is asked of a prepared statement."""

    def get_name(self) -> str:
        return "s1"


def known(types: list[str]) -> KnownStatement:
    return KnownStatement(cast(PreparedStatement, Prepared()), types)


@example((["float8"], (nan,)))
@example((["text"], ("a\0",)))
@example((["bool"], (1,)))
@given(rows)
def test_the_short_way_writes_what_the_long_one_does(row: tuple[list[str], tuple[Any, ...]]) -> None:
    types, values = row
    statement = known(types)
    assert statement.usual_call(values) in (None, call_text(statement.name, statement.writers, values))


def test_it_takes_what_columns_mostly_hold() -> None:
    statement = known(["text", "int8", "float8", "bool", "bytea"])
    wanted = "EXECUTE s1('50 % ''a\\b','-7','inf','True','\\x00ff')"
    assert statement.usual_call(["50 % 'a\\b", -7, inf, True, b"\0\xff"]) == wanted


@pytest.mark.parametrize("row", ["ab", {"a": 1, "b": 2}, ("a",), ("a", "b", "c")])
def test_what_is_no_row_of_as_many_values_is_left_to_the_long_way(row: Any) -> None:  # noqa: ANN401
    assert known(["text", "text"]).usual_call(row) is None
