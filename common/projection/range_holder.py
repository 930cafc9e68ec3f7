"""How a range comes to this node, and how it goes: by leases of its own, or by the assignment of members.

``LoneHolder`` is for a service that is no member of a group (an edge): each range's lease is asked for and renewed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import Final, Protocol

import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.members.assignment import RangeKey
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease, ProjectionRow, ProjectionStore
from common.projection.range_start import RangeStart

# Also a cancelled range finishes taking a lease, so that it knows what to give back, and gives it back.
_ACQUIRE_DEADLINE_S: Final = 3.0

NotOurs = Callable[[ProjectionRow, bool], None]
"""Given the row of a range that is another's, or paused, and whether its holder is worth a line of log."""


class RangeHolder(Protocol):
    """What a range's task asks. One for all ranges of a node."""

    @property
    def start(self) -> RangeStart:
        """What ranges read as they begin."""

    @property
    def is_renewing(self) -> bool:
        """Whether a lease has to be renewed by the range's own commits."""

    @property
    def changes(self) -> int:
        """Changes of ranges or owners so far, by which a lease may be another's: what ``check`` does not know a renewal does."""

    @property
    def keeps_failing(self) -> bool:
        """Whether a range that fails is kept while it waits, instead of given back for another node to try."""

    @property
    def fenced_wait_s(self) -> float:
        """How long a range that was fenced waits before it looks who has it."""

    @property
    def has_left(self) -> bool:
        """Whether this node has handed everything over, so that a commit still under way is fenced by design."""

    def prepared(self, name: str) -> None:
        """The projection's tables are there: its ranges may come."""

    async def acquire(self, key: RangeKey, not_ours: NotOurs) -> ProjectionLease:
        """Wait until the range is ours. Raises ``projection.ranges_changed`` when it is no more."""

    def check(self, lease: ProjectionLease) -> None:
        """Raise ``projection.fenced`` or ``projection.ranges_changed`` if the range is known to be ours no longer."""

    def successor(self, lease: ProjectionLease) -> str | None:
        """To whom the range is to be handed over now."""

    def interrupting(self, lease: ProjectionLease) -> AbstractContextManager[object]:
        """Ends a wait inside the block when ``check`` or ``successor`` have something to say."""

    async def release(self, lease: ProjectionLease) -> None:
        """Give the range back."""


async def acquire_within_deadline(
    projections: ProjectionStore, key: RangeKey, owner: str, lease_s: float
) -> ProjectionLease | None:
    """Ask for a lease. Shielded: one that was taken unheard would keep others out until it lapses.

    Raises:
        BackhaulError: ``projection.acquire_timeout``, and what the store raises.
    """
    with trio.move_on_after(_ACQUIRE_DEADLINE_S, shield=True):
        return await projections.acquire(*key, owner, lease_s)
    raise BackhaulError(
        "projection.acquire_timeout",
        f"the store did not answer within {_ACQUIRE_DEADLINE_S:g} s",
        hint="look at the database's load and locks",
        kind=ErrorKind.UNAVAILABLE,
    )


class LoneHolder:
    """``RangeHolder`` of an owner that is no member."""

    is_renewing = True
    keeps_failing = False
    has_left = False

    def __init__(self, journal: Journal, owner: str, *, lease_s: float, standby_poll_s: float, random: Random) -> None:
        self.start = RangeStart(journal)
        self._projections = journal.projections
        self._members = journal.members
        self._owner = owner
        self._lease_s = lease_s
        self._random = random
        self.fenced_wait_s = standby_poll_s

    @property
    def changes(self) -> int:
        """See ``RangeHolder.changes``: an operator's. Where leases are short the next renewal is soon."""
        return 0 if self._members.holds_leases else self._members.changed.count

    def prepared(self, name: str) -> None:
        """See ``RangeHolder.prepared``: they do not come, they are asked for."""

    async def acquire(self, key: RangeKey, not_ours: NotOurs) -> ProjectionLease:
        """See ``RangeHolder.acquire``: asks again and again."""
        while True:
            lease = await acquire_within_deadline(self._projections, key, self._owner, self._lease_s)
            if lease is not None:
                return lease
            row = next((row for row in await self._projections.rows() if row.key == key), None)
            if row is not None:
                not_ours(row, True)
            await trio.sleep(self.fenced_wait_s * (0.5 + self._random.random() / 2))

    def check(self, lease: ProjectionLease) -> None:
        """See ``RangeHolder.check``: its next commit finds out."""

    def successor(self, lease: ProjectionLease) -> None:
        """See ``RangeHolder.successor``: there is none."""

    @contextmanager
    def interrupting(self, lease: ProjectionLease) -> Iterator[None]:
        """See ``RangeHolder.interrupting``: nothing does."""
        yield

    async def release(self, lease: ProjectionLease) -> None:
        """See ``RangeHolder.release``."""
        await self._projections.release(lease)
