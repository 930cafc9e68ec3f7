"""Keeps the edge's journal small: removes what the cloud has, and makes room when the cap is near."""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.filters.past import Past
from common.core.journal.ages import EVERY_POSITION
from common.core.journal.retention import TIGHT_SHARE, deletable_through, drop_bytes, least_age_s, must_drop, room_for
from common.core.push.filter_transition import FilterTransition, PushFilterState
from common.core.push.past import OwedPasts
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats, TrimLimit
from common.runtime.app.application import Application
from common.transport.push.link_state import LinkState
from edge_service.settings import EdgeSettings

_log = structlog.get_logger()

# Events removed in one transaction, in which no append can run. With a large backlog a chunk costs about one index
# page an entity whatever its size (130 ms for 1,000 events of 1,000 entities, 140 ms for 5,000): few large ones.
_CHUNK_EVENTS = 5_000
_KEYS_CHUNK = 500
# What is looked through in a round for entities that come in; a longer backlog takes several, which delete nothing.
_LOOKED_AT_PAGES = 50
_LOOKED_AT_EVENTS = 500
_LOOKED_AT_BYTES = 1024 * 1024
# What was passed over for want of a snapshot is gone through again so often.
_WALK_ANEW_S = 60.0
_SOON_S = 0.2
_AFTER_REFUSAL_S = 0.02
_WARN_SHARES = (0.8, 0.9)
_WARN_AGAIN_BELOW = 0.05


@dataclass(frozen=True, slots=True)
class EdgeRetentionSettings:
    """Times in seconds; ``cap_bytes`` is None without a cap; ``plain_types`` may be dropped when it is reached.

    Entities of ``covered_types`` have code behind them: only what their snapshots cover may go.
    """

    interval_s: float
    keep_acked_s: float
    keep_keys_s: float
    cap_bytes: int | None
    plain_types: frozenset[str]
    covered_types: frozenset[str] = frozenset()

    @property
    def kept_s(self) -> tuple[float | None, ...]:
        """The ages asked for."""
        return (self.keep_acked_s, self.keep_keys_s)

    @classmethod
    def of(cls, settings: EdgeSettings, cap_bytes: int | None, application: Application) -> EdgeRetentionSettings:
        """As an edge's settings say, for a journal with this cap and the application beside it."""
        return cls(
            interval_s=settings.retention_interval_s,
            keep_acked_s=settings.keep_acked_s,
            keep_keys_s=settings.idempotency_keep_s,
            cap_bytes=cap_bytes,
            plain_types=frozenset(settings.plain_types if settings.on_full == "drop_oldest" else ()),
            covered_types=frozenset(application.entities) | frozenset(settings.snapshot_rule),
        )


