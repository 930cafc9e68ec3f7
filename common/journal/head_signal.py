"""A hint that a log has grown: lost hints cost time, never events.

A waiter says which position it knows, so a hint that came before it began to wait still counts, and it gives a bound after
which it looks anyway. It is woken by a position that is news to it, and by no other.
"""

from __future__ import annotations

from collections.abc import Callable

import trio


class HeadSignal:
    """The highest position this process has heard of, and a place to wait for a higher one."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.looks = 0
        """How often a statement of another purpose has found out where the log ends: a look that others need not repeat."""
        self._waits: dict[trio.lowlevel.ParkingLot, Callable[[], int]] = {}
        """Where each waiter is parked, and what tells the position that it knows."""

    def looked(self, position: int) -> None:
        """Such a statement has found the log's end. Lower than what is known: that is for those to settle who look at the log."""
        if position >= self.position:
            self.looks += 1
            self.raise_to(position)

    def raise_to(self, position: int) -> None:
        """Wake those to whom ``position`` is news."""
        if position > self.position:
            self.position = position
            self._wake()

    def put_back(self, position: int) -> None:
        """The log is another one, with this head: what was heard of the one before counts no more."""
        self.position = position
        self._wake()

    async def wait_above(self, position: int, at_most_s: float) -> None:
        """Return when the known position is above ``position``, or after ``at_most_s`` seconds."""
        await self.wait_news(lambda: position, at_most_s)

    async def wait_news(self, known: Callable[[], int], at_most_s: float) -> None:
        """As ``wait_above`` for one who also learns of positions elsewhere: ``known`` is asked when a higher one comes.

        It must be quick and must not raise.
        """
        if self.position > known():
            await trio.lowlevel.checkpoint()
            return
        place = trio.lowlevel.ParkingLot()
        self._waits[place] = known
        try:
            with trio.move_on_after(at_most_s):
                await place.park()
        finally:
            del self._waits[place]

    def _wake(self) -> None:
        for place, known in self._waits.items():
            if self.position > known():
                place.unpark()
