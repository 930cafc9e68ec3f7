"""Snapshots that stand in for events of one push stream: what the journal has of them, page by page.

Where they do, and what becomes of a page, is decided by ``core.push.stand_ins``. Used by the sending task alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog

from common.core.errors import BackhaulError
from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.filters.predicates import EntityPredicate
from common.core.journal.history import Offset
from common.core.journal.snapshot import Snapshot, folded_by
from common.core.push.stand_ins import (
    ReplacedPage,
    StandIn,
    Stretch,
    is_far_behind,
    may_stand_in,
    place_of,
    replaced_page,
)
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogStore

_log = structlog.get_logger()

_ANYWHERE = 2**62
# Of the stretch: see ``Stretch``. Kept before anything is sent by it.
_ALL_TO, _LOST_AFTER, _LOST_TO = "push snapshots to", "push lost after", "push lost to"


async def load_stretch(log: LogStore) -> Stretch:
    """The stretch that the edge keeps beside its log, also when the live lane has passed it."""
    places = [await log.load_cursor(name) for name in (_ALL_TO, _LOST_AFTER, _LOST_TO)]
    return Stretch(*(place.position if place else 0 for place in places))


class StandIns:
    """Which snapshots stand in on one stream."""

    def __init__(self, journal: Journal, *, if_behind: int, max_events: int, max_bytes: int) -> None:
        """With more than ``if_behind`` positions ahead the stream begins with snapshots; 0 = never. The rest bounds a page."""
        self._journal = journal
        self._if_behind = if_behind
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._stretch = Stretch()

    async def begin(self, position: int) -> None:
        """Go on with the stretch that was kept, or begin one if the cloud's ``position`` is far behind."""
        self._stretch = await load_stretch(self._journal.log)
        head = self._journal.log.history.head_position
        if position >= self._stretch.all_to and is_far_behind(position, head, self._if_behind):
            await self._start(self._stretch.behind(head), "behind", position)

    def are_active(self, after: int) -> bool:
        """Whether a page behind this position may have any."""
        return self._stretch.is_active(after)

    async def lost(self, after: int) -> None:
        """Events ahead of the live lane, which is at ``after``, are gone."""
        if after < self._stretch.lost_to:
            return
        await self._start(self._stretch.lost(after, self._journal.log.history.head_position), "deleted", after)

    async def _start(self, stretch: Stretch, cause: str, position: int) -> None:
        """Without a place to keep it, as on a full disk, there is none, and what is gone is stated."""
        try:
            await self._keep(stretch)
        except BackhaulError as error:
            _log.warning(
                "push.cursor_not_saved",
                code=error.code,
                reason=error.message,
                position=position,
                repeat_key=error.code,
            )
            return
        through = max(stretch.all_to, stretch.lost_to)
        _log.info("push.from_snapshots", cause=cause, position=position, through=through)

    async def page(
        self, events: EventBatch, after: int, through: int, predicate: EntityPredicate
    ) -> tuple[ReplacedPage, int]:
        """The page with what stands in, and the position to which it goes: less than ``through`` where it would be too large."""
        while True:
            deleted, through = await self._scope(events, after, through)
            standing, sizes = await self._standing(deleted, predicate)
            await self._reach(standing, after, through)
            through = self._fitting(standing, sizes, after, through)
            here = [name for name, one in standing.items() if after < one.position <= through]
            bodies = {one.persistence_id: one for one in await self._journal.snapshots.of(here)} if here else {}
            if all(name in bodies and bodies[name].seq_nr == standing[name].snapshot.seq_nr for name in here):
                break  # else one was taken or deleted meanwhile
        sets = await self._journal.log.tag_sets(here) if here else {}
        for name in here:
            one = bodies[name]
            folds = folded_by(one, sets.get(name)) != frozenset({one.tags})
            standing[name] = StandIn(one, standing[name].position, folds)
        kept = sum(position <= through for position in events.position)
        events = events if kept == len(events) else events.slice(0, kept)
        return replaced_page(events, after, through, standing), through

    async def standing(self, deleted: Mapping[str, int], predicate: EntityPredicate) -> dict[str, StandIn]:
        """Of entities that have lost their events up to these numbers, those for which a snapshot stands in; without payloads."""
        found, _ = await self._standing({name: (to, _ANYWHERE) for name, to in deleted.items()}, predicate)
        return found

    async def _scope(self, events: EventBatch, after: int, through: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Entities of a page whose snapshots may stand in, with the number and the position of their last lost event (0)."""
        log, names = self._journal.log, set(events.persistence_id)
        if self._stretch.takes_all(after):
            holes = await log.deleted_entities(after, through, max_rows=self._max_events)
            if len(holes) == self._max_events:
                through = holes[-1][1]
            lost = {stated.persistence_id: (stated.to_seq_nr, at) for stated, at in holes}
            gone = {stated.persistence_id: (stated.to_seq_nr, 0) for stated, _ in await log.deleted_of(names)}
            return dict.fromkeys(names, (0, 0)) | gone | lost, through
        rows = await log.deleted_entities(self._stretch.lost_after, _ANYWHERE, max_rows=_ANYWHERE)
        inside = [at for _, at in rows if after < at <= through]
        if len(inside) > self._max_events:
            through = inside[self._max_events - 1]
        found = {
            stated.persistence_id: (stated.to_seq_nr, at)
            for stated, at in rows
            if stated.persistence_id in names or after < at <= through
        }
        return found, through

    async def _standing(
        self, deleted: Mapping[str, tuple[int, int]], predicate: EntityPredicate
    ) -> tuple[dict[str, StandIn], dict[str, int]]:
        """Snapshots that stand in, without payloads, and how large those are."""
        placed: dict[str, tuple[Snapshot, int]] = {}
        sizes: dict[str, int] = {}
        for one, size in await self._journal.snapshots.sized(deleted):
            position = place_of(one, *deleted[one.persistence_id])
            if position:
                placed[one.persistence_id] = one, position
                sizes[one.persistence_id] = size
        sets = await self._tag_sets(placed, predicate)
        standing = {
            name: StandIn(one, position)
            for name, (one, position) in placed.items()
            if may_stand_in(one, predicate, sets.get(name))
        }
        return standing, sizes

    async def _tag_sets(
        self, names: Collection[str], predicate: EntityPredicate
    ) -> Mapping[str, frozenset[str] | None]:
        return await self._journal.log.tag_sets(names) if names and predicate.permits_by_tags else {}

    async def _reach(self, standing: Mapping[str, StandIn], after: int, through: int) -> None:
        """The stretch ends behind every snapshot for which numbers of the page are set aside."""
        furthest = max((one.position for one in standing.values()), default=0)
        if furthest > through:
            head = self._journal.log.history.head_position
            await self._keep(self._stretch.reaching(furthest, after, max(head, furthest)))

    def _fitting(self, standing: Mapping[str, StandIn], sizes: Mapping[str, int], after: int, through: int) -> int:
        left = self._max_bytes
        inside = sorted((one.position, name) for name, one in standing.items() if after < one.position <= through)
        for index, (position, name) in enumerate(inside):
            left -= sizes[name] + EVENT_OVERHEAD_BYTES
            if left < 0 and index:
                return position - 1
        return through

    async def _keep(self, stretch: Stretch) -> None:
        """Store what has changed: first where it begins, so that it is never longer than it was."""
        history = self._journal.log.history
        changes = (
            (_LOST_AFTER, stretch.lost_after, self._stretch.lost_after),
            (_LOST_TO, stretch.lost_to, self._stretch.lost_to),
            (_ALL_TO, stretch.all_to, self._stretch.all_to),
        )
        for name, position, before in changes:
            if position != before:
                offset = Offset(history.journal_id, history.generation_at(position), position)
                await self._journal.log.save_cursor(name, offset)
        self._stretch = stretch
