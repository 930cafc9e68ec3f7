"""Streams as a service serves them: the firehose over its journal, and the endpoint that consumers dial."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from common.firehose.firehose import Firehose, FirehoseReport
from common.firehose.settings import FirehoseSettings
from common.journal.interface import Journal
from common.runtime.metrics import Registry
from common.runtime.outside import Outside
from common.runtime.stream_settings import StreamSettings
from common.transport.codec import encode_batch
from common.transport.stream_catalogue import Transform
from common.transport.subscription_endpoint import SourceSettings, SubscriptionEndpoint

_HELLO_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_streams(
    journal: Journal,
    settings: StreamSettings,
    outside: Outside,
    on_serve: Transform | None = None,
    metrics: Registry | None = None,
) -> AsyncIterator[SubscriptionEndpoint]:
    """The endpoint, over a firehose that runs while the block does. ``on_serve`` is what an application makes of events."""
    firehose = Firehose(
        journal,
        encode_batch,
        FirehoseSettings(poll_s=settings.poll_interval_s, summary_s=settings.summary_interval_s),
    )
    endpoint = SubscriptionEndpoint(
        journal,
        firehose,
        settings.catalogue().transformed_by(on_serve),
        SourceSettings(
            settings.stream_limits,
            hello_timeout_s=_HELLO_TIMEOUT_S,
            heartbeat_s=settings.heartbeat_s,
            progress_timeout_s=settings.progress_timeout_s,
            require_identity=settings.uses_tls,
        ),
        outside.now_us,
    )
    if metrics is not None:
        _register(metrics, firehose)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        yield endpoint
        nursery.cancel_scope.cancel()


def _register(metrics: Registry, firehose: Firehose) -> None:
    def gauge(name: str, help_text: str, read: Callable[[FirehoseReport], int]) -> None:
        metrics.gauge(f"firehose_{name}", help_text, lambda: read(firehose.report()))

    gauge("subscribers", "Consumers that follow the log.", lambda now: now.subscribers)
    gauge("members", "Consumers served from memory.", lambda now: now.members)
    gauge("waiting", "Consumers that wait for a page of the journal.", lambda now: now.waiting)
    gauge("ring_lag_events", "Events known to be in the log and not in memory yet.", lambda now: now.ring_lag)
    gauge("ring_events", "Events in memory.", lambda now: now.ring_events)
    gauge("ring_bytes", "Bytes in memory.", lambda now: now.ring_bytes)
    gauge("reads", "Pages the one reader took from the journal since start.", lambda now: now.reads)
    gauge("fed_events", "Events that came from commits of this node since start.", lambda now: now.fed_events)
    gauge("catch_up_reads", "Pages read for consumers behind the ring since start.", lambda now: now.catch_up_reads)
    gauge("catch_up_events", "Events in those pages.", lambda now: now.catch_up_events)
    gauge("shared_pages", "Pages that another consumer had read already.", lambda now: now.shared_pages)
    gauge("evaluations", "Filters asked about an event since start.", lambda now: now.evaluations)
    gauge("demotions", "Consumers that fell behind the ring since start.", lambda now: now.demotions)


def consumers_status(endpoint: SubscriptionEndpoint) -> list[dict[str, Any]]:
    """Who follows streams of this node, for ``/status``."""
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
        for one in endpoint.streams
    ]
