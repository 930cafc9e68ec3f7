"""Both services as they are composed, over gRPC on loopback and real journals: down, across, and between clouds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cloud_service.service import serve as serve_cloud
from cloud_service.settings import CloudSettings
from common.core.addresses import Address, PeerAddress
from common.core.events.batch import EventBatch, join_tags, new_events
from common.core.journal.append import LocalAppend
from common.core.journal.url import JournalUrl, parse_journal_url
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import InboxRow
from common.runtime.environment import Environment, real_environment
from common.runtime.reload import Reloads
from common.transport.grpc import TlsFiles
from common.transport.link.live_peers import DialledPeers
from edge_service.service import serve as serve_edge
from edge_service.settings import EdgeSettings
from tests.durability.test_cancels import free_port
from tests.support.certificates import Authority
from tests.support.subscription.subscriptions import criteria, log_of, rows_of, whole_log

AT_MOST_S = 60.0


@dataclass
class Running:
    """A service that runs in this process, and its journal."""

    journal: Journal
    grpc_port: int
    stop: trio.Event = field(default_factory=trio.Event)


@dataclass
class Stage:
    """Where services run: the world, which tells what journals they open."""

    environment: Environment
    directory: Path
    opened: dict[str, Journal] = field(default_factory=dict)

    def world(self, name: str) -> Environment:
        @asynccontextmanager
        async def open_journal(
            url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
        ) -> AsyncIterator[Journal]:
            async with self.environment.open_journal(
                url, max_bytes=max_bytes, notified=notified, migrates=migrates
            ) as journal:
                self.opened[name] = journal
                yield journal

        return replace(self.environment, open_journal=open_journal, reloads=Reloads(), dialled=DialledPeers())

    @asynccontextmanager
    async def cloud(self, name: str = "cloud", **settings: object) -> AsyncIterator[Running]:
        given: dict[str, object] = {
            "journal": parse_journal_url(str(self.directory / f"{name}.db")),
            **QUICK,
            **settings,
        }
        ready = CloudSettings(node=name, grpc_port=0, http_port=0, **given)  # type: ignore[arg-type]
        ready.check()
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            ports = await nursery.start(serve_cloud, ready, self.world(name), stop)
            yield Running(self.opened[name], ports.grpc, stop)
            stop.set()

    @asynccontextmanager
    async def edge(self, name: str, cloud: int, **settings: object) -> AsyncIterator[Running]:
        given: dict[str, object] = {
            "journal": parse_journal_url(str(self.directory / f"{name}.db")),
            **QUICK,
            **settings,
        }
        ready = EdgeSettings(
            id=name,
            cloud=PeerAddress((Address("127.0.0.1", cloud),)),
            grpc_port=0,
            http_port=0,
            **given,  # type: ignore[arg-type]
        )
        ready.check()
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            ports = await nursery.start(serve_edge, ready, self.world(name), stop)
            yield Running(self.opened[name], ports.grpc, stop)
            stop.set()


QUICK: dict[str, object] = {"backoff_min_s": 0.05, "backoff_max_s": 0.2, "drain_s": 4.0, "lease_s": 1.5}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with real_environment() as environment:
        yield Stage(environment, tmp_path)


async def publish(running: Running, names: list[str], tag: str = "") -> None:
    n = len(names)
    batch = new_events(names, ["Changed"] * n, [b"{}"] * n, tags=[join_tags([tag] if tag else [])] * n)
    await running.journal.log.append_group([LocalAppend(batch)])


async def rows(journal: Journal, name: str) -> list[InboxRow]:
    return await journal.subscriptions.inbox(name, 0, max_rows=10**6, max_bytes=10**9)


async def until(journal: Journal, name: str, wanted: Callable[[dict[str, list[int]]], bool]) -> dict[str, list[int]]:
    """What came, once it is what is wanted."""
    found: dict[str, list[int]] = {}
    with trio.move_on_after(AT_MOST_S):
        while True:
            found = rows_of(await rows(journal, name))
            if wanted(found):
                return found
            await trio.sleep(0.05)
    raise AssertionError(f"this is all that came: {found}")


def as_told(log: EventBatch, wanted: str = "") -> dict[str, list[int]]:
    return log_of(log, wanted)


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_an_edge_follows_its_part_of_a_cloud_and_changes_it_while_it_runs(
    storage: str, stage: Stage, request: pytest.FixtureRequest
) -> None:
    url: dict[str, Any] = (
        {"journal": parse_journal_url(request.getfixturevalue("postgres_url"))} if storage == "postgres" else {}
    )
    red, both = criteria("red"), criteria("red", "blue")
    async with (
        stage.cloud(streams=("orders=Order",), **url) as cloud,
        stage.edge(
            "edge-1", cloud.grpc_port, subscriptions=("orders",), subscription_filters=(f"orders={red}",)
        ) as edge,
    ):
        for tag in ("red", "blue", "green"):
            await publish(cloud, [f"Order|{tag}{i}" for i in range(100)] * 3, tag)
        await publish(cloud, ["Invoice|1"], "red")
        log = await whole_log(cloud.journal)
        expected = {name: numbers for name, numbers in as_told(log, red).items() if name.startswith("Order")}
        assert await until(edge.journal, "orders", lambda found: found == expected)
        await edge.journal.subscriptions.set_requested("orders", both)
        expected = {name: numbers for name, numbers in as_told(log, both).items() if name.startswith("Order")}
        assert await until(edge.journal, "orders", lambda found: found == expected)


async def test_an_edge_follows_an_edge_across_restarts_of_either(stage: Stage) -> None:
    port = free_port()
    source_settings: dict[str, object] = {"serve": Address("127.0.0.1", port)}
    follower_settings: dict[str, object] = {"subscriptions": (f"Sensor@127.0.0.1:{port}",)}
    async with stage.cloud() as cloud:
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(stage.edge("source", cloud.grpc_port, **source_settings))
            await publish(source, [f"Sensor|source/{i % 5}" for i in range(300)])
            for _ in range(3):
                async with stage.edge("follower", cloud.grpc_port, **follower_settings):
                    await publish(source, [f"Sensor|source/{i % 5}" for i in range(100)])
                    await trio.sleep(0.1)
        async with (
            stage.edge("source", cloud.grpc_port, **source_settings) as source,
            stage.edge("follower", cloud.grpc_port, **follower_settings) as follower,
        ):
            await publish(source, ["Sensor|source/last"])
            expected = as_told(await whole_log(source.journal))
            assert await until(follower.journal, "Sensor", lambda found: found == expected)


async def test_a_cloud_follows_a_cloud_on_one_node_at_a_time_into_its_own_journal(
    stage: Stage, postgres_url: str
) -> None:
    async with stage.cloud("upstream") as upstream:
        follows: dict[str, object] = {
            "journal": parse_journal_url(postgres_url),
            "subscriptions": (f"orders=Order@127.0.0.1:{upstream.grpc_port}",),
            "into_journal": ("orders",),
            "projections": (),
        }
        await publish(upstream, [f"Order|{i % 9}" for i in range(500)])
        async with stage.cloud("node-b", **follows) as second:
            async with stage.cloud("node-a", **follows):
                await publish(upstream, [f"Order|{i % 9}" for i in range(500)])
                await trio.sleep(0.3)
            await publish(upstream, [f"Order|{i % 9}" for i in range(500)])
            log = as_told(await whole_log(upstream.journal))
            with trio.fail_after(AT_MOST_S):
                while as_told(await whole_log(second.journal)) != log:  # noqa: ASYNC110 - stores raise no events
                    await trio.sleep(0.1)
            assert (await second.journal.log.stats()).parked == 0


async def test_with_tls_an_edge_sees_only_what_is_its_own(stage: Stage, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")

    def with_files(files: TlsFiles) -> dict[str, object]:
        return {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}

    policy = tmp_path / "policy.toml"
    policy.write_text(
        "[[rule]]\nwho = '*'\nwrite = '*|{id}/*'\n"
        "read = {stream = 'orders', filter = [{exclude_all = true}, {include_topics = ['site/{id}/#']}]}\n"
    )
    async with (
        stage.cloud(
            streams=("orders=Order",),
            policy=policy,
            **with_files(authority.files("cloud", "127.0.0.1")),  # type: ignore[arg-type]
        ) as cloud,
        stage.edge(
            "edge-1", cloud.grpc_port, subscriptions=("orders",), **with_files(authority.files("edge-1", "edge-1"))
        ) as edge,
        stage.edge(
            "edge-2", cloud.grpc_port, subscriptions=("orders",), **with_files(authority.files("edge-2", "other"))
        ) as imposter,
    ):
        for site in ("edge-1", "edge-2"):
            await publish(cloud, [f"Order|{site}/{i}" for i in range(20)], f"t:site/{site}/door")
        found = await until(edge.journal, "orders", lambda found: len(found) == 20)
        assert set(found) == {f"Order|edge-1/{i}" for i in range(20)}
        assert await rows(imposter.journal, "orders") == []
