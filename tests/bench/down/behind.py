"""Far behind, over real connections: a thousand consumers with a topic each, beside one that takes everything.

The log is written before, the consumers know nothing of it. Rows read are PostgreSQL's own count for the log's tables
and indexes. Bare reads are pages of the same journal, by a process that does nothing else with them.
"""

from __future__ import annotations

import json
import sys
import time
import uuid

import trio

from common import border
from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.journal.postgres import open_postgres_journal
from common.runtime.environment import utc_now_us
from tests.bench.down.crowd import TOPIC, Meter, crowd, open_source
from tests.bench.place import Place
from tests.bench.processes import answer, measured
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.workload import BATCH, PAYLOAD_BYTES

_PAGE_BYTES = 1024 * 1024
_CATCH_UP_TARGET = 0.6
_ROWS_TARGET = 5.0
_ENTITIES_EACH = 4
_PAYLOAD = b'"' + b"x" * (PAYLOAD_BYTES - 2) + b'"'


async def fill(url: str, total: int, topics: int) -> None:
    """A journal in which events of the topics take turns."""
    entities = _ENTITIES_EACH * topics
    async with open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex, notify=False) as journal:
        for first in range(0, total, BATCH):
            numbers = [number % entities for number in range(first, min(first + BATCH, total))]
            batch = new_events(
                [f"Sensor|line-{number:05}" for number in numbers],
                ["TemperatureRead"] * len(numbers),
                [_PAYLOAD] * len(numbers),
                tags=[f"t:site/{number % topics}/line" for number in numbers],
            )
            await journal.log.append_group([LocalAppend(batch)])


async def _unfiltered(place: Place, url: str, total: int) -> tuple[float, float, float]:
    """Events a second of one consumer with everything; seconds; the cloud's processor microseconds an event."""
    async with open_source(place, url) as node, crowd(node.grpc_port, 1) as one:
        meter = Meter(node)
        await one.connect()
        reached = await one.reach(total)
        meter.stop()
    assert reached.events == total, f"{reached.events} of {total} came"
    return total / meter.seconds, meter.seconds, meter.cpu_s / total * 1e6


async def run(place: Place) -> list[Table]:
    """One, then all, over one log."""
    total, topics = place.sized(1_000_000, 20_000), place.sized(1_000, 50)
    table = Table(f"Behind by {total:,} events: consumers over connections")
    with place.postgres.fresh() as url:
        await fill(url, total, topics)
        pairs, seconds, cost_us = [], [], 0.0
        for _ in range(place.sized(3, 1)):
            raw = float((await measured("tests.bench.down.behind", url=url, total=total))["rate"])
            rate, took_s, cost_us = await _unfiltered(place, url, total)
            pairs.append((rate, raw))
            seconds.append(took_s)
        table.add(f"bare reads, pages of {BATCH:,}", spread([raw for _, raw in pairs], "events/s"))
        table.add("one consumer without a filter", spread([rate for rate, _ in pairs], "events/s"))
        ratio = middle_ratio(pairs)
        table.judge("  of the bare reads", f"{ratio:.2f}", f">= {_CATCH_UP_TARGET}", ratio >= _CATCH_UP_TARGET)
        table.add("  the cloud's processor time an event", f"{cost_us:.1f} us")
        async with (
            open_source(place, url) as node,
            crowd(node.grpc_port, topics, criteria=TOPIC, topics=topics) as consumers,
        ):
            (_, before), meter = await node.read_counts(), Meter(node)
            await consumers.connect()
            reached = await consumers.reach(total)
            meter.stop()
            (_, rows), demotions = await node.read_counts(), await node.metric("firehose_demotions_total")
        assert reached.events == total, f"{reached.events} of {total} came"
        share = (rows - before) / total
        table.judge(
            f"{topics:,} consumers, a topic each: rows read for a row of the log",
            f"{share:.2f}",
            f"<= {_ROWS_TARGET:g}",
            share <= _ROWS_TARGET,
        )
        table.add(
            "  time until all have caught up", f"{meter.seconds:.1f} s (one without a filter: {min(seconds):.1f} s)"
        )
        table.add("  the cloud's processor time an event", f"{meter.cpu_s / total * 1e6:.1f} us")
        table.add("  demotions", f"{demotions:.0f}")
    return [table]


async def _read(url: str, total: int) -> None:
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex, notify=False) as journal,
    ):
        position, began_s = 0, time.perf_counter()
        while position < total:
            page = await journal.log.read(position, max_events=BATCH, max_bytes=_PAGE_BYTES)
            position = page.through
        answer("result", rate=total / (time.perf_counter() - began_s))


def main() -> None:
    """As a measuring program: bare reads of the journal at ``url`` up to ``total``."""
    trio.run(lambda: _read(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
