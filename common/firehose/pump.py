"""Who sends what has just come: one task for all who can be served on the spot, a few dozen in each of its turns.

Waking a task for every subscriber and event would cost several times what sending does. What comes while the pump is at
work is taken along by those whose turn has not come yet, so batches grow by themselves when there is much.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

import trio

_IN_A_TURN = 64


class Served(Protocol):
    """A reader that can be woken to take what there is."""

    def tell(self, now_s: float) -> None:
        """Take it now, or have its own task do so. Never waits."""


class Pump:
    """Wakes each once, however often it was due meanwhile."""

    def __init__(self) -> None:
        self._to_tell: dict[Served, None] = {}
        self._work = trio.lowlevel.ParkingLot()
        self._runs = False

    def add(self, one: Served) -> None:
        """Have it woken soon; at once while the pump does not run."""
        if not self._runs:
            one.tell(trio.current_time())
            return
        if not self._to_tell:
            self._work.unpark_all()
        self._to_tell[one] = None

    def forget(self, one: Served) -> None:
        """It is not to be woken any more."""
        self._to_tell.pop(one, None)

    async def run(self) -> NoReturn:
        """Tell them in their order, until cancelled; then nobody is left untold."""
        self._runs = True
        try:
            while True:
                now_s = trio.current_time()
                for _ in range(min(_IN_A_TURN, len(self._to_tell))):
                    self._tell_next(now_s)
                if self._to_tell:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._work.park()
        finally:
            self._runs = False
            while self._to_tell:
                self._tell_next(trio.current_time())

    def _tell_next(self, now_s: float) -> None:
        one = next(iter(self._to_tell))
        del self._to_tell[one]
        one.tell(now_s)
