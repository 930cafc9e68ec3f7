"""Statements of projections on an SQLite connection: ``$1`` parameters, and all or nothing.

The SQLite journal and the memory journal, whose projections' tables are SQLite's too, both stand on it. SQLite reads ``$1``
as a parameter *named* "$1" and numbers parameters by first appearance. So a statement that says ``$2`` before ``$1`` is
bound by name, and means the same here as on PostgreSQL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final
from weakref import WeakKeyDictionary

import apsw

from common.core.errors import BackhaulError
from common.core.journal.sql_text import parameter_types, read_sql
from common.core.journal.statement import Statement, check_rows, statement_failed
from common.journal.tables import SqlValue, tables_closed


def run_statements(connection: apsw.Connection, statements: Sequence[Statement]) -> None:
    """Run every statement once for each of its rows; the caller holds the transaction.

    Raises:
        BackhaulError: ``projection.statement_failed``; what ran before it is undone by the caller's rollback.
    """
    for statement in statements:
        with _map_errors(statement.sql):
            check_rows(statement.sql, statement.rows, _types(connection, statement.sql))
            connection.executemany(statement.sql, _bindings(statement.sql, statement.rows))


def run_query(connection: apsw.Connection, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All rows of a query; ``connection`` is one that may only read (``PRAGMA query_only``).

    Raises:
        BackhaulError: ``projection.statement_failed``, also when the statement would change something.
    """
    with _map_errors(sql):
        check_rows(sql, (args,), _types(connection, sql))
        return list(connection.execute(sql, _named(args)))


class OpenTables:
    """``Tables`` within a transaction that the caller holds; also from another thread, until it is closed."""

    def __init__(
        self, connection: apsw.Connection, coded_errors: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """``coded_errors`` makes errors of the storage ours."""
        self._connection = connection
        self._coded_errors = coded_errors
        self._lock = threading.Lock()
        self._is_closed = False
        self.failure: BackhaulError | None = None
        """Why nothing of the transaction may be kept, whatever the application makes of the error."""

    def query(self, sql: str, *args: SqlValue) -> list[tuple[Any, ...]]:
        """See ``Tables.query``."""
        with self._lock:
            if self._is_closed:
                raise tables_closed()
            if self.failure is not None:
                raise self.failure
            try:
                with self._coded_errors(), _map_errors(sql):
                    check_rows(sql, (args,), _types(self._connection, sql))
                    return list(self._connection.execute(sql, _named(args)))
            except BackhaulError as error:
                self.failure = error
                raise

    def execute(self, sql: str, *args: SqlValue) -> None:
        """See ``Tables.execute``."""
        self.query(sql, *args)

    def close(self) -> None:
        """End what runs now, and refuse what would come."""
        self._connection.interrupt()
        with self._lock:
            self._is_closed = True


# By connection: the schema's version, and of each text the types of its parameters' columns.
_KNOWN_TYPES: Final[WeakKeyDictionary[apsw.Connection, tuple[int, dict[str, list[str]]]]] = WeakKeyDictionary()
_KNOWN_MAX: Final = 1_000


def _types(connection: apsw.Connection, sql: str) -> list[str]:
    """The declared types of the columns that a text's parameters stand for: SQLite itself takes any value anywhere."""
    text = read_sql(sql)
    if not text.parameters:
        return []
    version: int = connection.pragma("schema_version")
    known_version, known = _KNOWN_TYPES.get(connection, (-1, {}))
    if version != known_version or len(known) >= _KNOWN_MAX:
        known = {}
        _KNOWN_TYPES[connection] = version, known
    types = known.get(sql)
    if types is None:
        tables = {
            table: {
                name.lower(): declared.upper()
                for name, declared in connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
            }
            for table in text.tables
        }
        types = known[sql] = parameter_types(text, tables)
    return types


def _bindings(sql: str, rows: Sequence[Sequence[Any]]) -> Iterable[Any]:
    """The rows as apsw takes them: as they are where their values come in order, else by name, at three times the time."""
    return rows if read_sql(sql).is_in_order else map(_named, rows)


def _named(row: Sequence[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(row, start=1)}


@contextmanager
def _map_errors(sql: str) -> Iterator[None]:
    # KeyError: a row is shorter than the statement's parameters; the others: a value SQLite has no type for.
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.BusyError):
        raise  # the storage's trouble, not the statement's
    except (apsw.Error, KeyError, TypeError, ValueError, OverflowError) as error:
        raise statement_failed(sql, f"{type(error).__name__}: {error}") from error
