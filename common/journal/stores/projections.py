"""What a journal stores for projections: offsets, leases, and effects that move with the offset.

Each range of a projection has one row: how
far its slices are (``core.ranges``), who holds it, and the epoch that guards every commit. Whatever takes a range from
its owner (another node, a pause, an operator's change) raises the epoch: what the old owner still tries is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import SliceRange
from common.core.journal.range_failure import RangeFailure
from common.core.journal.slice_ranges import Ahead, RangeOffset, still_ahead
from common.core.journal.statement import Statement
from common.core.members.assignment import RangeKey
from common.journal.tables import Tables


@dataclass(frozen=True, slots=True)
class ProjectionLease:
    """The right to commit for one projection's range until another owner takes it: ``epoch`` guards every commit.

    ``failing`` is what the row says: why the range does not move.
    """

    name: str
    slices: SliceRange
    epoch: int
    position: int
    ahead: tuple[Ahead, ...] = ()
    failing: RangeFailure | None = None


def moved_to(lease: ProjectionLease, position: int) -> ProjectionLease:
    """The lease after a commit: what was ahead of the range is so no longer once the range has passed it.

    A range that moves does not fail.
    """
    failing = lease.failing if position == lease.position else None
    ahead = still_ahead(lease.ahead, position)
    # Not ``replace``, which takes three times as long.
    return ProjectionLease(lease.name, lease.slices, lease.epoch, position, ahead, failing)


def fenced(lease: ProjectionLease) -> BackhaulError:
    """Another owner has the lease, or it was paused: nothing is written any more under this one."""
    return BackhaulError(
        "projection.fenced",
        f"{lease.name} {lease.slices} is paused, or another owner has gone on from {lease.position}",
        "nothing to do: the present owner goes on",
        kind=ErrorKind.CONFLICT,
    )


@dataclass(frozen=True, slots=True)
class ProjectionRow:
    """A projection's range as stored. ``owner`` is '' when nobody holds the lease.

    ``is_directed``: the owner was named by the one before, and has not taken it yet. ``stayed_s`` is the time since it was
    last moved from one owner to another, infinite when it never was.
    """

    name: str
    slices: SliceRange
    position: int
    epoch: int
    owner: str
    lease_left_s: float
    paused: bool
    updated_us: int
    ahead: tuple[Ahead, ...] = ()
    is_directed: bool = False
    stayed_s: float = inf
    failing: RangeFailure | None = None
    begin: int = 0
    """Where the projection begins when it is reset."""

    @property
    def key(self) -> RangeKey:
        """Projection and slices."""
        return self.name, self.slices


class ProjectionStore(Protocol):
    """Offsets, leases and effects of projections."""

    async def warm_up(self) -> None:
        """Open the sessions that commits need, so that the first ones do not wait for that."""

    async def migrate(self, name: str, steps: Sequence[Sequence[str]]) -> None:
        """Bring an application's tables to ``len(steps)`` under a lock; step i is a list of SQL statements.

        Raises ``journal.schema_newer`` when the database has more steps than given, ``journal.schema_older`` when it has
        fewer and was opened for use only.
        """

    async def acquire(self, name: str, slices: SliceRange, owner: str, lease_s: float) -> ProjectionLease | None:
        """Take or renew the lease of a range (created at position 0 when new); None while another owner's holds or paused.

        An owner that is a member holds it as long as it is one (``MemberStore``), whatever ``lease_s``.

        Taking it over from another owner bumps the epoch; renewing by the same owner does not. Times are the database's.
        A lease that lasts longer than ``lease_s`` from now is of a clock that has stepped back since: it is not respected.
        Raises ``projection.ranges_changed`` (``core.ranges``) when it would cut across another range with an offset.
        """

    async def take_all(self, owner: str, keys: Collection[RangeKey], lease_s: float) -> list[RangeKey]:
        """Take those of ``keys`` that are free, in one statement, each with a new epoch; returns which.

        Rows that another transaction has locked are left out: one of a stopped node may be open for seconds. Paused ones
        are not taken, nor those that ``owner`` has already.
        """

    async def hand_over(self, moves: Sequence[tuple[ProjectionLease, str]]) -> None:
        """Give ranges to other owners, each with a new epoch: the last statement under this one, whatever its answer.

        It waits for no disk. If the server loses it in a crash, it has lost nothing that came of it: a commit of the new owner
        is synced with all that was before it.
        """

    async def accept(self, owner: str) -> None:
        """Say of all ranges that were handed over to ``owner`` that they run there: others may be on their way then."""

    async def declare(self, name: str, ranges: Sequence[SliceRange], begin: int = 0) -> list[SliceRange]:
        """The ranges that a projection has, in one step for all nodes: those stored, and ``ranges`` where there are none.

        So the first start makes ``ranges``, each at position ``begin``, which stays where it begins; afterwards they change by
        ``reshape`` only.
        """

    async def reshape(self, name: str, ranges: Sequence[SliceRange]) -> list[RangeOffset]:
        """Split and merge: keep the same offsets for other ranges, in one transaction.

        Ranges that are as before keep their owner; those that are no more are taken from theirs. Each new range begins
        where the least advanced of its slices is, and knows what the others are ahead by (``core.ranges``). Raises
        ``projection.unknown``, ``projection.other_slices``.
        """

    async def forget(self, name: str, statements: Sequence[Statement]) -> int:
        """Remove a projection's offsets, and run statements, in one transaction; returns how many ranges it had.

        Its tables stay. Raises ``projection.in_use`` while any range is held.
        """

    async def release(self, lease: ProjectionLease) -> None:
        """Give the lease up at once (a clean stop), if it is still ours."""

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        """Run ``statements`` and move the offset to ``position`` in one transaction, guarded by the epoch; renews the lease.

        Where that moves the offset, the range is not failing any more. Raises ``projection.fenced`` when the epoch is not
        ours or the range is paused or its stored position is not the lease's; nothing is written then.
        Other errors of the statements: ``projection.statement_failed``, nothing written.
        """

    async def commit_in_transaction(
        self,
        lease: ProjectionLease,
        position: int,
        work: Callable[[Tables], Awaitable[None]],
        statements: Sequence[Statement],
        lease_s: float,
    ) -> ProjectionLease:
        """As ``commit``, with ``work`` awaited inside the transaction, before the statements.

        Others wait meanwhile, so ``work`` must end soon by itself. It may use the tables from a thread; once it has
        returned or raised they are closed, also for a thread that still runs. What it raises comes out, nothing written.
        """

    async def set_failing(self, lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
        """Store why the range does not move, or that it does; the row keeps it whoever owns the range.

        Raises ``projection.fenced`` when the epoch is not the lease's.
        """

    async def rows(self) -> list[ProjectionRow]:
        """All ranges of all projections."""

    async def set_paused(self, name: str, paused: bool) -> int:
        """Pause or resume all ranges of a projection; returns how many there are. Pausing bumps the epoch."""

    async def intervene(self, name: str, statements: Sequence[Statement], *, restart: bool = False) -> int:
        """Run statements and take every range of a projection from its owner, in one transaction; returns how many ranges.

        With ``restart`` all offsets go back to where the projection begins, and none is failing.
        Raises ``projection.statement_failed``, nothing written.
        """

    async def move(self, name: str, position: int, statements: Sequence[Statement] = ()) -> int:
        """Set the offsets of all ranges of a paused projection to ``position``, and run statements, in one transaction.

        Returns how many ranges there are. Events between are left out, or come again, and none of its ranges is failing.
        Raises ``projection.not_paused``; ``projection.statement_failed``, nothing written.
        """

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a read-only query over the application's tables, parameters as in ``Statement``."""
