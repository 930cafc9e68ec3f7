"""A transaction that stays open while an application's function reads and writes in it, from a thread of its own.

The storage's threads begin and end it; the caller has the writer's turn all the while, so nothing else comes between.
However the function ends, or does not, the tables are closed to it before the transaction is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

import apsw

from common.core.journal.statement import Statement
from common.fail_points import fail_point
from common.journal.sqlite.connection import transaction
from common.journal.sqlite.file import SqliteFile
from common.journal.sqlite_tables import OpenTables, run_statements

T = TypeVar("T")


class HandlerTransaction:
    """One transaction: ``begin``, then the application's function, then ``commit`` or ``roll_back``."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._open = ExitStack()
        self.tables = OpenTables(file.writer, file.coded_errors)

    def begin(self, first: Callable[[apsw.Connection], T]) -> T:
        """Open the transaction with a step of our own; what that raises undoes it."""
        with ExitStack() as opening:
            opening.enter_context(self._file.coded_errors())
            opening.enter_context(self._file.reserve())
            opening.enter_context(transaction(self._file.writer))
            result = first(self._file.writer)
            self._open = opening.pop_all()
        return result

    def commit(self, statements: Sequence[Statement]) -> None:
        """Run the last statements and commit; synced when it returns."""
        with self._open:
            self.tables.close()
            if self.tables.failure is not None:
                raise self.tables.failure
            run_statements(self._file.writer, statements)
            fail_point("projection.in_transaction")

    def roll_back(self) -> None:
        """Undo everything."""
        self.tables.close()
        try:
            with self._open:
                raise _UndoneError
        except _UndoneError:
            pass


class _UndoneError(Exception):
    """Leaves the transaction without a commit."""
