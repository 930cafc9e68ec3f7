"""Rows checked column by column are refused exactly when one of them is refused by itself; the order of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.journal.sql_text import read_sql
from common.core.journal.statement import check_rows

SQL = "INSERT INTO pair VALUES ($1, $2)"
INTS = st.integers(-(2**63) - 2, 2**63 + 1)
FLOATS = st.floats()
TEXTS = st.text(st.sampled_from("az\0\ud800é\U0001f600"), max_size=3)
COLUMNS = st.one_of(
    st.lists(INTS),
    st.lists(FLOATS),
    st.lists(TEXTS),
    st.lists(st.one_of(INTS, FLOATS, TEXTS, st.booleans(), st.none(), st.binary(max_size=2), st.just([1]))),
)


def is_refused(rows: Sequence[object], types: Sequence[str]) -> bool:
    try:
        check_rows(SQL, rows, types)  # type: ignore[arg-type]  # wrong rows are the point
    except BackhaulError as error:
        return error.code == "projection.statement_failed"
    return False


@given(COLUMNS, st.sampled_from(["", "BIGINT", "DOUBLE PRECISION", "TEXT", "BOOLEAN"]), st.data())
def test_rows_are_refused_when_one_of_them_is(column: list[object], declared: str, data: st.DataObject) -> None:
    rows: list[object] = [("a", value) for value in column]
    alone = any(is_refused([row], ["TEXT", declared]) for row in rows)
    if data.draw(st.booleans()):
        misfit = data.draw(st.sampled_from([("a",), ("a", 1, 2), [], "ab", {"a", "b"}]))
        rows.insert(data.draw(st.integers(0, len(rows))), misfit)
        alone = True
    assert is_refused(rows, ["TEXT", declared]) == alone


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, float("nan"), "a\0", "\ud800"])
def test_one_bad_value_among_many_of_its_kind_is_found(value: object) -> None:
    good: object = type(value)("1")  # type: ignore[call-arg]
    assert is_refused([("a", good)] * 500 + [("a", value)] + [("a", good)] * 500, [])
    assert not is_refused([("a", good)] * 1_000, [])


@pytest.mark.parametrize(
    ("sql", "is_in_order"),
    [
        ("INSERT INTO pair VALUES ($1, $2)", True),
        ("UPDATE pair SET b = $1 WHERE a = $2 AND b <> $1", True),
        ("SELECT '$2', $1 /* $3 */, $2", True),
        ("SELECT 1", True),
        ("UPDATE pair SET b = $2 WHERE a = $1", False),
        ("SELECT $1; SELECT $2", False),
    ],
)
def test_the_order_of_parameters_is_known(sql: str, is_in_order: bool) -> None:
    assert read_sql(sql).is_in_order == is_in_order
