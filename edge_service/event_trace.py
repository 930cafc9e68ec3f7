"""How far one event of the edge has come on its way up, and what withholds it, for ``where``."""

from __future__ import annotations

from collections.abc import Callable

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.transformations import Transformed
from common.core.filters.past import Past
from common.core.push.fate import Fate, fate_of
from common.journal.entity_history import TO_THE_LAST
from common.journal.stores.journal import Journal
from common.transport.push.link_state import LinkState
from common.transport.push.stand_ins import load_stretch

_PAGE_EVENTS = 200
# A question about one event looks through so many pages of its entity.
_PAGES_MAX = 50


class EventTrace:
    """Called with a position; answers `sent`, `acked` and, where it is withheld, `withheld`.

    An acknowledged position says that the cloud needs nothing more up to there. What is withheld below it was neither sent
    nor acknowledged, unless its entity has come into the filter since and brought it as part of its past: `past_of` is the
    number with which it came in. Where a snapshot stood for it, `replaced_by` is that one's number, as far as it is known now.
    Nothing is known (null) before this process has had a link; nor, beside `replaced_by`, of an event where snapshots stand in;
    nor, beside `withheld`, of one from before the last change of filters: one of before the last two may have sent it.
    """

    def __init__(self, journal: Journal, link: LinkState, on_push: Callable[[EventBatch], Transformed] | None) -> None:
        self._log = journal.log
        self._snapshots = journal.snapshots
        self._link = link
        self._on_push = on_push

    async def __call__(self, position: int) -> dict[str, object]:
        """The members that `GET /v1/where` adds at an edge."""
        link = self._link
        if not link.acked_is_known:
            return {"sent": None, "acked": None}
        page = await self._log.read(position - 1, through=position, max_events=1, max_bytes=1)
        if not page.events:
            return {"sent": position <= link.sent_position, "acked": position <= link.acked_position}
        fate = fate_of(link.filters, page.events)
        if fate is Fate.BY_REQUESTED_FILTER and (brought := await self._brought(page.events)) is not None:
            return brought
        if fate.is_withheld:
            is_known = position > link.filters.change_position
            return _withheld(fate.value, link.filters.new.version, is_known=is_known)
        if self._is_withheld_by_code(page.events):
            return _withheld("on_push", None)
        progress = self._progress(fate, position)
        if progress["sent"] and (seq_nr := await self._stood_in_for(page.events)):
            return {"sent": None, "acked": None, "replaced_by": seq_nr}
        return progress

    async def _stood_in_for(self, event: EventBatch) -> int:
        """The number of the snapshot that may have gone in an event's place where snapshots stand in; 0 = none.

        It may have been taken after the event itself had gone, or the stretch have begun behind it: only the cloud knows.
        """
        stretch, name, position = await load_stretch(self._log), event.persistence_id[0], event.position[0]
        is_inside = position <= stretch.all_to
        if not is_inside and position <= stretch.lost_to:
            is_inside = bool(await self._log.deleted_of([name]))
        snapshot = await self._snapshots.get(name) if is_inside else None
        return snapshot.seq_nr if snapshot is not None and snapshot.seq_nr > event.seq_nr[0] else 0

    def _progress(self, fate: Fate, position: int) -> dict[str, object]:
        link = self._link
        sent, acked = link.sent_position, link.acked_position
        if fate is Fate.BACKFILL:
            sent = acked = link.filters.backfill_position
        return {"sent": position <= sent, "acked": position <= acked}

    async def _brought(self, event: EventBatch) -> dict[str, object] | None:
        """Of an event that is withheld by itself: whether it went up before one with which its entity came in."""
        link, name, seq_nr = self._link, event.persistence_id[0], event.seq_nr[0]
        lanes = link.lanes
        if lanes is None or lanes.past is Past.NONE or seq_nr < lanes.predicate.from_seq_nr(name):
            return None
        if self._is_withheld_by_code(event):
            return None
        entry = await self._entry_behind(name, seq_nr)
        if entry is None:
            return None
        progress = self._progress(*entry[1:])
        if not progress["sent"]:
            return None
        number = entry[0]
        if lanes.past is Past.SNAPSHOT:
            for snapshot in await self._snapshots.kept(name):
                if seq_nr <= snapshot.seq_nr < number:
                    return {"sent": False, "acked": False, "past_of": number, "replaced_by": snapshot.seq_nr}
        return {**progress, "past_of": number}

    async def _entry_behind(self, name: str, seq_nr: int) -> tuple[int, Fate, int] | None:
        """Number, fate and position of the next event that is sent for its own sake; None where none is found."""
        first = seq_nr + 1
        for _ in range(_PAGES_MAX):
            events = await self._log.read_entity(name, first, TO_THE_LAST, max_events=_PAGE_EVENTS)
            for index in range(len(events)):
                fate = fate_of(self._link.filters, events.slice(index, index + 1))
                if not fate.is_withheld:
                    return events.seq_nr[index], fate, events.position[index]
            if len(events) < _PAGE_EVENTS:
                break
            first = events.seq_nr[-1] + 1
        return None

    def _is_withheld_by_code(self, event: EventBatch) -> bool:
        if self._on_push is None:
            return False
        try:
            return not self._on_push(event).events
        except BackhaulError:  # the link says so, and has not come past it
            return False


def _withheld(by: str, version: int | None, *, is_known: bool = True) -> dict[str, object]:
    more = {} if version is None else {"filter_version": version}
    went = False if is_known else None
    return {"sent": went, "acked": went, "withheld": {"by": by, **more}}
