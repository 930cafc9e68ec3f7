"""Measuring program: what PostgreSQL takes in by itself, from a loop that does nothing but hand over ready bytes.

``append`` calls the journal's own server function with arguments that were made before; ``copy`` fills the bare table
``event`` from binary COPY data that was made before, one synced commit a batch each.
"""

from __future__ import annotations

import asyncio
import io
import json
import struct
import sys
import time
import uuid

import trio

from common import border
from common.core.journal.history import Generation, History
from common.journal.postgres import open_postgres_journal
from common.journal.postgres.appends.batch import APPEND_SQL, AppendCall
from common.journal.postgres.sessions import _WRITER_SETTINGS
from common.runtime.environment import utc_now_us
from tests.bench.processes import answer
from tests.bench.workload import ENTITIES, entity_names, pushed

import asyncpg  # isort: skip  # after border, which prepares asyncio

ORIGIN = "bare"


async def _prepare(url: str) -> int:
    """The schema, and a session for the origin."""
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex, notify=False) as journal,
    ):
        history = History("journal", (Generation("generation", 1),), 0)
        return (await journal.origins.open_session(ORIGIN, "process", history)).state.session


def _copy_data(total: int, batch: int) -> list[bytes]:
    """Binary COPY data of the same rows, one piece a batch."""
    pieces = []
    for request in pushed(ORIGIN, 1, total, batch):
        out = io.BytesIO()
        out.write(b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0))
        events = request.events
        for i, position in enumerate(events.position):
            number = (position - 1) % ENTITIES + 1
            integers = (
                position,
                events.timestamp_us[i],
                events.stored_us[i],
                0,
                number,
                events.seq_nr[i],
                events.seq_nr[i],
            )
            texts = (events.event_type[i].encode(), events.codec[i].encode(), b"", b"", events.payload[i], b"")
            out.write(struct.pack("!h", 14))
            out.write(b"".join(struct.pack("!iq", 8, integer) for integer in integers))
            out.write(struct.pack("!ih", 2, number % 1024))
            out.write(b"".join(struct.pack("!i", len(text)) + text for text in texts))
        out.write(struct.pack("!h", -1))
        pieces.append(out.getvalue())
    return pieces


async def _append(url: str, calls: list[AppendCall]) -> float:
    connection = await asyncpg.connect(
        url, server_settings={"search_path": "backhaul, public", "jit": "off", **_WRITER_SETTINGS}
    )
    began_s = time.perf_counter()
    for call in calls:
        result = await connection.fetchrow(APPEND_SQL, *call.arguments)
        assert result["is_whole"], "the loop does not take the way the service takes"
    took_s = time.perf_counter() - began_s
    await connection.close()
    return took_s


async def _copy(url: str, pieces: list[bytes]) -> float:
    connection = await asyncpg.connect(url, server_settings={"search_path": "backhaul, public"})
    began_s = time.perf_counter()
    for piece in pieces:
        await connection.copy_to_table("event", source=io.BytesIO(piece), format="binary")
    took_s = time.perf_counter() - began_s
    await connection.close()
    return took_s


def main() -> None:
    """Arguments as JSON: ``url`` of an empty database, ``kind``, ``events``, ``batch``."""
    result = json.loads(sys.argv[1])
    total, batch = result["events"], result["batch"]
    session = trio.run(_prepare, result["url"])
    if result["kind"] == "append":
        numbers = {name: number for number, name in enumerate(entity_names(ORIGIN, ENTITIES), start=1)}
        requests = pushed(ORIGIN, session, total, batch)
        known: dict[str, int] = {}
        calls = []
        for request in requests:
            calls.append(AppendCall.of([request], utc_now_us(), known))
            known.update((name, numbers[name]) for name in request.events.persistence_id)
        took_s = asyncio.run(_append(result["url"], calls))
    else:
        took_s = asyncio.run(_copy(result["url"], _copy_data(total, batch)))
    answer("result", rate=total / took_s)


if __name__ == "__main__":
    main()
