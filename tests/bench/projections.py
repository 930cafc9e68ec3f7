"""Exactly-once projection: one upsert an event in groups, beside the same upserts without log, offset and handler."""

from __future__ import annotations

import random
import time
import uuid

import trio

from common.core.events.batch import EventBatch, new_events
from common.core.journal.append import LocalAppend
from common.core.journal.statement import Statement
from common.firehose.firehose import Firehose
from common.journal.stores.journal import Journal
from common.projection.handlers import Handler
from common.projection.progress import ProjectionProgress, ProjectionSettings
from common.projection.projection import run_projections
from common.runtime.environment import utc_now_us
from common.transport.codec.events import encode_batch
from tests.bench.place import Place
from tests.bench.table import Table
from tests.crash.projections import open_log

PAGE = 2_000
UPSERT = (
    "INSERT INTO {table} (id, events, last) VALUES ($1, 1, $2)"
    " ON CONFLICT (id) DO UPDATE SET events = {table}.events + 1, last = excluded.last"
)
CREATE = "CREATE TABLE {table} (id TEXT PRIMARY KEY, events BIGINT NOT NULL, last BIGINT NOT NULL)"


def upserts(table: str, events: EventBatch) -> list[Statement]:
    """One row an event."""
    return [Statement(UPSERT.format(table=table), list(zip(events.persistence_id, events.position, strict=True)))]


async def run(place: Place) -> list[Table]:
    """Both databases, raw and projected in turns of one run."""
    table = Table("Exactly-once projection, one upsert an event in groups of 2,000")
    with place.postgres.fresh() as url:
        for name, target in (("SQLite", str(place.fresh_folder("projections") / "journal.db")), ("PostgreSQL", url)):
            raw, projected = await _measure(target, place.sized(60_000, 4_000))
            table.add(f"{name}: the upserts alone", f"{raw:,.0f} events/s")
            at_least = 20_000 if name == "PostgreSQL" else 0
            result = f">= {at_least:,}/s" if at_least else ""
            if at_least:
                table.judge(f"{name}: projected", f"{projected:,.0f} events/s", result, projected >= at_least)
            else:
                table.add(f"{name}: projected", f"{projected:,.0f} events/s")
            share = projected / raw
            table.judge(f"{name}: share of the upserts alone", f"{share:.2f}", ">= 0.6", share >= 0.6)
    return [table]


async def _measure(url: str, count: int) -> tuple[float, float]:
    async with open_log(url, utc_now_us, lambda: uuid.uuid4().hex) as journal:
        for first in range(0, count, PAGE):
            ids = [f"Sensor|{(first + at) % 1_000}" for at in range(PAGE)]
            await journal.log.append_group([LocalAppend(new_events(ids, ["Measured"] * PAGE, [b"{}"] * PAGE))])
        return await _raw(journal, count), await _projected(journal, count)


async def _raw(journal: Journal, count: int) -> float:
    """The statements alone, each group in a transaction of its own."""
    await journal.projections.migrate("raw", [[CREATE.format(table="raw")]])
    groups, after = [], 0
    while after < count:
        page = await journal.log.read(after, max_events=PAGE, max_bytes=1 << 30)
        groups.append(upserts("raw", page.events))
        after = page.through
    began_s = time.perf_counter()
    for statements in groups:
        await journal.projections.intervene("raw", statements)
    return count / (time.perf_counter() - began_s)


async def _projected(journal: Journal, count: int) -> float:
    handler = Handler("projected", [[CREATE.format(table="projected")]], lambda events: upserts("projected", events))
    is_done = trio.Event()

    def on_commit(progress: ProjectionProgress, _events: EventBatch) -> None:
        if progress.events >= count:
            is_done.set()

    firehose = Firehose(journal, encode_batch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        began_s = time.perf_counter()

        async def follow() -> None:
            await run_projections(
                journal,
                firehose,
                [handler],
                owner="bench",
                settings=ProjectionSettings(page_max_events=PAGE),
                now_us=utc_now_us,
                random=random.Random(1),
                on_commit=on_commit,
            )

        nursery.start_soon(follow)
        await is_done.wait()
        took_s = time.perf_counter() - began_s
        nursery.cancel_scope.cancel()
    return count / took_s
