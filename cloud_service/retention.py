"""Keeps the cloud's journal to an age and a size: off unless set, and never above the slowest projection.

One node at a time does it, behind a lease. It goes over the log from its beginning in stretches, so that no transaction
is long and what must stay (entities that no snapshot covers yet) is not looked at again and again within a round. What a
paused or dead projection holds back is reported; ``projections forget`` lets go of a dead one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog
import trio

from cloud_service.settings import CloudSettings
from common.core.errors import BackhaulError
from common.core.journal.retention import LogSizes
from common.journal.kept_lease import KeptLease
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats, TrimLimit
from common.journal.stores.projections import ProjectionRow
from common.runtime.app.application import Application

_log = structlog.get_logger()

LEASE: Final = "retention"
_RELEASE_DEADLINE_S: Final = 2.0
_CHUNK_EVENTS: Final = 5_000
_STRETCH_POSITIONS: Final = 50_000
_KEYS_CHUNK: Final = 500
# Between two chunks others have their turn at the storage.
_BREATH_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class CloudRetentionSettings:
    """What is kept: events younger than ``age_s``, and of all as many of the newest as weigh ``max_bytes``.

    None = no limit. What is younger than ``least_age_s`` stays whatever it weighs. Entities of ``covered_types`` lose only
    what their snapshots cover.
    """

    interval_s: float
    age_s: float | None
    max_bytes: int | None
    least_age_s: float
    keep_keys_s: float
    covered_types: frozenset[str] = frozenset()
    lease_s: float = 15.0
    keeps_lease: bool = False
    """Between the rounds too: there is no other node, and to give it back and to take it again are two synced commits."""

    @classmethod
    def of(cls, settings: CloudSettings, application: Application) -> CloudRetentionSettings:
        """As a cloud's settings say, with the application beside it."""
        return cls(
            interval_s=settings.retention_interval_s,
            age_s=settings.retention_age_s,
            max_bytes=settings.retention_max_bytes,
            least_age_s=settings.retention_least_age_s,
            keep_keys_s=settings.idempotency_keep_s,
            covered_types=frozenset(application.entities) | frozenset(settings.snapshot_rule),
            lease_s=settings.lease_s,
        )

    @property
    def kept_s(self) -> tuple[float | None, ...]:
        """The ages asked for."""
        return (self.age_s, self.least_age_s if self.is_on else None, self.keep_keys_s)

    @property
    def is_on(self) -> bool:
        """Whether any event ever goes."""
        return self.age_s is not None or self.max_bytes is not None


class CloudRetention:
    """The task that removes, and what it last did and saw."""

    def __init__(self, journal: Journal, settings: CloudRetentionSettings, *, owner: str) -> None:
        self._journal = journal
        self._settings = settings
        self._sizes = LogSizes()
        self._lease = KeptLease(journal.leases, LEASE, owner, settings.lease_s)
        self.trimmed = 0
        self.held_by = ""
        """The projection because of which events stay that should go, '' when none."""

    async def run(self) -> NoReturn:
        """Until cancelled. Storage that is away for now is tried again with the next round."""
        while True:
            try:
                await self._if_ours()
            except BackhaulError as error:
                _log.warning("retention.failed", code=error.code, reason=error.message, repeat_key=error.code)
            await trio.sleep(self._settings.interval_s)

    async def _if_ours(self) -> None:
        """A round, if no other node is at it; the lease is for as long as that takes, unless it is kept."""
        if not await self._lease.is_ours():
            return
        try:
            await self.round()
        finally:
            if not self._settings.keeps_lease:
                with trio.move_on_after(_RELEASE_DEADLINE_S, shield=True), suppress(BackhaulError):
                    await self._lease.release()

    async def round(self) -> None:
        """Remove all that may go now."""
        settings, age = self._settings, await self._journal.ages.load()
        keys_through = age.older_than(settings.keep_keys_s)
        forgotten = _KEYS_CHUNK
        while forgotten == _KEYS_CHUNK:
            forgotten = await self._journal.log.forget_append_ids(keys_through, _KEYS_CHUNK)
            await trio.sleep(_BREATH_S)
        if not settings.is_on:
            return
        stats = await self._journal.log.stats()
        rows = await self._journal.projections.rows()
        slowest = min(rows, key=lambda row: row.position, default=None)
        through = stats.head_position if slowest is None else min(slowest.position, stats.head_position)
        wanted = through
        if settings.age_s is not None:
            old = min(age.older_than(max(settings.age_s, settings.least_age_s)), stats.head_position)
            await self._remove(min(through, old))
            wanted = max(wanted, old)
        if settings.max_bytes is not None:
            floor = await self._measure(stats, settings.max_bytes)
            await self._remove(min(through, floor, age.older_than(settings.least_age_s)))
            wanted = max(wanted, floor)
        self._tell_held(slowest, through, wanted)

    async def _remove(self, through: int) -> None:
        """Remove events up to ``through``, stretch by stretch."""
        after, removed_at_all = 0, 0
        while after < through and await self._lease.is_ours():
            # From where something is: a long deleted beginning is no stretch.
            page = await self._journal.log.read(after, max_events=1, max_bytes=1)
            if not page.events or page.events.position[0] > through:
                break
            first = page.events.position[0]
            end = min(through, first - 1 + _STRETCH_POSITIONS)
            limit = TrimLimit(end, _CHUNK_EVENTS, covered_types=self._settings.covered_types, after=after)
            removed = await self._journal.log.trim(limit)
            if removed:
                removed_at_all += removed
                self._sizes.changed(first - 1, end)
            if removed < _CHUNK_EVENTS:
                after = end
            await trio.sleep(_BREATH_S)
        self.trimmed += removed_at_all
        if removed_at_all:
            _log.info("retention.trimmed", events=removed_at_all, through=through)

    async def _measure(self, stats: JournalStats, max_bytes: int) -> int:
        """Position up to which events are too many."""
        for after, end in self._sizes.unmeasured(stats.first_position, stats.head_position):
            self._sizes.measured(after, await self._journal.log.event_bytes(after, end))
        return self._sizes.floor(max_bytes)

    def _tell_held(self, slowest: ProjectionRow | None, through: int, wanted: int) -> None:
        self.held_by = slowest.name if slowest is not None and wanted > through else ""
        if slowest is not None and self.held_by:
            _log.warning(
                "retention.held_back",
                projection=slowest.name,
                position=slowest.position,
                paused=slowest.paused,
                repeat_key=slowest.name,
            )

    def status(self) -> dict[str, object]:
        """For ``/status``; ``trimmed`` counts what this node removed since it started."""
        settings = self._settings
        return {
            "age_s": settings.age_s,
            "max_bytes": settings.max_bytes,
            "trimmed": self.trimmed,
            "held_by": self.held_by or None,
        }
