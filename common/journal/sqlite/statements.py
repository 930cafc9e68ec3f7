"""Statements of projections on an SQLite connection: ``$1`` parameters, and all or nothing.

Shared by the SQLite journal and by the memory journal, whose projections' tables are SQLite's too. SQLite reads ``$1``
as a parameter *named* "$1" and numbers parameters by first appearance, so rows are bound by name: a statement that
says ``$2`` before ``$1`` means the same here as on PostgreSQL.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import apsw

from common.core.errors import BackhaulError, ErrorKind
from common.core.journal.sql_text import parameter_types, read_sql
from common.core.journal.statement import check_rows, statement_failed
from common.journal.sqlite.connection import coded_errors
from common.journal.stores.journal import SqlValue, Statement


def run_statements(connection: apsw.Connection, statements: Sequence[Statement]) -> None:
    """Run every statement once for each of its rows; the caller holds the transaction.

    Raises:
        BackhaulError: ``projection.statement_failed``; what ran before it is undone by the caller's rollback.
    """
    for statement in statements:
        with _told(statement.sql):
            check_rows(statement.sql, statement.rows, _types(connection, statement.sql))
            connection.executemany(statement.sql, map(_named, statement.rows))


def run_query(connection: apsw.Connection, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All rows of a query; ``connection`` is one that may only read (``PRAGMA query_only``).

    Raises:
        BackhaulError: ``projection.statement_failed``, also when the statement would change something.
    """
    with _told(sql):
        check_rows(sql, (args,), _types(connection, sql))
        return list(connection.execute(sql, _named(args)))


class OpenTables:
    """``Tables`` within a transaction that the caller holds; also from another thread, until it is closed."""

    def __init__(self, connection: apsw.Connection, path: Path = Path("memory")) -> None:
        self._connection = connection
        self._path = path
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
                with coded_errors(self._path), _told(sql):
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


def tables_closed() -> BackhaulError:
    """The refusal for a function that goes on after its transaction is over."""
    return BackhaulError(
        "projection.tables_closed",
        "the transaction is over: the function had not returned when its deadline came",
        "use the tables only before the function returns, and within its deadline",
        kind=ErrorKind.CONFLICT,
    )


class TablesInMemory:
    """Projections' tables of a memory journal."""

    def __init__(self) -> None:
        self._connection = apsw.Connection(":memory:")

    def copy(self) -> TablesInMemory:
        """The same tables with the same rows, from now on apart."""
        other = TablesInMemory()
        with other._connection.backup("main", self._connection, "main") as pages:
            pages.step()
        return other

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is run inside is kept when it is left, and undone when an error or a cancellation leaves it."""
        with self._connection:
            yield

    def run(self, statements: Sequence[Statement]) -> None:
        """See ``run_statements``."""
        run_statements(self._connection, statements)

    def open(self) -> OpenTables:
        """For a function that runs inside the transaction."""
        return OpenTables(self._connection)

    def query(self, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
        """See ``run_query``."""
        self._connection.pragma("query_only", True)
        try:
            return run_query(self._connection, sql, args)
        finally:
            self._connection.pragma("query_only", False)


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


def _named(row: Sequence[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(row, start=1)}


@contextmanager
def _told(sql: str) -> Iterator[None]:
    # KeyError: a row is shorter than the statement's parameters; the others: a value SQLite has no type for.
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.BusyError):
        raise  # the storage's trouble, not the statement's
    except (apsw.Error, KeyError, TypeError, ValueError, OverflowError) as error:
        raise statement_failed(sql, f"{type(error).__name__}: {error}") from error
