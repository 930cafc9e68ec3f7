"""A storm of entries: a thousand entities enter a hundred subscriptions at once, beside consumers at the tail.

Each entity has a stored history that no subscription of the storm selects; its last event brings it into all of them, so
each asks for the past of each. The tail is followed by others, to which events come on a schedule: what they get a second
is measured in turns with a storm and without one, in one run. Consumers are in processes of their own on the same cores as the
cloud and its database. Reads are counted by the journal (of single entities) and by PostgreSQL (of the log's tables).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from statistics import median

import trio

from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.journal.postgres import open_postgres_journal
from common.runtime.environment import utc_now_us
from tests.bench.down.crowd import Crowd, Meter, Publisher, Reached, Source, crowd, open_source, publisher
from tests.bench.place import Place
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.workload import BATCH, PAYLOAD_BYTES

_STORED = 9
"""Events of an entity before the one with which it enters."""
_RATE = 200
_SECONDS_TARGET = 60.0
_TAIL_TARGET = 0.8
_READS_TARGET = 3.0
_TAIL = '[{"exclude_all":true},{"include_topics":["tail/#"]}]'
# Each has a filter of its own: nothing is shared because two consumers ask for the same.
_STORM = '[{"exclude_all":true},{"include_topics":["storm/#","own/{topic}/#"]}]'
_STORM_PROGRAM = "tests.bench.down.entering_crowd"
_PAYLOAD = b'"' + b"x" * (PAYLOAD_BYTES - 2) + b'"'


@dataclass(frozen=True, slots=True)
class _Sizes:
    entities: int
    subscriptions: int
    tail: int
    seconds: int
    turns: int

    @property
    def histories(self) -> int:
        return self.entities * self.subscriptions


@dataclass(frozen=True, slots=True)
class _Storm:
    """What one took: until all subscriptions have all entities whole."""

    seconds: float
    cloud_cpu_s: float
    loads_cpu_s: float
    entity_reads: float
    messages: int


async def _fill(url: str, turns: int, entities: int) -> None:
    """The histories of all turns, of a topic that nobody asks for."""
    async with open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex, notify=False) as journal:
        names = [f"Sensor|{_name(turn)}-{entity:05}" for turn in range(turns) for entity in range(entities)]
        stored = [name for _ in range(_STORED) for name in names]
        for first in range(0, len(stored), BATCH):
            some = stored[first : first + BATCH]
            batch = new_events(
                some, ["TemperatureRead"] * len(some), [_PAYLOAD] * len(some), tags=["t:depot"] * len(some)
            )
            await journal.log.append_group([LocalAppend(batch)])


def _name(turn: int) -> str:
    return f"storm{turn}"


async def _storm(node: Source, followers: Crowd, turn: int, sizes: _Sizes) -> _Storm:
    """Let a turn's entities enter, in one request."""
    async with publisher(
        node.http_port, entities=sizes.entities, topics=1, name=_name(turn), root="storm"
    ) as publishing:
        await followers.ask("mark", "load.marked")
        reads, meter = await node.metric('journal_reads_total{kind="entity"}'), Meter(node)
        loads_cpu_s = sum(one["cpu_s"] for one in await followers.ask("whole 0", "load.whole"))
        await publishing.begin(sizes.entities, batch=sizes.entities)
        whole = await followers.ask(f"whole {sizes.entities}", "load.whole")
        meter.stop()
        await publishing.end()
    expected = sizes.histories * (_STORED + 1)
    came = sum(one["events"] for one in whole)
    assert came == expected, f"{came} of {expected} events came"
    return _Storm(
        meter.seconds,
        meter.cpu_s,
        sum(one["cpu_s"] for one in whole) - loads_cpu_s,
        await node.metric('journal_reads_total{kind="entity"}') - reads,
        sum(one["messages"] for one in whole),
    )


