"""A source and its consumers joined by a carrier: journals, firehose, endpoint and links, without services around."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from common.core.events.batch import EventBatch, join_tags, new_events
from common.core.filters.permission import match_batch
from common.core.filters.predicates import parse_filter
from common.core.flow.backoff import Backoff
from common.core.journal.append import LocalAppend
from common.core.subscription.messages import StreamLimits
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import InboxRow
from common.transport.codec.events import encode_batch
from common.transport.memory.network import MemoryNetwork
from common.transport.stream import Channel, PeerInfo
from common.transport.subscription.catalogue import StreamCatalogue
from common.transport.subscription.endpoint import SourceSettings, SubscriptionEndpoint
from common.transport.subscription.link import keep_subscription
from common.transport.subscription.sinks import InboxSink, Sink
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState
from tests.support.builders import ids
from tests.support.push import live_connection, now_us, wait_for_head, whole_log

__all__ = ["live_connection", "now_us", "wait_for_head", "whole_log"]

LIMITS = StreamLimits(window_bytes=1_000_000, batch_bytes=100_000, batch_events=40)
SOURCE = SourceSettings(LIMITS, 10.0, 10.0, 30.0, require_identity=False)
CONSUMER = SubscriptionSettings("orders", "Order", "edge-1", LIMITS)
ADDRESS = "source:7443"


def criteria(*tags: str) -> str:
    """The filter for entities with one of these tags, as canonical JSON."""
    wanted = json.dumps([{"exclude_all": True}, {"include_tags": sorted(tags)}])
    return parse_filter(wanted).criteria


@dataclass
class SubscriptionWorld:
    """What outlives source and consumers, and the settings they run with."""

    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    source_disk: MemoryDatabase = field(default_factory=MemoryDatabase)
    consumer_disk: MemoryDatabase = field(default_factory=MemoryDatabase)
    catalogue: StreamCatalogue = field(default_factory=StreamCatalogue)
    source_settings: SourceSettings = SOURCE
    commit_s: float = 0.001
    ids: Callable[[], str] = field(default_factory=lambda: ids("world").__next__)

    @asynccontextmanager
    async def source(self, address: str = ADDRESS) -> AsyncIterator[tuple[Journal, SubscriptionEndpoint]]:
        """A service that serves streams at ``address``."""
        async with (
            open_memory_journal(
                self.source_disk, now_us=now_us, new_id=self.ids, commit_delay_s=self.commit_s
            ) as journal,
            serving(journal, self.catalogue, self.source_settings) as endpoint,
            self.network.serve(
                endpoint.methods,
                host=address.partition(":")[0],
                port=int(address.partition(":")[2]),
                message_max_bytes=4_000_000,
                connections_max=100,
            ),
        ):
            yield journal, endpoint

    def dial(self, address: str = ADDRESS, dialler: PeerInfo | None = None) -> AbstractAsyncContextManager[Channel]:
        return self.network.open_channel(address, connect_timeout_s=5.0, message_max_bytes=4_000_000, dialler=dialler)

    @asynccontextmanager
    async def consumer(
        self, *, disk: MemoryDatabase | None = None, seed: int = 1, sink: Sink | None = None, **changes: object
    ) -> AsyncIterator[tuple[Journal, SubscriptionState]]:
        """A consumer that keeps its subscription while the block runs."""
        settings = replace(CONSUMER, **changes)  # type: ignore[arg-type]
        async with (
            open_memory_journal(
                disk or self.consumer_disk, now_us=now_us, new_id=self.ids, commit_delay_s=self.commit_s
            ) as journal,
            subscribed(journal, self.dial, settings, seed=seed, owner=self.ids(), sink=sink) as state,
        ):
            yield journal, state


@asynccontextmanager
async def serving(
    journal: Journal, catalogue: StreamCatalogue, settings: SourceSettings = SOURCE
) -> AsyncIterator[SubscriptionEndpoint]:
    """The endpoint over a journal and its firehose, which runs while the block does."""
    firehose = Firehose(journal, encode_batch, FirehoseSettings(poll_s=0.5, read_max_events=100, block_events=50))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        endpoint = SubscriptionEndpoint(journal, firehose, catalogue, settings, now_us)
        nursery.start_soon(endpoint.run)
        yield endpoint
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def subscribed(
    journal: Journal,
    dial: Callable[[], AbstractAsyncContextManager[Channel]],
    settings: SubscriptionSettings,
    *,
    seed: int = 1,
    owner: str = "node-1",
    sink: Sink | None = None,
) -> AsyncIterator[SubscriptionState]:
    """A subscription that is kept while the block runs."""
    state = SubscriptionState(settings.name, settings.stream_id)
    async with trio.open_nursery() as nursery:

        async def keep() -> None:
            await keep_subscription(
                dial,
                journal,
                sink or InboxSink(),
                settings,
                state,
                owner=owner,
                backoff=Backoff(0.5, 30.0),
                chance=random.Random(seed),
                now_us=now_us,
            )

        nursery.start_soon(keep)
        yield state
        nursery.cancel_scope.cancel()


async def publish(journal: Journal, names: Sequence[str], *, tags: Sequence[str] = (), payload_bytes: int = 10) -> None:
    """Append one event for each name; payloads tell their place in the log."""
    first = journal.log.history.head_position
    n = len(names)
    payloads = [b"%d;" % (first + index) + b"x" * payload_bytes for index in range(n)]
    batch = new_events(list(names), ["Changed"] * n, payloads, tags=[join_tags(tags)] * n)
    await journal.log.append_group([LocalAppend(batch)])


async def whole_inbox(journal: Journal, name: str = "orders") -> list[InboxRow]:
    """Every row that waits."""
    return await journal.subscriptions.inbox(name, 0, max_rows=10**6, max_bytes=10**12)


async def wait_for_position(state: SubscriptionState, position: int, at_most_s: float = 600.0) -> None:
    """Until the consumer has stored everything up to there; raises TooSlowError."""
    with trio.fail_after(at_most_s):
        while state.position < position:  # noqa: ASYNC110 - under a mock clock a look now and then costs nothing
            await trio.sleep(0.05)


async def wait_until(condition: Callable[[], bool], at_most_s: float = 600.0) -> None:
    """Raises TooSlowError when it does not come true."""
    with trio.fail_after(at_most_s):
        while not condition():  # noqa: ASYNC110 - as above
            await trio.sleep(0.05)


def rows_of(rows: Sequence[InboxRow]) -> dict[str, list[int]]:
    """The numbers of the events that came, in their order, by entity."""
    found: dict[str, list[int]] = {}
    for row in (row for row in rows if not row.is_deleted):
        found.setdefault(row.event.persistence_id, []).append(row.event.seq_nr)
    return found


def parted(rows: Sequence[InboxRow], log: Mapping[str, Sequence[int]]) -> tuple[list[InboxRow], list[InboxRow]]:
    """The rows of a history that was left, and those of the one that is followed since: as many as ``log`` holds."""
    old = len(rows) - sum(map(len, log.values()))
    return list(rows[:old]), list(rows[old:])


def log_of(log: EventBatch, wanted: str = "") -> dict[str, list[int]]:
    """What a consumer with these criteria that followed the log from its beginning has seen, by entity."""
    found: dict[str, list[int]] = {}
    for index in match_batch(parse_filter(wanted), log).indexes:
        found.setdefault(log.persistence_id[index], []).append(log.seq_nr[index])
    return found
