"""Protections of the spreading of ranges that can be removed; each must make a listed seed fail, by the checker it names.
That a hand-over raises the epoch is held on every storage by tests/contract/members: here no run reaches a commit behind one.

Another seed is found with `simulate_spread(seed, name)` in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from common.core.journal.statement import Statement
from common.core.members.member import MemberList
from common.journal.memory.members import MemoryMembers
from common.projection.handler_invoker import PreparedEffects
from common.projection.range_task import RangeTask
from tests.simulation.spread import cluster as _cluster

if TYPE_CHECKING:
    from tests.simulation.spread.cluster import Cluster


@dataclass(frozen=True, slots=True)
class SpreadMutation:
    """``applied(cluster)`` removes the protection while its block runs; one of ``seeds`` must fail by ``checker`` then."""

    seeds: tuple[int, ...]
    checker: str
    applied: Callable[[Cluster], AbstractContextManager[Any]]


def _by_local_time(cluster: Cluster) -> AbstractContextManager[Any]:
    """Each node judges the leases of members by its own clock."""
    look = MemoryMembers.look

    async def look_by_own_clock(self: MemoryMembers) -> MemberList:
        connections = self._connections
        own_us = cluster.own_clocks.get(_cluster.ACTING.get(), connections.now_us)
        with patch.object(connections, "now_us", own_us):
            # Nothing in it waits but for a checkpoint, so nobody else sees that clock.
            return await look(self)

    return patch.object(MemoryMembers, "look", look_by_own_clock)


_store = RangeTask._store


async def _release_and_store(
    self: RangeTask, through: int, prepared: PreparedEffects, more: Sequence[Statement] = ()
) -> None:
    if self._holder.successor(self._lease) is not None:
        await self._holder.release(self._lease)
    await _store(self, through, prepared, more)


def _release_first(_: Cluster) -> AbstractContextManager[Any]:
    return patch.object(RangeTask, "_store", _release_and_store)


MUTATIONS: Final[Mapping[str, SpreadMutation]] = {
    "assignment_by_local_time": SpreadMutation((6, 8), "Spread", _by_local_time),
    "release_before_the_last_commit": SpreadMutation((1, 3), "EffectsOnce", _release_first),
}
