"""How far one event of the edge has come on its way up, and what withholds it, for ``where``."""

from __future__ import annotations

from collections.abc import Callable

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.transformations import Transformed
from common.core.push.fate import Fate, fate_of
from common.journal.stores.log import LogStore
from common.transport.push.producer import LinkState


class EventTrace:
    """Called with a position; answers `sent`, `acked` and, where it is withheld, `withheld`.

    An acknowledged position says that the cloud needs nothing more up to there. What is withheld below it was neither sent
    nor acknowledged. Nothing is known (null) before this process has had a link.
    """

    def __init__(self, log: LogStore, link: LinkState, on_push: Callable[[EventBatch], Transformed] | None) -> None:
        self._log = log
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
        if fate.is_withheld:
            return _withheld(fate.value, link.filters.new.version)
        if self._is_withheld_by_code(page.events):
            return _withheld("on_push", None)
        sent, acked = link.sent_position, link.acked_position
        if fate is Fate.BACKFILL:
            sent = acked = link.filters.backfill_position
        return {"sent": position <= sent, "acked": position <= acked}

    def _is_withheld_by_code(self, event: EventBatch) -> bool:
        if self._on_push is None:
            return False
        try:
            return not self._on_push(event).events
        except BackhaulError:  # the link says so, and has not come past it
            return False


def _withheld(by: str, version: int | None) -> dict[str, object]:
    more = {} if version is None else {"filter_version": version}
    return {"sent": False, "acked": False, "withheld": {"by": by, **more}}
