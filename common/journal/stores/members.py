"""Members: the nodes that have this journal open. A lease holds for as long as its owner's member row does.

An owner that is no member (an edge's service, a tool) has leases of its own length, which it renews one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from common.core.members.assignment import RangeKey
from common.core.members.member import Member, MemberList, MemberReport
from common.journal.change_signal import ChangeSignal


class MemberStore(Protocol):
    """The rows of members, and what happens to leases when one leaves. Times are the database's."""

    @property
    def holds_leases(self) -> bool:
        """Whether a member's row holds its leases, so that no lease is renewed by itself. Not where one process has the file."""

    @property
    def changed(self) -> ChangeSignal:
        """Prompts: members, or the owners of ranges, have changed. Some may be lost."""

    async def renew(self, report: MemberReport, lease_s: float) -> MemberList:
        """Renew the member's row (made when it is missing), and look at all: one statement."""

    async def look(self) -> MemberList:
        """All members, dead ones for as long as they are remembered."""

    async def declare_dead(self, member: Member) -> bool:
        """End a member's lease, unless it was renewed since that look; its leases are free then."""

    async def leave(self, instance: str, successors: Mapping[RangeKey, str]) -> int:
        """Hand every range of the member over and remove its row, in one statement; returns how many ranges it had.

        A range without a successor is free. Each gets a new epoch: nothing is committed under the old one any more.
        """

    async def forget(self, instance: str) -> None:
        """Remove the row of a member whose lease has lapsed."""

    async def set_drained(self, node: str, is_drained: bool) -> bool:
        """Give a node, by its name, no work, or work again; it stays so over restarts of the node. False: it was so."""
