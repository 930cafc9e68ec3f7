"""A lock that costs nothing while nobody else wants it: trio's own gives the loop a turn each time it is taken."""

from __future__ import annotations

from types import TracebackType

import trio


class FastLock:
    """``async with send_lock:`` one at a time, in the order of asking. Cancelled while waiting, it was not taken."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    @property
    def is_taken(self) -> bool:
        """Whether a task holds it now."""
        return self._lock.locked()

    async def __aenter__(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
