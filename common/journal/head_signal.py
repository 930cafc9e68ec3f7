"""A hint that a log has grown: lost hints cost time, never events.

A waiter names the position it has already seen, so a hint that came before it began to wait still counts, and it gives
a bound after which it looks anyway.
"""

from __future__ import annotations

import trio


class HeadSignal:
    """The highest position this process has heard of, and a place to wait for a higher one."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.looks = 0
        """How often a statement of another purpose has found out where the log ends: a look that others need not repeat."""
        self._waiters = trio.lowlevel.ParkingLot()

    def looked(self, position: int) -> None:
        """Such a statement has found the log's end. Lower than what is known: that is for those to settle who look at the log."""
        if position >= self.position:
            self.looks += 1
            self.raise_to(position)

    def raise_to(self, position: int) -> None:
        """Wake everybody if ``position`` is news."""
        if position > self.position:
            self.position = position
            self._waiters.unpark_all()

    def put_back(self, position: int) -> None:
        """The log is another one, with this head: what was heard of the one before counts no more."""
        self.position = position
        self._waiters.unpark_all()

    async def wait_above(self, position: int, at_most_s: float) -> None:
        """Return when the known position is above ``position``, or after ``at_most_s`` seconds."""
        if self.position > position:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(at_most_s):
            while self.position <= position:
                await self._waiters.park()
