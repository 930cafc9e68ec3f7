"""A hundred cancels at random points of subscriptions, with the real carriers: nothing stays behind, nothing is lost.

Source and consumer run in this process over gRPC on loopback and real journals. Again and again the source's end and the
consumer are started and, somewhere in their work (tail, catch-up, a change of filters, replays), cancelled one after the
other, as SIGKILL would end them for the other side. What is left then is compared with what was there before.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import trio

from common.core.addresses import Address
from common.core.flow.backoff import Backoff
from common.core.journal.url import parse_journal_url
from common.core.subscription.messages import StreamLimits
from common.journal.stores.journal import Journal
from common.runtime.environment import Environment, real_environment, utc_now_us
from common.transport.subscription.catalogue import StreamCatalogue
from common.transport.subscription.endpoint import SourceSettings
from common.transport.subscription.link import keep_subscription
from common.transport.subscription.sinks import InboxSink
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState
from examples.support.postgres import Databases
from tests.durability.test_cancels import (
    LEFTOVERS_S,
    Started,
    asyncio_tasks,
    free_port,
    open_transactions,
    sockets,
    trio_tasks,
)
from tests.support.subscription.subscriptions import criteria, log_of, publish, rows_of, serving, whole_inbox, whole_log

CANCELS: Final = 100
SESSIONS_MAX: Final = 16  # of two PostgreSQL journals' worth, opened when they are needed
LIMITS: Final = StreamLimits(window_bytes=200_000, batch_bytes=20_000, batch_events=20)
FILTERS: Final = (criteria("red"), criteria("red", "blue"), criteria("blue"), criteria("blue", "green"))


@dataclass(slots=True)
class World:
    """The journals, which stay open, and the two ends that take turns between them."""

    environment: Environment
    source: Journal
    consumer: Journal
    chance: random.Random
    port: int
    state: SubscriptionState = field(default_factory=lambda: SubscriptionState("orders", "Order"))

    async def serve(self) -> None:
        settings = SourceSettings(LIMITS, 10.0, 0.05, 10.0, require_identity=False)
        async with serving(self.source, StreamCatalogue(), settings) as endpoint:
            async with self.environment.serve_grpc(
                endpoint.methods,
                host="127.0.0.1",
                port=self.port,
                tls=None,
                message_max_bytes=4_000_000,
                connections_max=10,
                user_timeout_s=10.0,
            ):
                await trio.sleep_forever()

    async def consume(self) -> None:
        await keep_subscription(
            lambda: self.environment.dial(
                Address("127.0.0.1", self.port),
                tls=None,
                connect_timeout_s=2.0,
                message_max_bytes=4_000_000,
                user_timeout_s=10.0,
            ),
            self.consumer,
            InboxSink(),
            SubscriptionSettings(
                "orders", "Order", "edge-1", LIMITS, criteria=FILTERS[1], heartbeat_s=0.05, progress_timeout_s=10.0,
                lease_s=2.0, look_s=0.1,
            ),
            self.state,
            owner="node",
            backoff=Backoff(0.01, 0.05),
            chance=self.chance,
            now_us=utc_now_us,
        )  # fmt: skip

    @property
    def parts(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.serve, self.consume]


@asynccontextmanager
async def open_world(source_url: str, consumer_url: str, seed: int) -> AsyncIterator[World]:
    async with (
        real_environment() as environment,
        environment.open_journal(parse_journal_url(source_url), max_bytes=None, notified=True) as source,
        environment.open_journal(parse_journal_url(consumer_url), max_bytes=None, notified=True) as consumer,
    ):
        yield World(environment, source, consumer, random.Random(seed), free_port())


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_cancels_leave_nothing_behind_and_lose_nothing(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    databases: Databases | None = request.getfixturevalue("postgres") if storage == "postgres" else None
    source_url = request.getfixturevalue("postgres_url") if databases else str(tmp_path / "source.db")
    database_port = urlsplit(source_url).port if databases else None
    consumer_file = tmp_path / "edge.db"
    async with open_world(source_url, str(consumer_file), seed=7) as world, trio.open_nursery() as nursery:
        before = trio_tasks(), asyncio_tasks(), sockets(database_port)

        async def left_over() -> dict[str, object]:
            now, sessions = sockets(database_port)
            found: dict[str, object] = {
                "tasks": trio_tasks() - before[0],
                "asyncio tasks": max(0, asyncio_tasks() - before[1]),
                "sockets": now - before[2][0],
                "sessions too many": max(0, sessions - SESSIONS_MAX),
                "transactions": await open_transactions(consumer_file, source_url, databases),
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

        cancels, wanted = 0, FILTERS[1]
        while cancels < CANCELS:
            started = [Started(part) for part in world.parts]
            for one in started:
                nursery.start_soon(one.run)
            for _ in range(world.chance.randrange(5)):
                tag = world.chance.choice(["red", "blue", "green"])
                await publish(world.source, [f"Order|{world.chance.randrange(20)}" for _ in range(30)], tags=[tag])
                if world.chance.random() < 0.3:
                    wanted = world.chance.choice(FILTERS)
                    await world.consumer.subscriptions.set_requested("orders", wanted)
                    world.state.filter_changed()
            await trio.sleep(world.chance.uniform(0, 0.15))
            world.chance.shuffle(started)
            for one in started:
                await one.cancel()
                cancels += 1
                await trio.sleep(world.chance.choice((0.0, world.chance.uniform(0, 0.02))))
            await nothing_is_left()
        assert world.state.received > 300, "the cancels must have met streams at work"
        assert world.state.connects > 10
        for part in world.parts:
            nursery.start_soon(part)
        await settles(world, wanted)
        nursery.cancel_scope.cancel()


async def settles(world: World, wanted: str) -> None:
    """In peace, everything the last filter selects is there, each once and in order, or led over as withheld before."""
    head = world.source.log.history.head_position
    with trio.fail_after(60):
        while True:
            stored = await world.consumer.subscriptions.get("orders")
            is_there = stored and stored.place.live.position >= head and stored.place.applied == stored.requested
            if is_there and not await world.consumer.subscriptions.awaiting("orders", 1):
                break
            await trio.sleep(0.05)
    log = log_of(await whole_log(world.source), wanted)
    found = rows_of(await whole_inbox(world.consumer))
    known = await world.consumer.subscriptions.known("orders", sorted(log))
    for name, numbers in log.items():
        assert found[name] == sorted(set(found[name]))
        assert known[name] >= numbers[-1]
