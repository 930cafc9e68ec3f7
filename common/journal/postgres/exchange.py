"""Several prepared statements and their values as one text: one exchange with the server, one transaction.

A round trip costs a small transaction more than its work does. Values are written as literals of the type the server
wants, and only those whose literal is beyond doubt; for anything else there is no text, and the caller goes step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from typing import Any, Final

import asyncpg

from common.core.journal.statement import Statement

# Above this, binding values to one statement again and again is cheaper than a text that has to be parsed.
_MAX_ROWS: Final = 50
_MAX_CHARACTERS: Final = 512 * 1024
_PREPARED_MAX: Final = 100

_Writer = Callable[[Any], str | None]


def fits(statements: Sequence[Statement]) -> bool:
    """Whether so many rows may go as one text."""
    return sum(len(statement.rows) for statement in statements) <= _MAX_ROWS


class PreparedStatements:
    """The statements that one session has prepared; cleared when another session takes its place."""

    def __init__(self) -> None:
        self._statements: dict[str, KnownStatement] = {}

    def clear(self) -> None:
        """Forget them all."""
        self._statements.clear()

    async def text(self, connection: asyncpg.Connection, statements: Sequence[Statement]) -> str | None:
        """A text that runs each row of each statement, in order; None when they are too many or a value is unusual.

        Asyncio-flavoured. Raises what the server says of a statement that it sees for the first time.
        """
        if not fits(statements):
            return None
        calls: list[str] = []
        for statement in statements:
            known = self._statements.get(statement.sql) or await self._prepare(connection, statement.sql)
            for row in statement.rows:
                call = known.usual_call(row) or call_text(known.name, known.writers, row)
                if call is None:
                    return None
                calls.append(call)
        text = ";".join(calls)
        return text if len(text) <= _MAX_CHARACTERS and _has_utf8(text) else None

    async def _prepare(self, connection: asyncpg.Connection, sql: str) -> KnownStatement:
        if len(self._statements) >= _PREPARED_MAX:
            self._statements.clear()
        prepared = await connection.prepare(sql)
        types = [parameter.name for parameter in prepared.get_parameters()]
        known = self._statements[sql] = KnownStatement(prepared, types)
        return known


class _Nothing:
    """No value's type: of columns whose literals have no format."""


class KnownStatement:
    """A statement, the server's name for it, and what writes its values. It lives as long as ``prepared``."""

    def __init__(self, prepared: asyncpg.prepared_stmt.PreparedStatement, types: Sequence[str]) -> None:
        self._prepared = prepared
        self.name: str = prepared.get_name()
        self.writers: Sequence[_Writer | None] = [_WRITERS.get(type_) for type_ in types]
        usual = [_USUAL.get(type_, (_Nothing, "")) for type_ in types]
        self._types = tuple(type_ for type_, _ in usual)
        self._texts, self._bytes, self._floats = (
            [index for index, type_ in enumerate(self._types) if type_ is kind] for kind in (str, bytes, float)
        )
        literals = ",".join(literal for _, literal in usual)
        self._format = f"EXECUTE {self.name}({literals})" if types else f"EXECUTE {self.name}"

    def usual_call(self, row: Sequence[Any]) -> str | None:
        """As ``call_text`` with a sixth of the steps, for values that are all of their columns' own types; else None."""
        if type(row) not in _ROWS or tuple(map(type, row)) != self._types:
            return None
        values = list(row)
        for index in self._texts:
            if "\0" in values[index]:
                return None
            values[index] = values[index].replace("'", "''")
        for index in self._bytes:
            values[index] = values[index].hex()
        for index in self._floats:
            if isnan(values[index]):
                return None
        return self._format % tuple(values)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def call_text(name: str, writers: Sequence[_Writer | None], row: Sequence[Any]) -> str | None:
    """The call of a prepared statement for one row; None when a value has no literal that is beyond doubt."""
    if not isinstance(row, tuple | list) or len(writers) != len(row):
        return None
    literals = []
    for writer, value in zip(writers, row, strict=True):
        literal = "NULL" if value is None else writer(value) if writer else None
        if literal is None:
            return None
        literals.append(literal)
    return f"EXECUTE {name}({','.join(literals)})" if literals else f"EXECUTE {name}"


def _integer(value: object) -> str | None:
    return f"'{int(value)}'" if isinstance(value, int) else None


def _float(value: object) -> str | None:
    if isinstance(value, int):
        return f"'{float(value)!r}'" if value.bit_length() < 64 else None
    return f"'{float(value)!r}'" if isinstance(value, float) and not isnan(value) else None


def _boolean(value: object) -> str | None:
    return f"'{value}'" if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    # standard_conforming_strings is on in every session (connection.py): a backslash means itself.
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) and "\0" not in value else None


def _bytes(value: object) -> str | None:
    return f"'\\x{value.hex()}'" if isinstance(value, bytes) else None


_ROWS: Final = (tuple, list)
# For ``KnownStatement.usual_call``: the type that most values of a column have, and the format of its literal.
_USUAL: Final[dict[str, tuple[type, str]]] = {
    "int2": (int, "'%d'"),
    "int4": (int, "'%d'"),
    "int8": (int, "'%d'"),
    "float8": (float, "'%r'"),
    "bool": (bool, "'%s'"),
    "text": (str, "'%s'"),
    "varchar": (str, "'%s'"),
    "bytea": (bytes, "'\\x%s'"),
}

_WRITERS: Final[dict[str, _Writer]] = {
    "int2": _integer,
    "int4": _integer,
    "int8": _integer,
    "float8": _float,
    "bool": _boolean,
    "text": _text,
    "varchar": _text,
    "bytea": _bytes,
}
