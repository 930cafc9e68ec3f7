"""An answer that comes in time: read anew when asked, and as last known while the source is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from common.core.errors import BackhaulError
from common.core.journal.history import History
from common.journal.stores.log import JournalStats

ANSWER_WITHIN_S: Final = 0.8


class LastKnown:
    """Calls ``refresh`` when it is asked for, in a task of its own: nobody who asks waits longer than a moment.

    All who ask while one is under way share the next. ``as_of_us`` is when the last one that worked began (0 =
    none has), ``reason`` why there is nothing newer.
    """

    def __init__(self, refresh: Callable[[], Awaitable[object]], now_us: Callable[[], int]) -> None:
        self._refresh = refresh
        self._now_us = now_us
        self._wanted = trio.Event()
        self._done = trio.Event()
        self._begun = 0
        self._ended = 0
        self.as_of_us = 0
        self.reason: str | None = None

    async def run(self) -> None:
        """Refresh once, then whenever it is asked for; until cancelled."""
        while True:
            begun_us = self._now_us()
            self._begun += 1
            try:
                await self._refresh()
            except BackhaulError as error:
                self.reason = f"{error.message} [{error.code}]"
            else:
                self.as_of_us, self.reason = begun_us, None
            self._ended = self._begun
            done, self._done = self._done, trio.Event()
            done.set()
            await self._wanted.wait()
            self._wanted = trio.Event()

    async def ask(self, within_s: float = ANSWER_WITHIN_S) -> dict[str, object]:
        """Wait for a refresh, but not for long; returns ``as_of`` (UTC seconds or None), ``age_s`` and ``stale``."""
        wanted = self._begun + 1  # one that is under way may have read before the caller's own last request
        self._wanted.set()
        stale = None
        with trio.move_on_after(within_s) as waiting:
            while self._ended < wanted:
                await self._done.wait()
            stale = self.reason
        if waiting.cancelled_caught:
            # The last read that ended may be long over, and its reason with it.
            before = f"; the last time it was asked: {self.reason}" if self.reason else ""
            stale = f"the journal has not answered within {within_s} s{before}"
        age_s = (self._now_us() - self.as_of_us) / 1e6 if self.as_of_us else None
        return {
            "as_of": self.as_of_us / 1e6 if self.as_of_us else None,
            "age_s": None if age_s is None else round(max(0.0, age_s), 3),
            "stale": stale,
        }


def journal_status(history: History, stats: JournalStats | None) -> dict[str, Any]:
    """A journal in ``/status``: what this process knows of it, and the numbers last read, if any were."""
    known: dict[str, Any] = {
        "id": history.journal_id,
        "generation": history.generation_id,
        "head": history.head_position,
    }
    if stats is not None:
        known |= {
            "head": stats.head_position,
            "first": stats.first_position,
            "deleted_through": stats.deleted_through,
            "used_bytes": stats.used_bytes,
        }
    return known
