"""Projections' tables of a memory journal: an SQLite database in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw

from common.core.journal.statement import Statement
from common.journal.sqlite_tables import OpenTables, run_query, run_statements


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
