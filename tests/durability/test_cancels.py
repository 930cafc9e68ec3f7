"""A hundred cancels at random points of push stream and projection, with the real carriers: nothing stays behind.

Edge and cloud run in this process over gRPC on loopback and real journals. Again and again the link, the cloud's end and
the projections are started and, somewhere in their work, cancelled one after the other. What is left then is compared
with what was there before: trio's and asyncio's tasks, sockets, transactions. In the end the stores must agree.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import apsw
import psutil
import pytest
import trio

from common.core.addresses import Address
from common.core.flow.backoff import Backoff
from common.core.journal.url import parse_journal_url
from common.core.push.messages import PUSH_PATH, PushLimits
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from common.projection.latest import LATEST
from common.projection.progress import ProjectionSettings
from common.projection.projection import run_projections
from common.projection.tally import TALLY, all_tallies, fold
from common.runtime.environment import Environment, real_environment, utc_now_us
from common.runtime.stream_serving import open_firehose
from common.transport.push.endpoint import EndpointSettings, PushEndpoint
from common.transport.push.link import keep_push_link
from common.transport.push.link_state import LinkState
from common.transport.push.producer import PushSettings
from common.transport.stream import StreamMethod
from examples.support.postgres import Databases
from tests.support.push import append, same_story, wait_for_head, whole_log

CANCELS: Final = 100
LIMITS: Final = PushLimits(window_events=400, window_bytes=1_000_000, batch_bytes=200_000, event_bytes=300_000)
SESSIONS_MAX: Final = 11  # of one PostgreSQL journal, opened when they are needed
SOCKET_WATCH: Final = "common.private.trio_asyncio.EagerLoop._io_task"
WORK_S: Final = 1.5
END_S: Final = 5.0  # a cancelled projection may take two seconds to give its lease back
LEFTOVERS_S: Final = 5.0

Part = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class World:
    """The journals, which stay open, and what takes turns between them."""

    environment: Environment
    edge: Journal
    cloud: Journal
    chance: random.Random
    link: LinkState
    port: int
    commits: int = 0
    committed: trio.Event = field(default_factory=trio.Event)

    async def keep_link(self) -> None:
        await keep_push_link(
            lambda: self.environment.dial(
                Address("127.0.0.1", self.port),
                tls=None,
                connect_timeout_s=2.0,
                message_max_bytes=4_000_000,
                user_timeout_s=10.0,
            ),
            self.edge,
            PushSettings(
                "edge-1",
                self.environment.new_id(),
                LIMITS,
                batch_max_events=20,
                window_max_batches=4,
                heartbeat_s=0.05,
                progress_timeout_s=10.0,
                poll_interval_s=0.05,
            ),
            self.link,
            backoff=Backoff(0.01, 0.05),
            chance=self.chance,
            now_us=utc_now_us,
        )

    async def serve_cloud(self) -> None:
        settings = EndpointSettings(
            LIMITS,
            parked_max=100,
            hello_timeout_s=10.0,
            heartbeat_s=0.05,
            progress_timeout_s=10.0,
            require_identity=False,
        )
        async with open_group_commit(self.cloud.log) as commit:
            endpoint = PushEndpoint(self.cloud, commit, settings, utc_now_us)
            async with self.environment.serve_grpc(
                {PUSH_PATH: StreamMethod(endpoint.serve)},
                host="127.0.0.1",
                port=self.port,
                tls=None,
                message_max_bytes=4_000_000,
                connections_max=10,
                user_timeout_s=10.0,
            ):
                await trio.sleep_forever()

    async def run_projections(self) -> None:
        def committed(*_: object) -> None:
            self.commits += 1
            self.committed.set()

        async with open_firehose(self.cloud, poll_s=0.05) as firehose:
            await run_projections(
                self.cloud,
                firehose,
                [LATEST, TALLY],
                owner=self.environment.new_id(),
                settings=ProjectionSettings(
                    ranges=2, lease_s=2.0, poll_s=0.05, standby_poll_s=0.05, page_max_events=30, backoff_min_s=0.02
                ),
                now_us=utc_now_us,
                random=self.chance,
                on_commit=committed,
            )

    async def some_time(self) -> None:
        """A short while, or up to some commit of a projection: both reach points that the other does not."""
        if self.chance.random() < 0.5:
            await trio.sleep(self.chance.uniform(0, 0.1))
            return
        wanted = self.commits + self.chance.randint(1, 6)
        with trio.move_on_after(WORK_S):
            while self.commits < wanted:
                self.committed = trio.Event()
                await self.committed.wait()
        await trio.sleep(self.chance.uniform(0, 0.01))

    @property
    def parts(self) -> list[Part]:
        """Everything that is started and cancelled."""
        return [self.serve_cloud, self.keep_link, self.run_projections]


class Started:
    """A part while it runs; `cancel` waits for its end."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self) -> None:
        try:
            with self._scope:
                await self.part()
        finally:
            self._ended.set()

    async def cancel(self) -> None:
        """Raises TooSlowError when it does not end."""
        self._scope.cancel()
        with trio.fail_after(END_S):
            await self._ended.wait()


@asynccontextmanager
async def open_world(directory: Path, cloud_url: str, seed: int) -> AsyncIterator[World]:
    async with (
        real_environment() as environment,
        environment.open_journal(parse_journal_url(str(directory / "edge.db")), max_bytes=None, notified=True) as edge,
        environment.open_journal(parse_journal_url(cloud_url), max_bytes=None, notified=True) as cloud,
    ):
        yield World(environment, edge, cloud, random.Random(seed), LinkState(), free_port())


