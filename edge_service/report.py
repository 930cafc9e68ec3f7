"""How the edge is: one snapshot for ``/status``, the summary lines and the metrics, so that the three never differ.

Lag is read from positions and stored times, never counted up and down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.flow.messages import EdgeHealth
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats
from common.projection.status import ProjectionStatus, projection_status
from common.runtime.clock import warn_if_ahead
from common.runtime.http.projections import projection_as_json
from common.runtime.last_known import journal_status
from common.runtime.metrics import MetricsRegistry
from common.runtime.shared_metrics import register_journal, register_lags
from common.transport.push.link_state import LinkState
from edge_service.retention import EdgeRetention

_log = structlog.get_logger()

_LINK_STATES = ("offline", "dialling", "connected")
_WEIGHED_EVENTS = 1_000


class EdgeReport:
    """Collects; ``refresh`` reads the journal, the rest shows what it found."""

    def __init__(
        self,
        journal: Journal,
        commit: GroupCommit,
        link: LinkState,
        retention: EdgeRetention,
        *,
        edge_id: str,
        version: str,
        cap_bytes: int | None,
        volume_free: Callable[[], int | None],
        certificate_expires_us: Callable[[], int],
        now_us: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._commit = commit
        self._link = link
        self._retention = retention
        self._edge_id = edge_id
        self._version = version
        self._cap_bytes = cap_bytes
        self._volume_free = volume_free
        self._certificate_expires_us = certificate_expires_us
        self._now_us = now_us
        self._stats: JournalStats | None = None
        self._lag_s = 0.0
        self._lag_bytes = 0
        self._projections: list[ProjectionStatus] = []

    async def refresh(self) -> None:
        """Read the journal's sizes, and age and weight of the events that the cloud does not have."""
        self._stats = stats = await self._journal.log.stats()
        warn_if_ahead(stats.head_timestamp_us, self._now_us())
        acked = self._link.acked_position
        page = await self._journal.log.read(acked, max_events=1, max_bytes=1)
        waiting = page.events.stored_us
        self._lag_s = max(0.0, (self._now_us() - waiting[0]) / 1e6) if waiting else 0.0
        # The oldest stand for all: weighing a month's events would take longer than sending some.
        after = page.events.position[0] - 1 if waiting else stats.head_position  # what is deleted weighs nothing
        events = max(0, stats.head_position - after)
        weighed = min(events, _WEIGHED_EVENTS)
        self._lag_bytes = (
            await self._journal.log.event_bytes(after, after + weighed) * events // weighed if weighed else 0
        )
        self._projections = await projection_status(self._journal, self._now_us)

    def status(self) -> dict[str, Any]:
        """What ``/status`` shows; times in seconds, sizes in bytes, positions in this journal.

        Numbers of the journal are those of the last refresh, and missing before the first one.
        """
        stats, link = self._stats, self._link
        return {
            "service": "edge",
            "id": self._edge_id,
            "version": self._version,
            "journal": journal_status(self._journal.log.history, stats)
            | ({"wal_bytes": stats.wal_bytes} if stats else {})
            | {
                "cap_bytes": self._cap_bytes,
                "trimmed": self._retention.trimmed,
                "dropped": self._retention.dropped,
            },
            "link": {
                "state": link.state,
                "for_s": round((self._now_us() - link.since_us) / 1e6, 3) if link.since_us else 0.0,
                "session": link.session,
                "sent": link.sent_position,
                "acked": link.acked_position,
                "in_flight_bytes": link.in_flight_bytes,
                "window_bytes": link.window_bytes,
                "ack_age_s": round(link.ack_age_s, 6),
                "clock_skew_s": round(link.clock_skew_s, 3),
                "connects": link.connects,
                "parked": link.parked,
                "withheld": link.withheld,
                "filter_version": link.filter_version,
                "backfill_left": link.backfill_left,
                "last_code": link.last_code,
                "last_reason": link.last_reason,
                "last_hint": link.last_hint,
            },
            "lag": self._lag(),
            "projections": [projection_as_json(one) for one in self._projections],
        }

    def _lag(self) -> dict[str, Any]:
        head = self._stats.head_position if self._stats else self._head()
        events = max(0, head - self._link.acked_position)
        return {"events": events, "seconds": round(self._lag_s, 3), "bytes_estimated": self._lag_bytes}

    @property
    def _lags(self) -> bool:
        """Whether the cloud lacks something now; age and weight of it are as of the last refresh."""
        return self._head() > self._link.acked_position

    def health(self) -> EdgeHealth:
        """The report of a heartbeat; what the journal says is as of the last refresh."""
        return EdgeHealth(
            self._head(),
            round(self._lag_s * 1e6) if self._lags else 0,
            self._lag_bytes if self._lags else 0,
            self._of("used_bytes"),
            self._cap_bytes or 0,
            self._volume_free() or 0,
            self._version,
            self._certificate_expires_us(),
        )

    async def summarise(self, interval_s: float) -> None:
        """Log ``link.summary`` and ``journal.summary`` until cancelled."""
        events, trimmed, acked = self._commit.events, self._retention.trimmed, self._link.acked_position
        while True:
            await trio.sleep(interval_s)
            try:
                await self.refresh()
            except BackhaulError:
                continue  # the journal's watch reports it
            stats, link = self._stats, self._link
            assert stats
            lag = self._lag()
            if acked == 0:  # what earlier processes sent is no rate of this one
                acked = link.resumed_position
            _log.info(
                "link.summary",
                state=link.state,
                head=stats.head_position,
                sent=link.sent_position,
                acked=link.acked_position,
                lag_events=lag["events"],
                lag_s=lag["seconds"],
                lag_bytes=lag["bytes_estimated"],
                acked_per_s=round((link.acked_position - acked) / interval_s, 1),
                connects=link.connects,
                last_code=link.last_code,
            )
            _log.info(
                "journal.summary",
                head=stats.head_position,
                first=stats.first_position,
                used_bytes=stats.used_bytes,
                wal_bytes=stats.wal_bytes,
                cap_bytes=self._cap_bytes,
                appended_per_s=round((self._commit.events - events) / interval_s, 1),
                trimmed=self._retention.trimmed - trimmed,
                queued=self._commit.queued,
            )
            events, trimmed, acked = self._commit.events, self._retention.trimmed, link.acked_position

    def register(self, metrics: MetricsRegistry) -> None:
        """Offer the numbers to Prometheus; those of the journal are as of the last refresh."""
        link, commit, retention = self._link, self._commit, self._retention
        metrics.build(self._version)
        metrics.gauges(
            "link_state",
            "1 for the state the link is in.",
            "state",
            lambda: {state: float(state == link.state) for state in _LINK_STATES},
        )
        metrics.gauge("link_acked_position", "Last position the cloud has.", lambda: link.acked_position)
        metrics.gauge("link_sent_position", "Last position sent on this link.", lambda: link.sent_position)
        metrics.gauge("link_in_flight_bytes", "Sent and not acknowledged.", lambda: link.in_flight_bytes)
        metrics.histogram("link_ack_seconds", "From sending a batch to its ack.", lambda: link.acks)
        metrics.counter("link_connects_total", "Links made.", lambda: link.connects)
        metrics.counters("link_ends_total", "Links that ended and tries that failed.", "code", link.ends.read)
        metrics.counter(
            "link_withheld_events_total", "Events that filters and on_push have kept here.", lambda: link.withheld
        )
        metrics.counter("link_parked_events_total", "Events the cloud has set aside.", lambda: link.parked)
        metrics.gauge("link_clock_skew_seconds", "Cloud clock minus own clock.", lambda: link.clock_skew_s)
        metrics.gauge(
            "link_last_progress_timestamp_seconds",
            "When the cloud last took something.",
            lambda: link.last_progress_us / 1e6,
        )
        metrics.gauge("link_lag_events", "Events the cloud does not have.", lambda: self._head() - link.acked_position)
        metrics.gauge(
            "link_lag_seconds",
            "Age of the oldest event the cloud does not have.",
            lambda: self._lag_s if self._lags else 0.0,
        )
        metrics.gauge(
            "link_lag_bytes", "Estimated bytes the cloud does not have.", lambda: self._lag_bytes if self._lags else 0
        )
        metrics.gauge("journal_used_bytes", "Bytes in use, with the write-ahead log.", lambda: self._of("used_bytes"))
        metrics.gauge("journal_wal_bytes", "Bytes of the write-ahead log.", lambda: self._of("wal_bytes"))
        if self._cap_bytes is not None:
            metrics.gauge("journal_cap_bytes", "Most bytes the journal may have.", lambda: self._cap_bytes)
        metrics.counter("journal_trimmed_events_total", "Events removed by retention.", lambda: retention.trimmed)
        metrics.counter("journal_dropped_events_total", "Events dropped at the cap.", lambda: retention.dropped)
        register_journal(metrics, self._journal, commit)
        register_lags(metrics, lambda: self._projections)

    def _head(self) -> int:
        return self._journal.log.history.head_position

    def _of(self, name: str) -> int:
        stats = self._stats or self._retention.stats
        return int(getattr(stats, name)) if stats else 0
