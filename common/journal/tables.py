"""The application's tables, as a function that runs inside a transaction is given them."""

from __future__ import annotations

from typing import Any, Protocol

from common.core.errors import BackhaulError, ErrorKind

SqlValue = str | int | float | bytes | bool | None


class Tables(Protocol):
    """The application's tables, within a transaction: what a function that runs inside it is given.

    Synchronous on every database, parameters as in ``Statement``; called in the thread the function runs in. Both
    methods raise ``projection.statement_failed``, after which nothing of the transaction is kept whatever is done about
    it, and ``projection.tables_closed`` when the transaction is over.
    """

    def query(self, sql: str, *args: SqlValue) -> list[tuple[Any, ...]]:
        """The rows of a query; it sees what this transaction has written."""

    def execute(self, sql: str, *args: SqlValue) -> None:
        """Run a statement once."""


def tables_closed() -> BackhaulError:
    """The refusal for a function that goes on after its transaction is over."""
    return BackhaulError(
        "projection.tables_closed",
        "the transaction is over: the function had not returned when its deadline came",
        "use the tables only before the function returns, and within its deadline",
        kind=ErrorKind.CONFLICT,
    )
