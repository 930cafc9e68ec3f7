"""A cloud with consumers that follow it, as the benchmarks of the way down need it: processes, words and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from examples.support.processes import Program
from tests.bench.place import Place
from tests.bench.processes import cloud, cpu_s, measured_meanwhile, metric

ROWS_SQL = (
    "SELECT coalesce(sum(idx_scan + seq_scan), 0), coalesce(sum(idx_tup_fetch + seq_tup_read), 0)"
    " FROM pg_stat_user_tables WHERE relname LIKE 'event%'"
)
TOPIC = '[{"exclude_all":true},{"include_topics":["site/{topic}/#"]}]'
_STATISTICS_S = 11.0
_LOADS = 2


class Crowd:
    """Consumers in one process or several, with the same commands."""

    def __init__(self, loads: list[Program]) -> None:
        self._loads = loads
        self._asked: dict[str, int] = {}

    async def ask(self, words: str, answer: str) -> list[Mapping[str, Any]]:
        """Tell all, and wait for all answers."""
        nth = self._asked[answer] = self._asked.get(answer, 0) + 1
        for load in self._loads:
            await load.tell(words)
        return [await load.event(answer, nth) for load in self._loads]

    async def connect(self, each: int | None = None) -> None:
        """Let everybody subscribe, or so many of each process."""
        await self.ask(f"connect {each}" if each else "connect", "load.connected")

    async def mark(self) -> None:
        """Count from here."""
        await self.ask("mark", "load.marked")

    async def reach(self, position: int) -> Reached:
        """Wait until everybody is at that position."""
        return await self._reached(f"reach {position}")

    async def have(self, events: int) -> Reached:
        """Wait until everybody got so many events since the mark."""
        return await self._reached(f"have {events}")

    async def _reached(self, words: str) -> Reached:
        result = await self.ask(words, "load.reached")
        return Reached(
            sum(one["events"] for one in result),
            sum(one["messages"] for one in result),
            max(one["p50_s"] for one in result),
            max(one["p99_s"] for one in result),
        )

    @property
    def programs(self) -> list[Program]:
        """The processes."""
        return self._loads


@dataclass(frozen=True, slots=True)
class Reached:
    """What everybody together got since the mark; delays are the worst process's."""

    events: int
    messages: int
    p50_s: float
    p99_s: float


@asynccontextmanager
async def crowd(
    grpc_port: int,
    count: int,
    *,
    criteria: str = "",
    topics: int = 0,
    batch_events: int = 2_000,
    timed: int = 0,
    certificates: str = "",
    first: int = 0,
    loads: int = _LOADS,
    program: str = "tests.bench.down.subscribers",
) -> AsyncIterator[Crowd]:
    """``count`` consumers over ``loads`` processes, not connected yet. ``{topic}`` in ``criteria`` is each one's own.

    ``program`` is what each process runs: it takes the arguments and commands of the usual one, and perhaps others.
    """
    loads = min(loads, count)
    async with AsyncExitStack() as stack:
        programs = []
        for begin, size in _shares(first, count, loads):
            running = await stack.enter_async_context(
                measured_meanwhile(
                    program,
                    port=grpc_port,
                    first=begin,
                    count=size,
                    certificates=certificates,
                    criteria=criteria,
                    topics=topics,
                    batch_events=batch_events,
                    timed=timed,
                )
            )
            programs.append(running)
        for running in programs:
            await running.event("load.ready")
        yield Crowd(programs)


def _shares(first: int, count: int, parts: int) -> Iterator[tuple[int, int]]:
    for part in range(parts):
        begin, end = count * part // parts, count * (part + 1) // parts
        yield first + begin, end - begin


class Publisher:
    """Publishes on command."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._asked = 0
        self.total = 0

    async def begin(self, count: int, *, batch: int, rate: float = 0.0) -> int:
        """Begin, and answer how many positions there will be."""
        await self._program.tell(f"{count} {batch} {rate}")
        self.total += count
        return self.total

    async def end(self) -> Mapping[str, Any]:
        """Wait until all of it is stored."""
        self._asked += 1
        return await self._program.event("published", self._asked)


@asynccontextmanager
async def publisher(
    http_port: int, *, entities: int = 500, topics: int = 0, name: str = "line", root: str = "site"
) -> AsyncIterator[Publisher]:
    """A program that publishes through the cloud's HTTP door."""
    async with measured_meanwhile(
        "tests.bench.up.publisher", port=http_port, entities=entities, topics=topics, name=name, root=root
    ) as program:
        await program.event("publisher.ready")
        yield Publisher(program)


@dataclass(frozen=True, slots=True)
class Source:
    """A running cloud and its database."""

    place: Place
    node: Program
    url: str
    grpc_port: int
    http_port: int

    async def metric(self, name: str) -> float:
        """One of its numbers, without the prefix."""
        return await metric(self.http_port, f"backhaul_cloud_{name}")

    async def read_counts(self) -> tuple[int, int]:
        """Scans of the log's tables and rows they gave, as PostgreSQL counts them."""
        await trio.sleep(_STATISTICS_S)  # an idle session tells its counts after ten seconds
        result = await trio.to_thread.run_sync(lambda: self.place.postgres.run(ROWS_SQL, database=_database(self.url)))
        scans, rows = result.split("|")
        return int(scans), int(rows)


class Meter:
    """What the cloud used between two moments."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.seconds = self.cpu_s = 0.0
        self._began_s, self._cpu_s = trio.current_time(), cpu_s(source.node)

    def stop(self) -> None:
        """Take the time."""
        self.seconds = trio.current_time() - self._began_s
        self.cpu_s = cpu_s(self._source.node) - self._cpu_s


def _database(url: str) -> str:
    return url.rpartition("/")[2]


@asynccontextmanager
async def source(place: Place, settings: Mapping[str, object] | None = None) -> AsyncIterator[Source]:
    """A cloud over an empty database, without projections."""
    with place.postgres.fresh() as url:
        async with open_source(place, url, settings) as opened:
            yield opened


@asynccontextmanager
async def open_source(place: Place, url: str, settings: Mapping[str, object] | None = None) -> AsyncIterator[Source]:
    """A cloud over a database that may have a journal already."""
    async with cloud(url, {"projections": "", **(settings or {})}) as node:
        ready = await node.event("service.ready")
        yield Source(place, node, url, ready["grpc_port"], ready["http_port"])