async def _tail(tail: Crowd, publishing: Publisher, seconds: int) -> tuple[float, Reached]:
    """Deliveries a second to the tail of events on a schedule, until all have all."""
    await tail.mark()
    began_s = trio.current_time()
    await publishing.begin(_RATE * seconds, batch=1, rate=_RATE)
    await publishing.end()
    reached = await tail.have(_RATE * seconds)
    return reached.events / (trio.current_time() - began_s), reached


async def run(place: Place) -> list[Table]:
    """Turns without a storm and with one."""
    sizes = _Sizes(
        entities=place.sized(1_000, 50),
        subscriptions=place.sized(100, 5),
        tail=place.sized(50, 5),
        seconds=place.sized(30, 3),
        turns=place.sized(5, 1),
    )
    table = Table(f"Entering: {sizes.entities:,} entities enter {sizes.subscriptions} subscriptions at once")
    pairs: list[tuple[float, float]] = []
    storms: list[_Storm] = []
    calm_delays, storm_delays = [], []
    with place.postgres.fresh() as url:
        await _fill(url, sizes.turns, sizes.entities)
        async with (
            open_source(place, url) as node,
            publisher(node.http_port, topics=5, name="tail", root="tail") as publishing,
            crowd(node.grpc_port, sizes.tail, criteria=_TAIL, timed=5, loads=1, first=10_000) as tail,
            crowd(
                node.grpc_port, sizes.subscriptions, criteria=_STORM, topics=_STORED + 1, program=_STORM_PROGRAM
            ) as followers,
        ):
            await tail.connect()
            await followers.connect()
            scans, rows = await node.read_counts()
            for turn in range(sizes.turns):
                calm, reached = await _tail(tail, publishing, sizes.seconds)
                calm_delays.append(reached)
                stormy = 0.0

                async def follow_tail() -> None:
                    nonlocal stormy
                    stormy, one = await _tail(tail, publishing, sizes.seconds)
                    storm_delays.append(one)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow_tail)
                    storms.append(await _storm(node, followers, turn, sizes))
                pairs.append((stormy, calm))
            scans_now, rows_now = await node.read_counts()
    seconds = [storm.seconds for storm in storms]
    worst = max(seconds)
    table.judge(
        f"{sizes.histories:,} histories of {_STORED + 1} events",
        spread(seconds, "s"),
        f"< {_SECONDS_TARGET:g} s",
        worst < _SECONDS_TARGET,
    )
    reads = max(storm.entity_reads for storm in storms)
    table.judge(
        "  reads of an entity's history, by the journal",
        f"{reads:,.0f}, {reads / sizes.entities:.2f} an entity",
        f"<= {_READS_TARGET:g} an entity",
        reads / sizes.entities <= _READS_TARGET,
    )
    table.add(
        "  reads of the log's tables in all turns, by PostgreSQL",
        f"{scans_now - scans:,} scans, {rows_now - rows:,} rows",
    )
    table.add(
        "  processor time a history",
        f"cloud {median(one.cloud_cpu_s for one in storms) / sizes.histories * 1e6:.0f} us,"
        f" consumers {median(one.loads_cpu_s for one in storms) / sizes.histories * 1e6:.0f} us",
    )
    table.add("  messages a history", f"{storms[-1].messages / sizes.histories:.2f}")
    ratio = middle_ratio(pairs)
    table.add(
        f"at the tail, {sizes.tail} consumers, {_RATE} events/s: without a storm",
        spread([calm for _, calm in pairs], "deliveries/s"),
    )
    table.add("  during one", spread([stormy for stormy, _ in pairs], "deliveries/s"))
    table.judge("  of the rate without", f"{ratio:.2f}", f">= {_TAIL_TARGET}", ratio >= _TAIL_TARGET)
    table.add("  due to decoded, without", _delays(calm_delays))
    table.add("  due to decoded, during one", _delays(storm_delays))
    return [table]


def _delays(reached: list[Reached]) -> str:
    p50_s, p99_s = median(one.p50_s for one in reached), median(one.p99_s for one in reached)
    return f"p50 {p50_s * 1e3:.0f} ms, p99 {p99_s * 1e3:.0f} ms"
