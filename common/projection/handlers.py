"""What a projection does with events: a pure function from a batch to SQL statements, and the tables they write.

The run loop (``projection``) commits the statements together with the projection's offset, so each event takes effect
exactly once and a handler need not be idempotent. In turn a handler reads nothing and remembers nothing between
batches: what depends on an earlier value is written as SQL (``count = t.count + excluded.count``).

One SQL text serves SQLite and PostgreSQL: parameters are ``$1``, ``$2`` …; columns are ``TEXT``, ``BIGINT``,
``DOUBLE PRECISION``, ``BOOLEAN`` and ``BYTEA``, by which SQLite stores a ``bytes`` value unchanged; an upsert names the
old row by the table and the new one by ``excluded``. An integer must stay below 2**63: SQLite would go on as a float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.core.batch import EventBatch
from common.journal.interface import Statement


@dataclass(frozen=True, slots=True)
class Handler:
    """A projection's name, its tables and what it does with a batch.

    ``migrations`` holds the steps that bring the tables up, each a list of SQL statements; steps are only ever added.
    ``statements`` gets events in log order, at least one, and only those of one range of slices: rows it writes must
    belong to an entity, since another node may write those of other slices at the same time. What it raises stops
    this projection before the batch, which is retried with backoff; no event is skipped.
    """

    name: str
    migrations: Sequence[Sequence[str]]
    statements: Callable[[EventBatch], Sequence[Statement]]
