"""Snapshots that stand in for events of one push stream: what the journal has of them, page by page.

Where they do, and what becomes of a page, is decided by ``core.push.stand_ins``. Used by the sending task alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from itertools import repeat

import structlog

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.filters.predicates import EntityPredicate
from common.core.journal.history import Offset
from common.core.journal.snapshot import Snapshot
from common.core.push.filter_transition import FilterTransition
from common.core.push.stand_ins import (
    PushPage,
    Standing,
    StatedReplaced,
    Stretch,
    fitting_through,
    is_far_behind,
    may_stand_in,
    place_of,
    replaced_page,
    standing_of,
)
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogStore

_log = structlog.get_logger()

_ANYWHERE = 2**62
# Positions looked at for one page, where snapshots stand in for all that they have.
_LOOK_MAX = 20_000
# Of the stretch: see ``Stretch``. Kept before anything is sent by it.
_ALL_TO, _LOST_AFTER, _LOST_TO = "push snapshots to", "push lost after", "push lost to"


async def load_stretch(log: LogStore) -> Stretch:
    """The stretch that the edge keeps beside its log, also when the live lane has passed it."""
    places = [await log.load_cursor(name) for name in (_ALL_TO, _LOST_AFTER, _LOST_TO)]
    return Stretch(*(place.position if place else 0 for place in places))


class StandIns:
    """Which snapshots stand in on one stream."""

    def __init__(
        self, journal: Journal, told: StatedReplaced, *, if_behind: int, max_events: int, max_bytes: int
    ) -> None:
        """With more than ``if_behind`` positions ahead the stream begins with snapshots; 0 = never. The rest bounds a page."""
        self._journal = journal
        self._told = told
        self._if_behind = if_behind
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._stretch = Stretch()
        self._span = max_events

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

    async def read(self, after: int, room_bytes: int, lanes: FilterTransition) -> PushPage:
        """The page behind ``after``, which is in the stretch: events of the log weigh at most ``room_bytes``, but one.

        The log is read only where it has events for which none stands in; of the others a page takes more.
        """
        log = self._journal.log
        while True:
            looked = through = min(after + self._span, log.history.head_position)
            trims = log.trims
            standing = await self._look(after, through, lanes.predicate)
            if standing is None:
                continue
            events = None
            has_holes = standing.events < through - after
            if standing.kept_at and standing.kept_at - after <= self._max_events:
                page = await log.read(
                    after,
                    through=through,
                    max_events=self._max_events,
                    max_bytes=room_bytes,
                    selection=lanes.selection,
                )
                if trims is None or trims != log.trims:
                    # Of what is gone since, a snapshot may lie below: events come first, then what stands in for some.
                    return await self.over(PushPage(page.events, page.through), after, lanes.predicate)
                events, through = page.events, page.through
                has_holes = len(events) < through - after
            elif standing.kept_at:
                through = standing.kept_at - 1
            made = await self._made(events, after, through, standing, room_bytes, has_holes=has_holes)
            if made is not None:
                is_bare = made.through == looked and len(made.events) < self._max_events // 2
                self._span = min(2 * self._span, _LOOK_MAX) if is_bare else max(self._max_events, made.through - after)
                return made

    async def over(self, page: PushPage, after: int, predicate: EntityPredicate) -> PushPage:
        """A page behind ``after`` that was read of the log, with what stands in."""
        made = None
        while made is None:
            standing = await self._look(after, page.through, predicate)
            if standing is not None:
                has_holes = len(page.events) < page.through - after
                made = await self._made(
                    page.events, after, page.through, standing, self._max_bytes, has_holes=has_holes
                )
        return made

    async def of_lost(self, lost: Mapping[str, int], predicate: EntityPredicate) -> dict[str, int]:
        """Of entities that have lost their events up to these numbers, those for which a snapshot stands in, and its number."""
        asked, found = list(lost), dict[str, int]()
        for first in range(0, len(asked), self._max_events):
            part = asked[first : first + self._max_events]
            if predicate.is_everything:
                names, seq_nr, position = await self._journal.snapshots.numbers(part)
            else:
                sized = [one for one, _ in await self._journal.snapshots.sized(part)]
                may = await self._permission([one.persistence_id for one in sized], predicate)
                permitted = list(filter(may, sized))
                names = [one.persistence_id for one in permitted]
                seq_nr = [one.seq_nr for one in permitted]
                position = [one.position for one in permitted]
            places = map(place_of, seq_nr, position, map(lost.__getitem__, names), repeat(_ANYWHERE))
            found.update((name, number) for name, number, place in zip(names, seq_nr, places, strict=True) if place)
        return found

    async def _look(self, after: int, through: int, predicate: EntityPredicate) -> Standing | None:
        """What stands in beside a stretch of the log; None where a snapshot was taken or deleted meanwhile."""
        beside = await self._journal.snapshots.beside(
            after, through, lost_after=None if self._stretch.takes_all(after) else self._stretch.lost_after
        )
        if predicate.is_everything:
            return standing_of(beside)
        found = {one.persistence_id: one for one, _ in await self._journal.snapshots.sized(beside.persistence_id)}
        numbers = zip(beside.persistence_id, beside.seq_nr, strict=True)
        if any(name not in found or found[name].seq_nr != seq_nr for name, seq_nr in numbers):
            return None
        may = await self._permission(beside.persistence_id, predicate)
        return standing_of(beside, lambda name: may(found[name]))

    async def _permission(self, names: Collection[str], predicate: EntityPredicate) -> Callable[[Snapshot], bool]:
        """Which of these entities' snapshots may stand in."""
        sets = await self._journal.log.tag_sets(names) if names and predicate.permits_by_tags else {}
        return lambda one: may_stand_in(one, predicate, sets.get(one.persistence_id))

    async def _made(
        self,
        events: EventBatch | None,
        after: int,
        through: int,
        standing: Standing,
        max_bytes: int,
        *,
        has_holes: bool,
    ) -> PushPage | None:
        """None where a snapshot was taken or deleted meanwhile."""
        news = self._told.news(standing, through)
        through = fitting_through(standing, news, after, through, max_rows=self._max_events, max_bytes=max_bytes)
        await self._reach(standing.furthest(through), after, through)
        snapshots, folds = EventBatch(), list[bool]()
        if here := standing.here(after, through):
            names = [standing.persistence_id[index] for index in here]
            snapshots, says_last = await self._journal.snapshots.batch(names)
            if snapshots.persistence_id != names or snapshots.seq_nr != [standing.seq_nr[index] for index in here]:
                return None
            snapshots.position = [standing.position[index] for index in here]
            asked = [name for name, says in zip(names, says_last, strict=True) if not says]
            sets = await self._journal.log.tag_sets(asked) if asked else {}
            rows = zip(names, snapshots.tags, says_last, strict=True)
            folds = [not says and sets.get(name) != frozenset({tags}) for name, tags, says in rows]
        if events and events.position[-1] > through:
            events = events.slice(0, bisect_right(events.position, through))
        return replaced_page(events, through, standing, news, snapshots, folds, has_holes=has_holes)

    async def _reach(self, furthest: int, after: int, through: int) -> None:
        """The stretch ends behind every snapshot for which numbers of the page are set aside."""
        if furthest > through:
            head = self._journal.log.history.head_position
            await self._keep(self._stretch.reaching(furthest, after, max(head, furthest)))

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
