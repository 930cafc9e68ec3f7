"""An event that can be closed again, set by synchronous code of either world and waited for by trio tasks."""

from __future__ import annotations

import trio


class Gate:
    """Open or not. Waiting for an open gate does not block; `set` wakes all who wait."""

    __slots__ = ("_is_open", "_waiting")

    def __init__(self, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._waiting = trio.lowlevel.ParkingLot()

    def set(self) -> None:
        self._is_open = True
        self._waiting.unpark_all()

    def clear(self) -> None:
        self._is_open = False

    def is_set(self) -> bool:
        return self._is_open

    async def wait(self) -> None:
        if self._is_open:
            await trio.lowlevel.checkpoint()
        else:
            await self._waiting.park()