def free_port() -> int:
    """Below the range that the system dials from: a dial to it while nobody listens must not reach itself."""
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(15_000, 30_000)
        taken = {one.laddr.port for one in psutil.net_connections(kind="tcp") if one.laddr}
        if port not in taken:
            return port


# -- what may not be left ------------------------------------------------------------------------------------------------
def trio_tasks() -> Counter[str]:
    """Names of all tasks of this run, but for those that watch a socket for asyncio: `sockets` counts these."""
    found: Counter[str] = Counter()
    root = trio.lowlevel.current_root_task()
    assert root is not None
    waiting = [root]
    while waiting:
        task = waiting.pop()
        found[task.name] += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    del found[SOCKET_WATCH]
    return found


def asyncio_tasks() -> int:
    return len(asyncio.all_tasks(asyncio.get_event_loop()))


def sockets(database_port: int | None) -> tuple[int, int]:
    """TCP sockets of this process: those of edge and cloud, and the sessions of the journal, which are its own to keep."""
    peers = [_peer_port(one) for one in psutil.Process().net_connections(kind="tcp")]
    sessions = sum(port == database_port for port in peers)
    return len(peers) - sessions, sessions


def connections(port: int) -> int:
    """Ends of connections that are held here, of edge and of cloud."""
    held = psutil.Process().net_connections(kind="tcp")
    return sum(one.status != psutil.CONN_LISTEN and port in (one.laddr.port, _peer_port(one)) for one in held)


def _peer_port(one: psutil._ntuples.pconn) -> int:
    return getattr(one.raddr, "port", 0)  # what only listens has no peer


def sqlite_transactions(path: str) -> int:
    """1 while somebody writes or reads in a transaction: the write-ahead log cannot be taken over whole then."""
    connection = apsw.Connection(path)
    try:
        busy, _, _ = next(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        return int(busy)
    except apsw.BusyError:
        return 1
    finally:
        connection.close()


async def open_transactions(edge_file: Path, cloud_url: str, databases: Databases | None) -> int:
    found = sqlite_transactions(str(edge_file))
    if databases is None:
        return found + sqlite_transactions(cloud_url)
    result = await trio.to_thread.run_sync(
        databases.run,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = "
        f"'{urlsplit(cloud_url).path.lstrip('/')}' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()",
    )
    return found + int(result)


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_cancels_leave_nothing_behind_and_lose_nothing(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    databases: Databases | None = request.getfixturevalue("postgres") if storage == "postgres" else None
    cloud_url = request.getfixturevalue("postgres_url") if databases else str(tmp_path / "cloud.db")
    database_port = urlsplit(cloud_url).port if databases else None
    async with open_world(tmp_path, cloud_url, seed=5) as world, trio.open_nursery() as nursery:
        before = trio_tasks(), asyncio_tasks(), sockets(database_port)

        async def left_over() -> dict[str, object]:
            now, sessions = sockets(database_port)
            found: dict[str, object] = {
                "tasks": trio_tasks() - before[0],
                "asyncio tasks": max(0, asyncio_tasks() - before[1]),
                "sockets": now - before[2][0],
                "sessions too many": max(0, sessions - SESSIONS_MAX),
                "transactions": await open_transactions(tmp_path / "edge.db", cloud_url, databases),
            }
            return {what: much for what, much in found.items() if much}

        async def nothing_is_left() -> None:
            """At once, or as soon as the other side has noticed."""
            left = await left_over()
            with trio.move_on_after(LEFTOVERS_S):
                while left:
                    await trio.sleep(0.02)
                    left = await left_over()
            assert not left

        async def hung_up() -> None:
            """An end that was cancelled lets go of its connection, whether or not the other one still runs."""
            held = connections(world.port)
            with trio.move_on_after(LEFTOVERS_S):
                while held:
                    await trio.sleep(0.005)
                    held = connections(world.port)
            assert not held

        cancels = 0
        while cancels < CANCELS:
            started = [Started(part) for part in world.parts]
            for one in started:
                nursery.start_soon(one.run)
            for _ in range(world.chance.randrange(6)):
                await append(world.edge, [f"Sensor|{world.chance.randrange(20)}" for _ in range(30)])
            await world.some_time()
            world.chance.shuffle(started)
            for one in started:
                await one.cancel()
                cancels += 1
                if one.part != world.run_projections:
                    await hung_up()
                await trio.sleep(world.chance.choice((0.0, world.chance.uniform(0, 0.02))))
            await nothing_is_left()

        interrupted = (await world.cloud.log.stats()).head_position
        assert interrupted > 300, "the cancels must have met streams at work"
        assert world.commits > 20, "and projections"
        assert world.link.connects > 10

        for part in world.parts:
            nursery.start_soon(part)
        log = await whole_log(world.edge)
        await wait_for_head(world.cloud, len(log), at_most_s=30)
        folded, tallies = fold(log), await all_tallies(world.cloud.projections)
        with trio.fail_after(30):
            while tallies != folded:
                await trio.sleep(0.05)
                tallies = await all_tallies(world.cloud.projections)
        assert same_story(log, await whole_log(world.cloud))
        nursery.cancel_scope.cancel()
