"""How a cloud node is: one snapshot for ``/status``, the summary lines and the metrics, so that the three never differ."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from heapq import nlargest, nsmallest
from typing import Any

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.members.member import node_of
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats
from common.projection.status import ProjectionStatus, projection_status
from common.runtime.clock import warn_if_ahead
from common.runtime.http.projections import failure_as_json
from common.runtime.last_known import journal_status
from common.runtime.metrics import MetricsRegistry
from common.runtime.shared_metrics import register_journal, register_lags
from common.transport.push.endpoint import PushEndpoint
from common.transport.push.endpoint_stream import OriginStream

_log = structlog.get_logger()


class CloudReport:
    """Collects; ``refresh`` reads the journal, the rest shows what it found.

    ``count_losses`` is called before each summary: it is too much work for every question of ``/status``, and one node does it.
    """

    def __init__(
        self,
        journal: Journal,
        commit: GroupCommit,
        endpoint: PushEndpoint,
        *,
        node: str,
        version: str,
        now_us: Callable[[], int],
        metrics_edges: int,
        count_losses: Callable[[], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._commit = commit
        self._endpoint = endpoint
        self._node = node
        self._version = version
        self._now_us = now_us
        self._stats: JournalStats | None = None
        self._metrics_edges = metrics_edges
        self._count_losses = count_losses
        self._projections: list[ProjectionStatus] = []

    async def refresh(self) -> None:
        """Read the journal's head and sizes and every projection's lag."""
        self._stats = stats = await self._journal.log.stats()
        warn_if_ahead(stats.head_timestamp_us, self._now_us())
        self._projections = await projection_status(self._journal, self._now_us)

    def status(self) -> dict[str, Any]:
        """What ``/status`` shows; times in seconds, sizes in bytes, positions in this journal unless named otherwise.

        Numbers of the journal are those of the last refresh, and missing before the first one.
        """
        return {
            "service": "cloud",
            "node": self._node,
            "version": self._version,
            "journal": journal_status(self._journal.log.history, self._stats)
            | ({"parked": self._stats.parked} if self._stats else {})
            | {"queued": self._commit.queued},
            "projections": [
                {
                    "name": status.row.name,
                    "slices": str(status.row.slices),
                    "position": status.row.position,
                    "epoch": status.row.epoch,
                    "owner": status.row.owner,
                    "node": node_of(status.row.owner),
                    "paused": status.row.paused,
                    "lag_events": status.lag.events,
                    "lag_s": round(status.lag.seconds, 3),
                }
                | failure_as_json(status.row.failing)
                for status in self._projections
            ],
            "edges": [
                {
                    "id": stream.origin_id,
                    "address": stream.address,
                    "session": stream.session,
                    "for_s": round((self._now_us() - stream.since_us) / 1e6, 3),
                    "resume": stream.resume,
                    "edge_head": stream.head_position,
                    "received": stream.received_position,
                    "stored": stream.stored_position,
                    "lag_events": max(0, stream.head_position - stream.stored_position),
                    "parked": stream.parked,
                    "filter_version": stream.filter_version,
                    "backfill_left": stream.backfill_left,
                    "clock_skew_s": round(stream.clock_skew_s, 3),
                }
                for stream in self._endpoint.streams
            ],
        }

    async def summarise(self, interval_s: float) -> None:
        """Log ``node.summary`` until cancelled."""
        events, commits = self._commit.events, self._commit.commits
        while True:
            await trio.sleep(interval_s)
            try:
                await self.refresh()
            except BackhaulError:
                continue  # the journal's watch reports it
            with suppress(
                BackhaulError
            ):  # the metric keeps its last numbers; a count may take longer than a statement may
                await self._count_losses()
            stats = self._stats
            assert stats
            _log.info(
                "node.summary",
                edges=len(self._endpoint.streams),
                head=stats.head_position,
                used_bytes=stats.used_bytes,
                parked=stats.parked,
                events_per_s=round((self._commit.events - events) / interval_s, 1),
                commits_per_s=round((self._commit.commits - commits) / interval_s, 1),
                queued=self._commit.queued,
                lag_events=max((one.lag.events for one in self._projections), default=0),
                lag_s=round(max((one.lag.seconds for one in self._projections), default=0.0), 3),
            )
            events, commits = self._commit.events, self._commit.commits

    def register(self, metrics: MetricsRegistry) -> None:
        """Offer the numbers to Prometheus; those of journal and projections are as of the last refresh."""
        endpoint = self._endpoint
        metrics.build(self._version)
        metrics.gauge("edges_connected", "Edges connected to this node.", lambda: len(endpoint.streams))
        metrics.gauge(
            "edges_lag_events",
            "Events that connected edges said they have and that are not stored.",
            lambda: sum(map(_lag, endpoint.streams)),
        )
        metrics.counters("edge_ends_total", "Streams of edges that ended.", "code", endpoint.ends.read)
        for name, help_text, read in (
            ("edge_lag_events", "Events not stored yet, of the connected edges that are furthest behind.", _lag),
            ("edge_lag_bytes", "Bytes of these events, as the edge estimates them.", _lag_bytes),
            ("edge_lag_seconds", "Age of the oldest of these events, as the edge says.", _lag_s),
            ("edge_clock_skew_seconds", "Their clock minus ours, of the same edges.", _skew),
        ):
            metrics.gauges(name, help_text, "edge", partial(self._furthest_behind, read))
        metrics.gauges(
            "edge_certificate_days",
            "Days until certificates of connected edges run out, those that do first.",
            "edge",
            self._soonest_certificates,
        )
        metrics.gauge(
            "journal_deleted_through",
            "Highest position that retention removed.",
            lambda: self._stats.deleted_through if self._stats else 0,
        )
        metrics.gauge("journal_used_bytes", "Bytes in use.", lambda: self._stats.used_bytes if self._stats else 0)
        metrics.gauge("journal_parked_events", "Parked events.", lambda: self._stats.parked if self._stats else 0)
        metrics.counters("parked_events_total", "Events this node has set aside.", "code", endpoint.parked.read)
        register_journal(metrics, self._journal, self._commit)
        register_lags(metrics, lambda: self._projections)

    def _furthest_behind(self, read: Callable[[OriginStream], float]) -> dict[str, float]:
        """At most `metrics_edges`; an edge that has caught up, or is gone, leaves the list."""
        behind = nlargest(self._metrics_edges, self._endpoint.streams, key=_lag)
        return {stream.origin_id: read(stream) for stream in behind if _lag(stream)}

    def _soonest_certificates(self) -> dict[str, float]:
        """At most `metrics_edges`, of edges that say when theirs runs out."""
        ends = {one.origin_id: one.health.certificate_expires_us for one in self._endpoint.streams if one.health}
        soonest = nsmallest(self._metrics_edges, ((us, name) for name, us in ends.items() if us))
        return {name: (us - self._now_us()) / 86_400e6 for us, name in soonest}


def _lag_bytes(stream: OriginStream) -> float:
    return stream.health.lag_bytes if stream.health else 0


def _lag_s(stream: OriginStream) -> float:
    return stream.health.lag_us / 1e6 if stream.health else 0.0


def _lag(stream: OriginStream) -> int:
    return max(0, stream.head_position - stream.stored_position)


def _skew(stream: OriginStream) -> float:
    return stream.clock_skew_s
