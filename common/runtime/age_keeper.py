"""Advances the journal's age clock by the time that this process has run, if no other node does it.

Time is the monotonic clock's. What passed while the lease was not held, or while an advance failed, is not counted: ages
come out too low then, never too high. A step of the wall clock is a line in the log and changes no age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.journal.ages import AGE_LEASE, age_interval_s
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease

_log = structlog.get_logger()

_LEASE_INTERVALS: Final = 4
_LEASE_MIN_S: Final = 10.0
# Beyond what a time server corrects by running the clock faster or slower.
_STEP_S: Final = 2.0


class AgeKeeper:
    """The task of one node; ``kept_s`` are the ages that its retention asks for."""

    def __init__(
        self, journal: Journal, kept_s: Iterable[float | None], now_us: Callable[[], int], *, owner: str
    ) -> None:
        self._journal = journal
        self._interval_s = age_interval_s(kept_s)
        self._lease_s = max(_LEASE_MIN_S, self._interval_s * _LEASE_INTERVALS)
        self._now_us = now_us
        self._owner = owner
        self._lease: Lease | None = None
        self._counted_at = 0.0

    async def run(self) -> NoReturn:
        """Until cancelled. Storage that is away for now is tried again at the next interval."""
        wall_s, elapsed_s = self._now_us() / 1e6, trio.current_time()
        while True:
            try:
                await self.advance()
            except BackhaulError as error:
                self._lease = None
                _log.warning("age.failed", code=error.code, reason=error.message, repeat_key=error.code)
            await trio.sleep(self._interval_s)
            last_s = wall_s - elapsed_s
            wall_s, elapsed_s = self._now_us() / 1e6, trio.current_time()
            if abs(wall_s - elapsed_s - last_s) > _STEP_S:
                _log.warning("clock.stepped", by_s=round(wall_s - elapsed_s - last_s, 1))

    async def advance(self) -> None:
        """Count what has passed since the last time, under the lease; without it, ask for it.

        Raises:
            BackhaulError: the storage's; ``lease.fenced`` is none, another node counts then.
        """
        if self._lease is None:
            self._lease = await self._journal.leases.acquire(AGE_LEASE, self._owner, self._lease_s)
            self._counted_at = trio.current_time()
            if self._lease is None:
                return
        head = (await self._journal.log.stats()).head_position
        since, self._counted_at = self._counted_at, trio.current_time()
        try:
            await self._journal.ages.advance(self._lease, round((self._counted_at - since) * 1e6), head, self._lease_s)
        except BackhaulError as error:
            if error.code != "lease.fenced":
                raise
            self._lease = None
