"""An edge and a cloud node joined by a memory network: journals, writers, endpoint and link, without services around."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from common.core.events.batch import EventBatch, new_events
from common.core.events.transformations import Transformed
from common.core.filters.past import Past
from common.core.flow.backoff import Backoff
from common.core.flow.messages import EdgeHealth
from common.core.journal.append import LocalAppend
from common.core.push.filter_transition import EVERYTHING
from common.core.push.messages import PUSH_PATH, PushLimits
from common.journal.group_commit import open_group_commit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.transport.memory.line import MemoryConnection
from common.transport.memory.network import MemoryNetwork
from common.transport.push.endpoint import EndpointSettings, PushEndpoint
from common.transport.push.endpoint_stream import AppendWriter
from common.transport.push.link import keep_push_link
from common.transport.push.link_state import LinkState
from common.transport.push.producer import PushSettings
from common.transport.stream import PeerInfo, StreamMethod
from tests.support.builders import START_US, ids

LIMITS = PushLimits(window_events=400, window_bytes=1_000_000, batch_bytes=200_000, event_bytes=300_000)
ADDRESS = "cloud:7443"
NAMES = [f"Sensor|edge-1/t{i % 7}" for i in range(500)]


def now_us() -> int:
    """The mock clock's time as a wall clock."""
    return START_US + round(trio.current_time() * 1e6)


@dataclass
class PushWorld:
    """What outlives both services, and the settings they run with."""

    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    edge_disk: MemoryDatabase = field(default_factory=MemoryDatabase)
    cloud_disk: MemoryDatabase = field(default_factory=MemoryDatabase)
    commit_s: float = 0.001
    batch_events: int = 50
    poll_s: float = 0.5
    spacing_s: float = 0.0
    message_max_bytes: int = 4_000_000
    health: Callable[[], EdgeHealth] | None = None
    on_push: Callable[[EventBatch], Transformed] | None = None
    endpoint: EndpointSettings = field(
        default_factory=lambda: EndpointSettings(LIMITS, 1_000, 10.0, 10.0, 30.0, require_identity=False)
    )
    ids: Callable[[], str] = field(default_factory=lambda: ids("world").__next__)

    @asynccontextmanager
    async def cloud(self, address: str = ADDRESS) -> AsyncIterator[tuple[Journal, PushEndpoint]]:
        """A cloud node that serves ``address``."""
        async with (
            open_memory_journal(
                self.cloud_disk, now_us=now_us, new_id=self.ids, commit_delay_s=self.commit_s
            ) as journal,
            open_group_commit(journal.log) as commit,
        ):
            async with self.serve(journal, commit, address) as endpoint:
                yield journal, endpoint

    @asynccontextmanager
    async def serve(
        self, journal: Journal, writer: AppendWriter, address: str = ADDRESS
    ) -> AsyncIterator[PushEndpoint]:
        """A cloud's end over a journal that is open, whatever its storage."""
        endpoint = PushEndpoint(journal, writer, self.endpoint, now_us)
        async with self.network.serve(
            {PUSH_PATH: StreamMethod(endpoint.serve)},
            host=address.partition(":")[0],
            port=int(address.partition(":")[2]),
            tls=None,
            message_max_bytes=self.message_max_bytes,
            connections_max=100,
        ):
            yield endpoint

    @asynccontextmanager
    async def edge(
        self,
        origin_id: str = "edge-1",
        *,
        disk: MemoryDatabase | None = None,
        address: str = ADDRESS,
        seed: int = 1,
        own_filter: str = EVERYTHING,
        own_past: Past = Past.FULL,
        snapshots_if_behind: int = 0,
    ) -> AsyncIterator[tuple[Journal, LinkState]]:
        """An edge that keeps its link while the block runs."""
        settings = PushSettings(
            origin_id,
            self.ids(),
            LIMITS,
            self.batch_events,
            4,
            10.0,
            30.0,
            self.poll_s,
            own_filter,
            own_past,
            snapshots_if_behind,
            on_push=self.on_push,
            health=self.health,
            spacing_s=lambda: self.spacing_s,
        )
        state = LinkState()
        async with (
            open_memory_journal(disk or self.edge_disk, now_us=now_us, new_id=self.ids) as journal,
            trio.open_nursery() as nursery,
        ):

            async def keep() -> None:
                await keep_push_link(
                    lambda: self.network.open_channel(
                        address,
                        tls=None,
                        connect_timeout_s=5.0,
                        message_max_bytes=4_000_000,
                        user_timeout_s=30.0,
                    ),
                    journal,
                    settings,
                    state,
                    backoff=Backoff(0.5, 30.0),
                    chance=random.Random(seed),
                    now_us=now_us,
                )

            nursery.start_soon(keep)
            yield journal, state
            nursery.cancel_scope.cancel()

    def with_endpoint(self, **changes: object) -> PushWorld:
        """This world with other settings of the cloud's end."""
        self.endpoint = replace(self.endpoint, **changes)  # type: ignore[arg-type]
        return self


async def append(journal: Journal, names: Sequence[str], payload_bytes: int = 20, tags: str = "") -> None:
    """Append one event for each name; payloads tell their place in the journal."""
    first, n = journal.log.history.head_position, len(names)
    payloads = [b"%d;" % (first + index) + b"x" * payload_bytes for index in range(n)]
    await journal.log.append_group([LocalAppend(new_events(list(names), ["Read"] * n, payloads, tags=[tags] * n))])


async def whole_log(journal: Journal) -> EventBatch:
    """Every event there is."""
    return (await journal.log.read(0, max_events=10**9, max_bytes=10**12)).events


async def wait_for_head(journal: Journal, head: int, at_most_s: float = 600.0) -> None:
    """Until the log has ``head`` events; raises TooSlowError."""
    with trio.fail_after(at_most_s):
        while (await journal.log.stats()).head_position < head:
            await journal.log.head_signal.wait_above(journal.log.head_signal.position, 0.05)


async def live_connection(network: MemoryNetwork) -> MemoryConnection:
    """The newest connection, once there is one."""
    while not network.connections:  # noqa: ASYNC110 - under a mock clock a look now and then costs nothing
        await trio.sleep(0.1)
    return network.connections[-1]


def same_story(edge: EventBatch, cloud: EventBatch) -> bool:
    """Whether the cloud has exactly the edge's events, each once, in order per entity."""

    def by_entity(batch: EventBatch) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for name, payload in zip(batch.persistence_id, batch.payload, strict=True):
            found.setdefault(name, []).append(payload)
        return found

    return by_entity(edge) == by_entity(cloud)


CERTIFIED = PeerInfo("edge:1", ("edge-1",))
