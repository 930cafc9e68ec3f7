"""Commits of projections that come in the same moment share a transaction: one sync of the database's log for all.

Projections are woken together, by one commit of the log, and each alone would have the database sync once more. To share
is an attempt: what the server refuses has written nothing, and is then done by each alone, which finds whose fault it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from common.core.journal.statement import Statement
from common.journal.stores.projections import ProjectionLease


@dataclass(slots=True, eq=False)
class RangeCommit:
    """A range's new offset, with the effect that belongs to it."""

    lease: ProjectionLease
    position: int
    statements: Sequence[Statement]
    lease_s: float
    now_us: int
    _done: trio.Event = field(default_factory=trio.Event)
    _is_shared: bool = False
    _error: Exception | None = None

    def settle(self, is_shared: bool, error: Exception | None) -> None:
        """Tell the range's task whether it was done with the others'."""
        self._is_shared, self._error = is_shared, error
        self._done.set()

    async def was_shared(self) -> bool:
        """Wait for the outcome. Not cancelled in between: it ends with a statement that has a deadline."""
        with trio.CancelScope(shield=True):
            await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._is_shared


class SharedCommits:
    """Those who commit now. The first of them commits for all."""

    def __init__(self, together: Callable[[Sequence[RangeCommit]], Awaitable[bool]]) -> None:
        """``together`` commits all of them or, when it answers False, none."""
        self._together = together
        self._gathered: list[RangeCommit] = []

    async def take_part(self, mine: RangeCommit) -> bool:
        """Whether ``mine`` was committed together with others; if not, nothing of it is, and it is to be done alone.

        Raises BackhaulError: ``journal.unavailable``, ``journal.full``; as for one that is done alone, it is not known then.
        """
        self._gathered.append(mine)
        if len(self._gathered) > 1:
            return await mine.was_shared()
        # Tasks that were woken with this one come in this turn.
        await trio.lowlevel.cancel_shielded_checkpoint()
        group, self._gathered = self._gathered, []
        if len(group) == 1:
            return False
        is_shared, fault = False, None
        try:
            is_shared = await self._together(group)
        except Exception as error:
            fault = error
            raise
        finally:
            # Cancelled: that was before it began, so nothing is done.
            for other in group[1:]:
                other.settle(is_shared, fault)
        return is_shared