class EdgeRetention:
    """The task that removes, and what it last saw."""

    def __init__(self, journal: Journal, link: LinkState, settings: EdgeRetentionSettings) -> None:
        self._journal = journal
        self._link = link
        self._settings = settings
        self._dropping = False
        self._refused = trio.Event()
        self._refused_bytes = 0
        """Of the largest request that had no room since events were dropped last."""
        self._warned_share = 0.0
        self._owed = OwedPasts()
        self._owed_by: tuple[FilterTransition, PushFilterState] | None = None
        self._walked = 0
        """Up to here nothing is left but what is kept for entities in ``_kept``, or was not covered by a snapshot."""
        self._kept = frozenset[str]()
        self._walked_anew_s = 0.0
        self.stats: JournalStats | None = None
        self.trimmed = 0
        self.dropped = 0

    async def run(self) -> None:
        """Until cancelled. Storage that is away for now is tried again with the next round."""
        while True:
            try:
                more = await self.round()
            except BackhaulError as error:
                _log.warning("retention.failed", code=error.code, reason=error.message, repeat_key=error.code)
                more = False
            calm_s = min(_SOON_S, self._settings.interval_s) if self._is_tight() else self._settings.interval_s
            await self._rest(0 if more else calm_s)

    def wake(self, refused_bytes: int = 0) -> None:
        """An append was refused for want of room: look now, not at the end of the interval.

        ``refused_bytes`` are those for which the cap left none.
        """
        self._refused_bytes = max(self._refused_bytes, refused_bytes)
        self._refused.set()

    async def _rest(self, calm_s: float) -> None:
        """Until the next round; a refusal cuts it short, though not below what bounds the rounds of a flood of them."""
        with trio.move_on_after(calm_s):
            await self._refused.wait()
            await trio.sleep(_AFTER_REFUSAL_S)
        self._refused = trio.Event()

    async def round(self) -> bool:
        """One chunk of each kind; True when there is more to do now."""
        settings, journal = self._settings, self._journal
        self.stats = stats = await journal.log.stats()
        self._warn(stats)
        acked = self._link.acked_position if self._link.acked_is_known else None
        through = deletable_through(acked, [row.position for row in await journal.projections.rows()])
        age = await journal.ages.load()
        keep_s = least_age_s(settings.keep_acked_s, stats.used_bytes, settings.cap_bytes)
        through = min(through, age.older_than(keep_s))
        trimmed = 0
        if through and (self._is_tight() or await self._knows_owed(stats.head_position)):
            trimmed = await self._trim(through)
        forgotten = await journal.log.forget_append_ids(age.older_than(settings.keep_keys_s), _KEYS_CHUNK)
        self.trimmed += trimmed
        if trimmed:
            _log.debug("journal.trimmed", events=trimmed, through=through)
        dropped = 0 if trimmed else await self._drop(stats)
        return bool(trimmed == _CHUNK_EVENTS or forgotten == _KEYS_CHUNK or dropped)

    async def _trim(self, through: int) -> int:
        """Remove a chunk of what is acknowledged. What is kept is not gone through again while none of it is let go."""
        kept = frozenset[str]() if self._is_tight() else self._owed.persistence_ids
        is_time = trio.current_time() - self._walked_anew_s >= _WALK_ANEW_S
        if not self._kept or not self._kept <= kept or is_time or self._walked > through:
            self._walked, self._walked_anew_s = 0, trio.current_time()
        self._kept = kept
        limit = replace(self._limit(through, "trimmed"), kept=kept, after=self._walked)
        trimmed = await self._journal.log.trim(limit)
        if trimmed < _CHUNK_EVENTS:
            self._walked = through
        return trimmed

    async def _knows_owed(self, head: int) -> bool:
        """Find the entities that come in with events not acknowledged yet; False while not all are known: nothing may go.

        Their past is sent before those events. Where room is tight it is not waited for.
        """
        link, owed = self._link, self._owed
        lanes = link.lanes
        if lanes is None or lanes.past is Past.NONE or lanes.sends_everything:
            self._owed_by = None
            return True
        if not lanes.place.is_settled:
            return False  # a backfill may bring in whatever is stored
        if self._owed_by != (lanes, lanes.place):
            self._owed_by = (lanes, lanes.place)
            owed.restart(link.acked_position)
        owed.acknowledged(link.acked_position)
        for _ in range(_LOOKED_AT_PAGES):
            if owed.is_full or owed.looked_through >= head:
                break
            page = await self._journal.log.read(
                owed.looked_through,
                max_events=_LOOKED_AT_EVENTS,
                max_bytes=_LOOKED_AT_BYTES,
                selection=lanes.selection,
            )
            events, end = page.events, None
            while not owed.is_full:  # one that leaves and comes in again in one page is owed for each time
                found = lanes.choose(events)
                end = found.end
                owed.add(found.entries, page.through if end is None else events.position[end] - 1)
                if end is None:
                    break
                events = events.slice(end, len(events))
        return not owed.is_full and owed.looked_through >= head

    def _warn(self, stats: JournalStats) -> None:
        """Once at each share of the cap, and again after it was well below."""
        cap_bytes = self._settings.cap_bytes
        share = stats.used_bytes / cap_bytes if cap_bytes else 0.0
        reached = max((one for one in _WARN_SHARES if share >= one), default=0.0)
        if reached > self._warned_share:
            _log.warning(
                "journal.filling", percent=round(share * 100), used_bytes=stats.used_bytes, cap_bytes=cap_bytes
            )
        if reached > self._warned_share or share < _WARN_SHARES[0] - _WARN_AGAIN_BELOW:
            self._warned_share = reached

    async def _drop(self, stats: JournalStats) -> int:
        """Remove the oldest plain events though nobody has them: allowed by setting only, and always stated."""
        settings, cap_bytes = self._settings, self._settings.cap_bytes
        if not cap_bytes or not settings.plain_types:
            return 0
        room, self._refused_bytes = room_for(self._refused_bytes, cap_bytes), 0
        dropping = must_drop(stats.used_bytes, cap_bytes, self._dropping) or room > 0
        if dropping != self._dropping:
            self._dropping = dropping
            if dropping:
                _log.error("journal.dropping", used_bytes=stats.used_bytes, cap_bytes=cap_bytes, repeat_key="cap")
            else:
                _log.warning(
                    "journal.dropping_ended", used_bytes=stats.used_bytes, dropped=self.dropped, repeat_key="cap"
                )
        if not dropping:
            return 0
        limit = self._limit(EVERY_POSITION, "dropped", settings.plain_types)
        most = max(room, drop_bytes(stats.used_bytes, cap_bytes))
        dropped = await self._journal.log.trim(replace(limit, max_bytes=most))
        self.dropped += dropped
        return dropped

    def _limit(self, through: int, reason: str, entity_types: frozenset[str] = frozenset()) -> TrimLimit:
        return TrimLimit(through, _CHUNK_EVENTS, reason, entity_types, self._settings.covered_types)

    def _is_tight(self) -> bool:
        cap_bytes = self._settings.cap_bytes
        return bool(cap_bytes and self.stats and self.stats.used_bytes >= cap_bytes * TIGHT_SHARE)
