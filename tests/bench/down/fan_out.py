"""Fan-out over real connections: a thousand consumers of one cloud, all with everything, then with a topic each.

Consumers are in processes of their own, decode every batch to columns and check every entity's continuity, on the same
cores as the cloud and its database: so the cloud's processor time a delivery says more than what is delivered a second.
Database reads are counted by PostgreSQL and by the journal.
"""

from __future__ import annotations

import trio

from tests.bench.down.crowd import TOPIC, Crowd, Meter, Publisher, Reached, Source, crowd, publisher, source
from tests.bench.place import Place
from tests.bench.table import Table

_RATE = 200
_DELIVERIES_TARGET = 700_000
_SINGLE_TARGET = 35_000
_EVALUATIONS_TARGET = 3.0
_READS_TARGET = 1.2
_LOOK_KINDS = ("log", "selected", "entity")
_ANY_TOPIC = '[{"exclude_all":true},{"include_topics":["site/#"]}]'


async def _flood(
    node: Source, consumers: Crowd, publishing: Publisher, count: int, batch: int
) -> tuple[Reached, Meter]:
    """Publish as fast as it is taken, until everybody has everything."""
    await consumers.mark()
    meter = Meter(node)
    through = await publishing.begin(count, batch=batch)
    reached = await consumers.reach(through)
    meter.stop()
    await publishing.end()
    return reached, meter


async def _looks(node: Source) -> float:
    return sum([await node.metric(f'journal_reads_total{{kind="{kind}"}}') for kind in _LOOK_KINDS])


async def _steady(node: Source, consumers: Crowd, publishing: Publisher, seconds: int) -> tuple[Reached, float, float]:
    """Scheduled events to everybody; and how often a second the log was read, by PostgreSQL's count and the journal's."""
    await consumers.mark()
    (scans, _), read_counts = await node.read_counts(), await _looks(node)
    began_s = trio.current_time()
    through = await publishing.begin(_RATE * seconds, batch=1, rate=_RATE)
    await publishing.end()
    reached = await consumers.reach(through)
    took_s = trio.current_time() - began_s
    (scans_now, _), looks_now = await node.read_counts(), await _looks(node)
    return reached, (scans_now - scans) / took_s, (looks_now - read_counts) / took_s


async def _everything(place: Place) -> Table:
    count, seconds = place.sized(1_000, 50), place.sized(20, 3)
    table = Table(f"Fan-out: {count:,} consumers without a filter, each over a connection of its own")
    found = []
    for many in (1, count):
        async with (
            source(place) as node,
            publisher(node.http_port) as publishing,
            crowd(node.grpc_port, many, timed=50) as consumers,
        ):
            await consumers.connect()
            meter = Meter(node)
            found.append(await _steady(node, consumers, publishing, seconds))
            meter.stop()
            if many == 1:
                continue
            reached, _, _ = found[-1]
            expected = many * _RATE * seconds
            table.judge(
                f"{_RATE} events/s for {seconds} s: delivered",
                f"{reached.events:,} of {expected:,}",
                "all",
                reached.events == expected,
            )
            table.add("  due to decoded", f"p50 {reached.p50_s * 1e3:.0f} ms, p99 {reached.p99_s * 1e3:.0f} ms")
            table.add("  events a message", f"{reached.events / reached.messages:.1f}")
            table.add("  the cloud", f"{meter.cpu_s / meter.seconds:.2f} of a core")
            await _ceiling(place, table, node, consumers, publishing)
    (_, scans_1, looks_1), (_, scans_n, looks_n) = found
    table.judge(
        f"reads of the log a second, 1 and {count:,} consumers, as PostgreSQL counts",
        f"{scans_1:.1f} and {scans_n:.1f}",
        "equal",
        scans_n <= scans_1 * _READS_TARGET + 1,
    )
    table.judge(
        "  as the journal counts", f"{looks_1:.1f} and {looks_n:.1f}", "equal", looks_n <= looks_1 * _READS_TARGET + 1
    )
    async with (
        source(place) as node,
        publisher(node.http_port) as publishing,
        crowd(node.grpc_port, count, batch_events=1) as consumers,
    ):
        await consumers.connect()
        await _singles(place, table, node, consumers, publishing)
    return table


async def _ceiling(place: Place, table: Table, node: Source, consumers: Crowd, publishing: Publisher) -> None:
    """As much as goes, in batches that grow by themselves."""
    reached, meter = await _flood(node, consumers, publishing, place.sized(20_000, 2_000), 100)
    rate, per_cpu_s = reached.events / meter.seconds, reached.events / meter.cpu_s
    table.add("flooded: delivered", f"{rate:,.0f} deliveries/s, {reached.events / reached.messages:.0f} a message")
    table.judge(
        "  a second of the cloud's processor time",
        f"{per_cpu_s:,.0f} deliveries, {1e6 / per_cpu_s:.2f} us each",
        f">= {_DELIVERIES_TARGET:,}",
        max(rate, per_cpu_s) >= _DELIVERIES_TARGET,
    )


async def _singles(place: Place, table: Table, node: Source, consumers: Crowd, publishing: Publisher) -> None:
    """Consumers that take one event a message."""
    reached, meter = await _flood(node, consumers, publishing, place.sized(400, 100), 100)
    rate, per_cpu_s = reached.events / meter.seconds, reached.events / meter.cpu_s
    table.add("single-event messages", f"{rate:,.0f} a second")
    table.judge(
        "  a second of the cloud's processor time",
        f"{per_cpu_s:,.0f}, {1e6 / per_cpu_s:.1f} us each",
        f">= {_SINGLE_TARGET:,}",
        max(rate, per_cpu_s) >= _SINGLE_TARGET,
    )


async def _topics(place: Place) -> Table:
    count, events = place.sized(1_000, 50), place.sized(50_000, 5_000)
    table = Table(f"Fan-out: {count:,} consumers with a topic each, {events:,} events")
    costs, evaluations, size = [], 0.0, 0.0
    for many, criteria in ((1, _ANY_TOPIC), (count, TOPIC)):
        async with (
            source(place) as node,
            publisher(node.http_port, entities=4 * count, topics=count) as publishing,
            crowd(node.grpc_port, many, criteria=criteria, topics=count) as consumers,
        ):
            await consumers.connect()
            before = await node.metric("firehose_evaluations_total")
            reached, meter = await _flood(node, consumers, publishing, events, 200)
            evaluations = (await node.metric("firehose_evaluations_total") - before) / events
            assert reached.events == events, f"{reached.events} of {events} were delivered"
            costs.append(meter.cpu_s / events * 1e6)
            size = reached.events / reached.messages
    table.judge(
        "filter evaluations an event",
        f"{evaluations:.2f}",
        f"<= {_EVALUATIONS_TARGET}",
        evaluations <= _EVALUATIONS_TARGET,
    )
    alone, each = costs
    table.add(
        "the cloud's processor time an event, taken in over HTTP and sent",
        f"{each:.0f} us (one consumer with all topics: {alone:.0f} us)",
    )
    table.add("  events a message", f"{size:.1f}")
    return table


async def run(place: Place) -> list[Table]:
    """Without a filter, then with topics."""
    return [await _everything(place), await _topics(place)]
