"""This node among the members of its journal: renews its row, sees the others, and ends the leases of those that died.

    JOINING ── first renewal ──> MEMBER ── leave ──> LEFT
    MEMBER ── its lease lapses, by a pause or a cut ──> MEMBER, with the next renewal; what it held may be another's then

The row is the node's lease on all it holds. Nothing is decided by this process's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.members.assignment import Candidate, RangeKey
from common.core.members.liveness import DeathWatch
from common.core.members.member import Member, MemberList, MemberReport
from common.journal.change_signal import ChangeSignal
from common.journal.stores.members import MemberStore

_log = structlog.get_logger()

# A lease outlives so many renewals that fail.
_RENEWALS_A_LEASE: Final = 6
# However many prompts come, no more looks than one in this time.
_SPACING_S: Final = 0.1
# How long a dead member is remembered, for people.
_REMEMBERED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """``lease_s`` is how long a node that is stopped or cut off keeps what it holds; one that was killed, about 1.5 s."""

    lease_s: float = 3.0


class Membership:
    """One node's. ``run`` is its task; ``report`` says what the row is to have, of its projections those that are prepared."""

    def __init__(
        self, members: MemberStore, report: Callable[[], MemberReport], settings: MembershipSettings | None = None
    ) -> None:
        self._store = members
        self._report = report
        self._lease_s = (settings or MembershipSettings()).lease_s
        self._watch = DeathWatch()
        # Held while the row is written, so that no renewal comes after leaving.
        self._lock = trio.Lock()
        self._known: dict[str, bool] = {}
        self._prepared: set[str] = set()
        self.instance = report().instance
        self.seen = MemberList()
        """As of the last look; empty before the first, and after leaving."""
        self.has_left = False

    @property
    def live(self) -> list[Member]:
        """The members whose leases held at the last look."""
        return self.seen.live

    @property
    def changed(self) -> ChangeSignal:
        """Prompts: members, or the owners of ranges, have changed."""
        return self._store.changed

    @property
    def holds_leases(self) -> bool:
        """See ``MemberStore.holds_leases``."""
        return self._store.holds_leases

    async def run(self) -> NoReturn:
        """Renew and look until cancelled."""
        while True:
            prompts, next_at = self._store.changed.count, trio.current_time() + self._lease_s / _RENEWALS_A_LEASE
            try:
                async with self._lock:
                    if not self.has_left:
                        await self._renew()
            except BackhaulError as error:
                _log.warning("member.not_renewed", code=error.code, reason=error.message, repeat_key=error.code)
            await trio.sleep(_SPACING_S)
            await self._store.changed.wait_beyond(prompts, max(0.0, next_at - trio.current_time()))

    def prepared(self, name: str) -> None:
        """The projection has its tables here: from now on this node is among those that run it."""
        if name not in self._prepared:
            self._prepared.add(name)
            self.changed.fire()

    async def leave(self, successors: Mapping[RangeKey, str]) -> None:
        """Hand everything over and be a member no more. Raises what the journal raises: then the leases lapse."""
        async with self._lock:
            self.has_left = True
            self.seen = MemberList()
            ranges = await self._store.leave(self.instance, successors)
        _log.info("member.left", ranges=ranges, successors=len(set(successors.values())))

    async def _renew(self) -> None:
        seen = await self._store.renew(self._own_report(), self._lease_s)
        dead = self._watch.dead(one for one in seen.members if one.instance != self.instance)
        declared = {one.instance for one in dead if await self._store.declare_dead(one)}
        if declared:
            seen = await self._store.renew(self._own_report(), self._lease_s)
        self._tell(seen, declared)
        for one in seen.members:
            if not one.is_live and one.silent_s > _REMEMBERED_S:
                await self._store.forget(one.instance)
        before, self.seen = self.seen, seen
        if work_of(before.live) != work_of(seen.live):
            self.changed.fire()

    def _own_report(self) -> MemberReport:
        report = self._report()
        return replace(report, runs=report.runs & self._prepared)

    def _tell(self, seen: MemberList, declared: set[str]) -> None:
        before, self._known = self._known, {one.instance: one.is_live for one in seen.members}
        for one in seen.members:
            if one.is_live and not before.get(one.instance):
                _log.info("member.joined", member=one.instance, weight=one.weight, members=len(seen.live))
            elif before.get(one.instance) and not one.is_live:
                why = "its session is gone" if one.instance in declared else "its lease lapsed"
                _log.warning(
                    "member.dead",
                    member=one.instance,
                    reason=why,
                    silent_s=round(one.silent_s, 1),
                    members=len(seen.live),
                )
        for instance in before.keys() - self._known.keys():
            if before[instance]:
                _log.info("member.gone", member=instance, members=len(seen.live))


def work_of(members: Iterable[Member]) -> frozenset[Candidate]:
    """What of members decides who has which work."""
    return frozenset(Candidate(one.instance, one.weight, one.report.runs) for one in members)
