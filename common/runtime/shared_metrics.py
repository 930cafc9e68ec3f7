"""Metrics that edges and cloud nodes have alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

from common.core.flow.measures import LatencyHistogram
from common.core.journal.url import JournalUrl
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.journal.stores.log import READ_KINDS
from common.projection.progress import ProjectionProgress, ProjectionState
from common.projection.status import ProjectionStatus
from common.runtime.app.running import RunningApplication
from common.runtime.disk_space import volume_free_bytes
from common.runtime.http.app import HttpApp
from common.runtime.metrics import MetricsRegistry


def register_journal(metrics: MetricsRegistry, journal: Journal, commit: GroupCommit) -> None:
    """The log and its one writer."""
    metrics.gauge("journal_head_position", "Last position.", lambda: journal.log.history.head_position)
    metrics.counter("journal_commits_total", "Commits of this process.", lambda: commit.commits)
    metrics.counter("journal_appended_events_total", "Events this process has stored.", lambda: commit.events)
    metrics.histogram("journal_commit_seconds", "Time of a commit.", lambda: commit.latency)
    metrics.gauge("journal_queued_requests", "Appends that wait for the next commit.", lambda: commit.queued)
    metrics.gauge("journal_group_events", "Events of a commit, smoothed.", lambda: commit.moderation.group_events)
    metrics.gauge(
        "journal_moderation_seconds",
        "Least time between the beginnings of two commits, as of the last.",
        lambda: commit.moderation.spacing_s,
    )
    metrics.counters(
        "journal_reads_total",
        "Reads of the log.",
        "kind",
        lambda: {kind: journal.log.read_counts[kind] for kind in READ_KINDS},
    )


def register_running(metrics: MetricsRegistry, running: RunningApplication, url: JournalUrl) -> None:
    """Projections as this process runs them, commands, and the volume."""
    if url.is_file:
        metrics.gauge("volume_free_bytes", "Room on the journal's volume.", lambda: volume_free_bytes(url))
    metrics.histogram("command_seconds", "Time of a command to an entity.", lambda: running.entities.latency)
    metrics.counter("command_conflicts_total", "Decisions made again.", lambda: running.entities.conflicts)
    shown = running.progress

    def summed(read: Callable[[ProjectionProgress], float]) -> Callable[[], dict[str, float]]:
        return lambda: {name: sum(map(read, ranges)) for name, ranges in _by_name(shown).items()}

    for name, help_text, read in (
        ("projection_events_total", "Events that took effect.", lambda one: one.events),
        ("projection_commits_total", "Commits.", lambda one: one.commits),
        ("projection_failures_total", "Faults after which a range was tried again.", lambda one: one.failures),
        ("projection_skipped_events_total", "Events left out for good.", lambda one: one.skipped),
    ):
        metrics.counters(name, f"{help_text} By this process.", "projection", summed(read))
    metrics.gauges(
        "projection_failing_ranges",
        "Ranges of this process that fail now.",
        "projection",
        summed(lambda one: one.state is ProjectionState.FAILING),
    )
    metrics.histograms(
        "projection_commit_seconds",
        "Time of a projection's commit.",
        "projection",
        lambda: {
            name: reduce(LatencyHistogram.plus, (one.commit_latency for one in ranges), LatencyHistogram())
            for name, ranges in _by_name(shown).items()
        },
    )


def register_lags(metrics: MetricsRegistry, statuses: Callable[[], Sequence[ProjectionStatus]]) -> None:
    """The lags of all projections, on whatever node they run, as of the last refresh: those of the slowest range."""

    def slowest(read: Callable[[ProjectionStatus], float]) -> Callable[[], Mapping[str, float]]:
        def found() -> dict[str, float]:
            lags: dict[str, float] = {}
            for one in statuses():
                lags[one.row.name] = max(lags.get(one.row.name, 0), read(one))
            return lags

        return found

    for name, help_text, read in (
        ("projection_lag_events", "Positions behind the log, of the slowest range.", lambda one: one.lag.events),
        ("projection_lag_seconds", "Age of the oldest event that waits.", lambda one: one.lag.seconds),
        ("projection_paused", "1 while an operator or a failing event has paused it.", lambda one: one.row.paused),
    ):
        metrics.gauges(name, help_text, "projection", slowest(read))


def register_http(metrics: MetricsRegistry, app: HttpApp) -> None:
    """Requests that were refused."""
    metrics.counters("http_refusals_total", "Requests answered with an error.", "code", app.refusals.read)


def _by_name(shown: Iterable[ProjectionProgress]) -> dict[str, list[ProjectionProgress]]:
    found: dict[str, list[ProjectionProgress]] = {}
    for one in shown:
        found.setdefault(one.name, []).append(one)
    return found
