"""A node of a service as the others see it: one row, renewed while it lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


def instance_name(node: str, start_id: str) -> str:
    """What a start of a node is called: the owner of its leases."""
    return f"{node}/{start_id[:8]}"


def node_of(instance: str) -> str:
    """The node's name in what its start is called; '' for nobody."""
    return instance.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What a node says of itself with each renewal.

    ``instance`` names this start of it, and owns its leases; ``node`` is its name, the same after a restart. ``weight`` is its
    share of the work beside others' (0 = none); ``runs`` names the projections it has handlers for; ``sessions`` is the most
    it opens with the database.
    """

    instance: str
    node: str
    started_us: int
    weight: int = 1
    runs: frozenset[str] = frozenset()
    sessions: int = 0
    edges: int = 0


def lease_left(now: float, until: float, renewed: float) -> float:
    """What is left of a member's lease, in the unit of its times.

    Nothing of one that lasts longer than two leases from now: a clock that has stepped back since made it so. A small step
    costs a lease at most, and takes nothing from members that live.
    """
    left = until - now
    return left if 0 < left <= 2 * (until - renewed) else 0


@dataclass(frozen=True, slots=True)
class Member:
    """A node's row, as one look at all of them found it; times are the database's.

    ``left_s`` is what is left of its lease, 0 when it has lapsed; ``silent_s`` is the time since its last renewal, which was its
    ``renewals``-th. ``has_lock``: its session still has the lock that dies with the process; that proves nothing when it is held.
    ``is_drained``: an operator gives this node nothing to do.
    """

    report: MemberReport
    left_s: float
    silent_s: float
    renewals: int
    has_lock: bool = True
    is_drained: bool = False

    @property
    def instance(self) -> str:
        """The owner of its leases."""
        return self.report.instance

    @property
    def is_live(self) -> bool:
        """Whether its leases hold."""
        return self.left_s > 0

    @property
    def weight(self) -> int:
        """Its share of the work."""
        return 0 if self.is_drained else self.report.weight


@dataclass(frozen=True, slots=True)
class MemberList:
    """All members at one moment. Until ``settles_in_s`` have passed the list may lack some: it was cleared."""

    members: Sequence[Member] = field(default=())
    settles_in_s: float = 0.0

    @property
    def live(self) -> list[Member]:
        """Those whose leases hold."""
        return [member for member in self.members if member.is_live]
