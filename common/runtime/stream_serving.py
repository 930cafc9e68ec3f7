"""Streams as a service serves them: the firehose over its journal, and the endpoint that consumers dial."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.interface import Journal
from common.runtime.outside import Outside
from common.runtime.stream_settings import StreamSettings
from common.transport.codec import encode_batch
from common.transport.stream_catalogue import Transform
from common.transport.subscription_endpoint import SourceSettings, SubscriptionEndpoint

_HELLO_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_streams(
    journal: Journal, settings: StreamSettings, outside: Outside, on_serve: Transform | None = None
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
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        yield endpoint
        nursery.cancel_scope.cancel()


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
