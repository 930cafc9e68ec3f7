"""A hint that something has changed: a lost one costs time, since waiters have a bound after which they look anyway."""

from __future__ import annotations

import trio


class ChangeSignal:
    """Counts changes that this process has heard of. A waiter names the count it knows, so none comes too early for it."""

    def __init__(self) -> None:
        self.count = 0
        self._waiters = trio.lowlevel.ParkingLot()

    def fire(self) -> None:
        """Something has changed."""
        self.count += 1
        self._waiters.unpark_all()

    async def wait_beyond(self, count: int, at_most_s: float) -> None:
        """Return when more changes than ``count`` are known, or after ``at_most_s`` seconds."""
        with trio.move_on_after(at_most_s):
            while self.count <= count:
                await self._waiters.park()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
