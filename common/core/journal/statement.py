"""A statement that an application has run in one transaction with what a journal stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import isnan
from operator import itemgetter
from typing import Any, Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.journal.sql_text import portability_problem, read_sql

_PLAIN: Final = frozenset({str, int, float, bytes, bool, type(None)})
_ROWS: Final = frozenset({tuple, list})
_HARMLESS: Final = frozenset({type(None), bool, bytes})
_INT_END: Final = 2**63
# What fits a column of a declared type, on every database alike. bool is an int to all of them.
_FITTING: Final[dict[str, tuple[type, ...]]] = {
    "BIGINT": (int,),
    "INTEGER": (int,),
    "INT": (int,),
    "SMALLINT": (int,),
    "DOUBLE PRECISION": (float, int),
    "REAL": (float, int),
    "BOOLEAN": (bool,),
    "TEXT": (str,),
    "BYTEA": (bytes,),
    "BLOB": (bytes,),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement of an application, run once for each row of ``rows``.

    Parameters are written ``$1``, ``$2`` … on every database; values are str, int, float, bytes, bool or None. Each row is a
    tuple or list with as many values as the text has parameters; every storage checks that (``check_rows``).
    """

    sql: str
    rows: Sequence[Sequence[Any]] = ((),)


def merged(requests: Sequence[Sequence[Statement]]) -> list[Statement]:
    """The work of several requests with few texts: the first statement of each, text by text, then the second of each …

    So each request's statements run in their order. Between requests there is none: they must touch different rows.
    """
    found: list[Statement] = []
    for turn in zip_longest(*requests):
        rows: dict[str, list[Sequence[Any]]] = {}
        for statement in turn:
            if statement is not None:
                rows.setdefault(statement.sql, []).extend(statement.rows)
        found += [Statement(sql, of_text) for sql, of_text in rows.items()]
    return found


def check_rows(sql: str, rows: Sequence[Sequence[Any]], types: Sequence[str] = ()) -> None:
    """Refuse rows that do not fit the text, or values that not every database would store as they are.

    ``types`` are the declared types of the parameters' columns as far as they are known ('' for one that is not).

    Raises:
        BackhaulError: ``projection.statement_failed`` naming row, parameter and what is wrong.
    """
    text = read_sql(sql)
    if text.problem:
        raise statement_failed(sql, f"the statement {text.problem}")
    if not isinstance(rows, list | tuple):
        raise statement_failed(sql, f"rows is a {type(rows).__name__}, not a list of rows")
    # Whole columns are asked first, which is a fraction of asking each value; only a fault is looked for one by one.
    if not (_ROWS.issuperset(map(type, rows)) and {text.parameters}.issuperset(map(len, rows))):
        for index, row in enumerate(rows):
            if not isinstance(row, list | tuple):
                raise statement_failed(sql, f"row {index} is a {type(row).__name__}, not a tuple: write (value,)")
            if len(row) != text.parameters:
                raise statement_failed(
                    sql, f"row {index} has {len(row)} values, the statement has {text.parameters} parameters"
                )
    for index in range(text.parameters if rows else 0):
        # Less than half of what zip(*rows) takes, which makes an iterator of every row.
        problem = _column_problem(list(map(itemgetter(index), rows)), types[index] if types else "")
        if problem:
            raise statement_failed(sql, f"${index + 1} {problem}")


def _column_problem(column: Sequence[Any], declared: str) -> str:
    """What is wrong with the values of one parameter, all rows of them."""
    kinds = set(map(type, column))
    for kind in kinds - _PLAIN:
        if not issubclass(kind, str | int | float | bytes):
            return f"is a {kind.__name__}: values are str, int, float, bytes, bool or None"
    wanted = _FITTING.get(declared)
    if wanted is not None:
        for kind in kinds:
            if kind is not type(None) and not issubclass(kind, wanted):
                return f"is a {kind.__name__}, its column is {declared}"
    if _is_storable(kinds, column):
        return ""
    for value in column:
        if isinstance(value, str):
            if "\0" in value:
                return "is a text with a NUL character, which PostgreSQL does not store"
            if not value.isascii() and not _has_utf8(value):
                return "is a text with half a surrogate pair, which has no UTF-8"
        elif isinstance(value, int):
            if not -_INT_END <= value < _INT_END:
                return "is an integer of more than 64 bits: store it as text"
        elif isinstance(value, float) and value != value:  # noqa: PLR0124  only a NaN is not itself
            return "is a NaN, which SQLite stores as NULL"
    return ""


def _is_storable(kinds: set[type], column: Sequence[Any]) -> bool:
    """Whether a column of one kind holds nothing that some database changes; False says only that each is to be asked."""
    if kinds <= _HARMLESS:
        return True
    if kinds == {int}:
        return bool(min(column) >= -_INT_END and max(column) < _INT_END)
    if kinds == {str}:
        text = "".join(column)
        return "\0" not in text and text.isascii()
    return kinds == {float} and not isnan(sum(column))


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def statement_failed(sql: str, what: str) -> BackhaulError:
    """The refusal of a statement that fits no database, or not its tables: a fault of the handler's, not of the storage."""
    return BackhaulError(
        "projection.statement_failed",
        f"{what}, in {' '.join(sql.split())[:200]}",
        "the handler's statements and its tables do not fit together: correct them and restart the projection",
        kind=ErrorKind.INTERNAL,
    )


def check_portable(steps: Iterable[Sequence[str]]) -> None:
    """Refuse definitions that one of the databases lacks.

    Raises:
        BackhaulError: ``projection.not_portable`` naming what it is and what to write instead.
    """
    for step in steps:
        for sql in step:
            problem = portability_problem(sql)
            if problem:
                raise BackhaulError(
                    "projection.not_portable",
                    f"{problem}, in {' '.join(sql.split())[:200]}",
                    "write it for both databases, or test it on the one that it is for: journal=…",
                )
