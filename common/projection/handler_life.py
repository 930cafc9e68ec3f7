"""The time during which a process gives a handler events: ``start`` before the first of them, ``stop`` behind the last.

Ranges of one projection share it: the first that runs on this node starts the handler, the last that ends stops it. A range that
fails ends and begins again, so what a failure has broken (a connection, a file) is closed and opened anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from common.core.errors import BackhaulError
from common.projection.handler_executor import call_async
from common.projection.handlers import Handler
from common.watchdog import Watchdog

_log = structlog.get_logger()

# Of the seconds in which a service drains.
_STOP_DEADLINE_S: Final = 2.0


class HandlerLife:
    """One handler in this process; ``open`` is entered by each of its ranges."""

    def __init__(self, handler: Handler, watchdog: Watchdog) -> None:
        self._handler = handler
        self._watchdog = watchdog
        self._lock = trio.Lock()
        self._users = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Started while the block runs.

        Raises:
            BackhaulError: ``projection.handler_failed``, ``projection.handler_timeout`` of ``start``; what ``stop`` raises
                is logged.
        """
        if self._handler.start is None and self._handler.stop is None:
            yield
            return
        async with self._lock:
            if not self._users and self._handler.start is not None:
                await call_async(self._handler.start, self._handler.deadline_s, self._handler.start, self._watchdog)
            self._users += 1
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                async with self._lock:
                    self._users -= 1
                    if not self._users:
                        await self._stop()

    async def _stop(self) -> None:
        stop, deadline_s = self._handler.stop, min(self._handler.deadline_s, _STOP_DEADLINE_S)
        if stop is None:
            return
        try:
            await call_async(stop, deadline_s, stop, self._watchdog)
        except BackhaulError as error:
            _log.warning("projection.stop_failed", projection=self._handler.name, code=error.code, reason=error.message)
