"""Can the journal be read? Asked now and then, so that readiness tells the present and not the last request's luck."""

from __future__ import annotations

import structlog
import trio

from common.core.errors import BackhaulError
from common.journal.stores.journal import Journal

_log = structlog.get_logger()

_INTERVAL_S = 2.0


class JournalWatch:
    """``reason`` says why the journal cannot be read, or is None."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.reason: str | None = None

    async def run(self) -> None:
        """Look every two seconds, until cancelled; what changes is logged."""
        while True:
            try:
                await self._journal.log.stats()
            except BackhaulError as error:
                self.reason = error.message
                _log.warning("journal.unreadable", code=error.code, reason=error.message, repeat_key=error.code)
            else:
                if self.reason is not None:
                    _log.info("journal.readable")
                self.reason = None
            await trio.sleep(_INTERVAL_S)
