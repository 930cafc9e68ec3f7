"""The events that benchmarks move, and journals full of them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path

from common.core.events.batch import EventBatch, new_events
from common.core.journal.append import LocalAppend, PushedAppend
from common.core.journal.history import Offset
from common.journal.sqlite import open_sqlite_journal
from common.runtime.environment import utc_now_us

PAYLOAD_BYTES = 200
ENTITIES = 1_000
BATCH = 2_000
_PAYLOADS = 997  # not a divisor of anything here: no entity always has the same one


@lru_cache(1)
def _payloads() -> list[bytes]:
    chance = random.Random(1)
    head = b'{"celsius": 21.5, "note": "'
    filled = (chance.randbytes(PAYLOAD_BYTES).hex().encode() for _ in range(_PAYLOADS))
    return [(head + text)[: PAYLOAD_BYTES - 2] + b'"}' for text in filled]


@lru_cache(8)
def entity_names(edge_id: str, entities: int) -> list[str]:
    """The persistence ids of an edge's sensors."""
    return [f"Sensor|{edge_id}/line-{number:05}" for number in range(entities)]


def events(edge_id: str, first: int, count: int, entities: int = ENTITIES) -> EventBatch:
    """Events ``first`` to ``first + count - 1`` (from 0), one entity after the other, not in a journal yet."""
    names, payloads = entity_names(edge_id, entities), _payloads()
    return new_events(
        list(islice(cycle(names), first % entities, first % entities + count)),
        ["TemperatureRead"] * count,
        list(islice(cycle(payloads), first % _PAYLOADS, first % _PAYLOADS + count)),
    )


def batches(edge_id: str, total: int, batch: int, entities: int = ENTITIES) -> Iterator[EventBatch]:
    """All of an edge's ``total`` events in order."""
    for first in range(0, total, batch):
        yield events(edge_id, first, min(batch, total - first), entities)


async def fill(path: Path, edge_id: str, total: int, entities: int = ENTITIES) -> None:
    """An edge's journal at ``path`` with that many events, none of them pushed yet."""
    async with open_sqlite_journal(path, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as journal:
        for batch in batches(edge_id, total, BATCH, entities):
            await journal.log.append_group([LocalAppend(batch)])


def pushed(origin_id: str, session: int, total: int, batch: int) -> Iterator[PushedAppend]:
    """The same events as an origin would push them, in its own numbering."""
    now_us = utc_now_us()
    for first, columns in zip(range(0, total, batch), batches(origin_id, total, batch), strict=True):
        n = len(columns)
        columns.position = list(range(first + 1, first + n + 1))
        columns.timestamp_us = [now_us + position for position in columns.position]
        columns.stored_us = [now_us] * n
        columns.seq_nr = [number // ENTITIES + 1 for number in range(first, first + n)]
        columns.prev_seq_nr = [seq_nr - 1 for seq_nr in columns.seq_nr]
        through = Offset(
            "journal", "generation", first + n, columns.timestamp_us[-1], columns.persistence_id[-1], columns.seq_nr[-1]
        )
        yield PushedAppend(origin_id, session, 0, first, through, columns)
