"""The built-in projection ``tally``: how many events each entity has, and a checksum over them.

It is what the demo and the crash tests compare with a fold of the journal, so it is made to show every fault. Adding
is not idempotent: an event that takes effect twice, or never, is seen in ``events`` and in ``checksum``; one that
comes at the wrong place is counted in ``out_of_order``. The checksum is a sum of per-event hashes because a handler
cannot read the stored value: a sum can go on in SQL, where a chained hash could not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from common.core.events.batch import EventBatch
from common.core.journal.statement import Statement
from common.journal.stores.projections import ProjectionStore
from common.projection.handlers import Handler

# Sums of two stay below 2**63: SQLite turns a larger integer into a float, PostgreSQL refuses it.
_CHECKSUM_BITS: Final = 62
_CHECKSUM_MASK: Final = (1 << _CHECKSUM_BITS) - 1

_CREATE: Final = """
CREATE TABLE tally (
    persistence_id TEXT NOT NULL PRIMARY KEY,
    events BIGINT NOT NULL,
    checksum BIGINT NOT NULL,
    first_seq_nr BIGINT NOT NULL,
    last_seq_nr BIGINT NOT NULL,
    out_of_order BIGINT NOT NULL
)
"""
# The same joining of two stretches as ``Tally.followed_by``.
_UPSERT: Final = f"""
INSERT INTO tally (persistence_id, events, checksum, first_seq_nr, last_seq_nr, out_of_order)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (persistence_id) DO UPDATE SET
    events = tally.events + excluded.events,
    checksum = (tally.checksum + excluded.checksum) & {_CHECKSUM_MASK},
    last_seq_nr = excluded.last_seq_nr,
    out_of_order = tally.out_of_order + excluded.out_of_order
        + CASE WHEN excluded.first_seq_nr = tally.last_seq_nr + 1 THEN 0 ELSE 1 END
"""
_SELECT: Final = "SELECT persistence_id, events, checksum, first_seq_nr, last_seq_nr, out_of_order FROM tally"


@dataclass(frozen=True, slots=True)
class Tally:
    """One entity's events over some stretch of the log.

    ``out_of_order`` counts the events whose number is not one more than that of the event before: repeats, events that
    went back, and jumps over missing ones. Nothing precedes the first, so that one is never counted.
    """

    events: int
    checksum: int
    first_seq_nr: int
    last_seq_nr: int
    out_of_order: int

    def followed_by(self, later: Tally) -> Tally:
        """This stretch and the one after it as one."""
        return Tally(
            self.events + later.events,
            (self.checksum + later.checksum) & _CHECKSUM_MASK,
            self.first_seq_nr,
            later.last_seq_nr,
            self.out_of_order + later.out_of_order + (later.first_seq_nr != self.last_seq_nr + 1),
        )


def fold(batch: EventBatch) -> dict[str, Tally]:
    """Persistence id → tally of a stretch of the log. Join those of several stretches with ``fold_all``."""
    tallies: dict[str, list[int]] = {}
    for entity, seq_nr, payload in zip(batch.persistence_id, batch.seq_nr, batch.payload, strict=True):
        checksum = _event_hash(entity, seq_nr, payload)
        tally = tallies.get(entity)
        if tally is None:
            tallies[entity] = [1, checksum, seq_nr, seq_nr, 0]
            continue
        tally[0] += 1
        tally[1] = (tally[1] + checksum) & _CHECKSUM_MASK
        tally[4] += seq_nr != tally[3] + 1
        tally[3] = seq_nr
    return {entity: Tally(*tally) for entity, tally in tallies.items()}


def fold_all(batches: Iterable[EventBatch]) -> dict[str, Tally]:
    """Persistence id → tally of consecutive stretches of the log: what the table must say after them."""
    whole: dict[str, Tally] = {}
    for batch in batches:
        for entity, later in fold(batch).items():
            whole[entity] = whole[entity].followed_by(later) if entity in whole else later
    return whole


def _event_hash(entity: str, seq_nr: int, payload: bytes) -> int:
    # The parts cannot run into each other: an entity's name holds no U+001F, a number no other sign than its digits.
    digest = blake2b(f"{entity}\x1f{seq_nr}\x1f".encode(), digest_size=8)
    digest.update(payload)
    return int.from_bytes(digest.digest()) & _CHECKSUM_MASK


def tally_statements(batch: EventBatch) -> list[Statement]:
    """What a stretch of the log adds to the table."""
    rows = [
        (entity, tally.events, tally.checksum, tally.first_seq_nr, tally.last_seq_nr, tally.out_of_order)
        for entity, tally in fold(batch).items()
    ]
    return [Statement(_UPSERT, rows)]


TALLY: Final = Handler("tally", ((_CREATE,),), tally_statements, reset=("DELETE FROM tally",), is_quick=True)


async def tally_of(store: ProjectionStore, persistence_id: str) -> Tally | None:
    """The stored tally of one entity, or None when none of its events has been projected."""
    rows = await store.query(f"{_SELECT} WHERE persistence_id = $1", (persistence_id,))
    return Tally(*rows[0][1:]) if rows else None


async def all_tallies(store: ProjectionStore) -> Mapping[str, Tally]:
    """Persistence id → stored tally, of every entity. For comparisons: the size is that of the table."""
    return {row[0]: Tally(*row[1:]) for row in await store.query(_SELECT)}
