"""The journal's age clock, by which retention measures (``core.journal.ages``)."""

from __future__ import annotations

from typing import Protocol

from common.core.journal.ages import JournalAge
from common.journal.stores.leases import Lease


class AgeStore(Protocol):
    """One clock a journal, of elapsed running time."""

    async def load(self) -> JournalAge:
        """The clock and its marks, as of the last advance."""

    async def advance(self, lease: Lease, elapsed_us: int, head: int, lease_s: float) -> JournalAge:
        """Add running time that has passed since the caller took or last renewed the lease, and renew it.

        ``head`` is the log's, read before the time was measured.

        Raises:
            BackhaulError: ``lease.fenced``: another owner advances the clock now, and nothing was added.
        """
