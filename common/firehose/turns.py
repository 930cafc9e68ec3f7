"""Who does much at a time does it one after the other, and everybody else has a turn of the loop in between.

A hundred consumers that are sent entities again do a millisecond of work each, again and again. Each in its own task's turn,
that would be a tenth of a second between two turns of all others: of live lanes, of callers who wait for a commit.
"""

from __future__ import annotations

from typing import NoReturn

import trio


class Turns:
    """Given in the order in which they are asked for. Nothing is held: what a task waits for in its turn holds up nobody."""

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()
        self._work = trio.lowlevel.ParkingLot()
        self._runs = False

    async def take(self) -> None:
        """Wait for one; at once while nobody gives them."""
        if not self._runs:
            await trio.lowlevel.checkpoint()
            return
        self._work.unpark()
        await self._waiting.park()

    async def run(self) -> NoReturn:
        """Give one in each turn of the loop, until cancelled; then nobody is left waiting."""
        self._runs = True
        try:
            while True:
                if self._waiting:
                    self._waiting.unpark()
                    await trio.lowlevel.checkpoint()
                else:
                    await self._work.park()
        finally:
            self._runs = False
            self._waiting.unpark_all()
