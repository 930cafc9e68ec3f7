"""A statement that an application has run in one transaction with what a journal stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement of an application, run once for each row of ``rows``.

    Parameters are written ``$1``, ``$2`` … on every database; values are str, int, float, bytes, bool or None.
    """

    sql: str
    rows: Sequence[Sequence[Any]] = ((),)


def merged(statements: Sequence[Statement]) -> list[Statement]:
    """The same work with each text once, in order of first appearance: rows of one text stay in their order."""
    rows: dict[str, list[Sequence[Any]]] = {}
    for statement in statements:
        rows.setdefault(statement.sql, []).extend(statement.rows)
    return [Statement(sql, of_text) for sql, of_text in rows.items()]
