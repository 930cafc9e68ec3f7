"""Streams as a service serves them: the firehose over its journal, and the endpoint that consumers dial."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import structlog
import trio

from common.core.policy.rules import Policy
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.stores.journal import Journal
from common.runtime.environment import Environment
from common.runtime.metrics import MetricsRegistry
from common.runtime.settings.streams import StreamSettings
from common.runtime.trust import TrustKeeper
from common.transport.codec.events import encode_batch
from common.transport.stream import Methods
from common.transport.subscription.catalogue import Transform
from common.transport.subscription.endpoint import SourceSettings, SubscriptionEndpoint

_log = structlog.get_logger()

_HELLO_TIMEOUT_S = 10.0


# Metrics, and which of the firehose's figures (`FirehoseReport`) they are.
_FIREHOSE_FIGURES: Final = {
    "subscribers": ("subscribers", "Consumers that follow the log."),
    "members": ("members", "Consumers served from memory."),
    "waiting": ("waiting", "Consumers that wait for a page of the journal."),
    "ring_lag_events": ("ring_lag", "Events known to be in the log and not in memory yet."),
    "ring_events": ("ring_events", "Events in memory."),
    "ring_bytes": ("ring_bytes", "Bytes in memory."),
    "reads_total": ("reads", "Pages the one reader took from the journal."),
    "read_events_total": ("read_events", "Events in those pages."),
    "fed_events_total": ("fed_events", "Events that came from commits of this process."),
    "catch_up_reads_total": ("catch_up_reads", "Pages read for consumers behind the ring."),
    "catch_up_events_total": ("catch_up_events", "Events in those pages."),
    "shared_pages_total": ("shared_pages", "Pages that another consumer had read already."),
    "history_reads_total": ("history_reads", "Histories of single entities read from the journal, to send them again."),
    "shared_histories_total": ("shared_histories", "Histories that another consumer had read already."),
    "evaluations_total": ("evaluations", "Filters asked about an event."),
    "demotions_total": ("demotions", "Consumers that fell behind the ring."),
    "ranges": ("ranges", "Ranges of projections that read here."),
    "ranges_waiting": ("ranges_waiting", "Of these, that wait for a block of the log."),
    "range_reads_total": ("range_reads", "Blocks read for ranges behind the ring."),
    "range_events_total": ("range_events", "Events in those blocks."),
}


class ServedStreams:
    """The streams of one service while they are served. ``methods`` go to its gRPC port."""

    def __init__(self, endpoint: SubscriptionEndpoint, firehose: Firehose) -> None:
        self._endpoint = endpoint
        self._firehose = firehose

    @property
    def methods(self) -> Methods:
        """What consumers dial."""
        return self._endpoint.methods

    async def drain(self, redial_within_s: float, at_most_s: float) -> None:
        """Ask every consumer to leave and dial again, and wait for what is under way."""
        with trio.move_on_after(at_most_s):
            await self._endpoint.drain(redial_within_s)

    def status(self) -> list[dict[str, Any]]:
        """Who follows streams of this service, for ``/status``."""
        return [
            {
                "consumer": one.consumer_id,
                "stream": one.stream_id,
                "subscription": one.subscription,
                "address": one.address,
                "position": one.position,
                "deliveries": one.deliveries,
                "acked_deliveries": one.acked_deliveries,
                "in_flight_bytes": one.in_flight_bytes,
                "filter_version": one.filter_version,
                "backfill": one.backfill_position if one.backfill_position >= 0 else None,
                "standing": one.standing,
            }
            for one in self._endpoint.streams
        ]

    def register(self, metrics: MetricsRegistry) -> None:
        """Offer the numbers to Prometheus."""
        metrics.gauge("consumers_connected", "Streams that others follow here.", lambda: len(self._endpoint.streams))
        for name, (figure, help_text) in _FIREHOSE_FIGURES.items():
            add = metrics.counter if name.endswith("_total") else metrics.gauge
            add(f"firehose_{name}", help_text, partial(self._figure, figure))

    def _figure(self, name: str) -> float:
        return float(getattr(self._firehose.report(), name))


@asynccontextmanager
async def open_firehose(journal: Journal, *, poll_s: float, summary_s: float = 60.0) -> AsyncIterator[Firehose]:
    """The one reader of the log for consumers and projections; it runs while the block does."""
    firehose = Firehose(journal, encode_batch, FirehoseSettings(poll_s=poll_s, summary_s=summary_s))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        yield firehose
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_streams(
    journal: Journal,
    firehose: Firehose,
    settings: StreamSettings,
    environment: Environment,
    on_serve: Transform | None = None,
    *,
    policy: Callable[[], Policy],
    trust: TrustKeeper,
    hello_timeout_s: float = _HELLO_TIMEOUT_S,
) -> AsyncIterator[ServedStreams]:
    """The streams, over the service's firehose. ``on_serve`` is what an application makes of events."""
    if settings.policy is None and not settings.uses_tls and "*" not in settings.readers():
        _log.warning("policy.streams_open", streams=settings.streams or ["*"])
    endpoint = SubscriptionEndpoint(
        journal,
        firehose,
        settings.catalogue().transformed_by(on_serve),
        SourceSettings(
            settings.stream_limits,
            hello_timeout_s=hello_timeout_s,
            heartbeat_s=settings.heartbeat_s,
            progress_timeout_s=settings.progress_timeout_s,
            require_identity=settings.uses_tls,
            policy=policy,
            trust=trust,
        ),
        environment.now_us,
    )
    trust.watch(endpoint.live_peers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.run)
        yield ServedStreams(endpoint, firehose)
        nursery.cancel_scope.cancel()
