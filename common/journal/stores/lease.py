"""The right to commit for a range of a projection or a subscription, and what is run in such a commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import SliceRange
from common.core.journal.slice_ranges import Ahead, still_ahead
from common.core.journal.statement import Statement

__all__ = ["LEASE_MARK", "ProjectionLease", "SqlValue", "Statement", "Tables", "fenced", "moved_to"]

# In a name it says: held only for its lease, not a projection with an offset that retention must respect.
LEASE_MARK = ":"

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


@dataclass(frozen=True, slots=True)
class ProjectionLease:
    """The right to commit for one projection's range until somebody takes it: ``epoch`` guards every commit."""

    name: str
    slices: SliceRange
    epoch: int
    position: int
    ahead: tuple[Ahead, ...] = ()


def moved_to(lease: ProjectionLease, position: int) -> ProjectionLease:
    """The lease after a commit: what was ahead of the range is so no longer once the range has passed it."""
    return replace(lease, position=position, ahead=still_ahead(lease.ahead, position))


def fenced(lease: ProjectionLease) -> BackhaulError:
    """Somebody else has the lease, or it was paused: nothing is written any more under this one."""
    return BackhaulError(
        "projection.fenced",
        f"{lease.name} {lease.slices} is paused, or somebody else has gone on from {lease.position}",
        "nothing to do: the present owner goes on",
        kind=ErrorKind.CONFLICT,
    )
