"""Which ranges this node runs: what all members compute from the same rows, and how ranges come to move by it.

A range whose owner is gone is taken by its target, all of them in one statement. One that another live member is to have is
moved by its holder: the end of its page, then a directed release. At most a few are under way at once, and none moves again
within its minimum stay. A node never touches a range that is neither its own nor to become so, and reads the rows
when it is prompted, when members have changed, and now and then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.journal.slice_ranges import range_gone
from common.core.members.assignment import RangeKey, assign
from common.journal.change_signal import ChangeSignal
from common.journal.feeds import RangeFeeds
from common.journal.membership import Membership, work_of
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease, ProjectionRow, fenced
from common.projection.range_holder import NotOurs, acquire_within_deadline
from common.projection.range_start import RangeStart

_log = structlog.get_logger()

# Without any prompt.
_LOOK_EVERY_S: Final = 5.0
_AGAIN_S: Final = 0.5
_FENCED_WAIT_S: Final = 0.02
# However many prompts come, no more looks than one in this time.
_SPACING_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class AssignmentSettings:
    """``moves_max`` ranges at most are on their way at once; a range stays ``stay_s`` at least where it has moved to."""

    lease_s: float = 15.0
    moves_max: int = 4
    stay_s: float = 5.0


class RangeAssignment:
    """``RangeHolder`` of a member. ``run`` is its task; ranges wait until it says that they are ours."""

    changes = 0
    keeps_failing = True
    fenced_wait_s = _FENCED_WAIT_S

    def __init__(
        self,
        journal: Journal,
        membership: Membership,
        feeds: RangeFeeds,
        settings: AssignmentSettings | None = None,
    ) -> None:
        self.start = RangeStart(journal)
        self._projections = journal.projections
        self._feeds = feeds
        self._membership = membership
        self._settings = settings or AssignmentSettings()
        self._me = membership.instance
        self._rows: Mapping[RangeKey, ProjectionRow] = {}
        self._own: set[RangeKey] = set()
        self._moves: dict[RangeKey, str] = {}
        self._scopes: dict[RangeKey, trio.CancelScope] = {}
        self._leases: dict[RangeKey, ProjectionLease] = {}
        self._used: dict[RangeKey, int] = {}
        """The last epoch under which a range has run here: before that its row is where it begins."""
        self._departures: list[tuple[ProjectionLease, str]] = []
        self._departing = trio.Lock()
        self._begun = 0
        self._published = 0
        """The last look that was published; looks are counted as they begin."""
        self._turned = ChangeSignal()

    @property
    def is_renewing(self) -> bool:
        """See ``RangeHolder.is_renewing``."""
        return not self._membership.holds_leases

    @property
    def has_left(self) -> bool:
        """See ``RangeHolder.has_left``."""
        return self._membership.has_left

    def ranges_of(self, instance: str) -> int:
        """How many ranges a member had at the last look."""
        return sum(row.owner == instance for row in self._rows.values())

    # -- what all members compute ----------------------------------------------------------------------------------
    async def run(self) -> NoReturn:
        """Look at rows and members until cancelled."""
        self._feeds.expect(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            await self._keep_looking()

    async def _keep_looking(self) -> NoReturn:
        while True:
            prompts, again_in_s = self._membership.changed.count, _LOOK_EVERY_S
            try:
                if not await self._look():
                    again_in_s = _AGAIN_S
            except BackhaulError as error:
                _log.warning("projection.not_assigned", code=error.code, reason=error.message, repeat_key=error.code)
                again_in_s = _AGAIN_S
            await trio.sleep(_SPACING_S)
            await self._membership.changed.wait_beyond(prompts, again_in_s)

    async def _receive(self) -> NoReturn:
        """Say that what was handed over runs here, and read ahead for what may come. No range waits for it."""
        while True:
            seen = self._turned.count
            try:
                if any(row.is_directed and row.owner == self._me for row in self._rows.values()):
                    await self._projections.accept(self._me)
                others = {key: row.epoch for key, row in self._rows.items() if row.owner != self._me}
                await self.start.read_ahead(others)
            except BackhaulError as error:
                _log.warning("projection.not_assigned", code=error.code, reason=error.message, repeat_key=error.code)
                await trio.sleep(_AGAIN_S)
                continue
            await self._turned.wait_beyond(seen, _LOOK_EVERY_S)

    async def _look(self) -> bool:
        """Read all rows, take what is to be taken, say what is to be moved; False when there is more to do soon."""
        self._begun += 1
        begun, members = self._begun, self._membership.seen
        rows = {row.key: row for row in await self._projections.rows()}
        if self._membership.has_left or self._me not in {one.instance for one in members.live}:
            self._publish(begun, rows, {})
            return False
        # After a new generation members may still be missing, and nothing is theirs.
        able = frozenset() if members.settles_in_s else work_of(members.live)
        targets = assign({key: row.owner for key, row in rows.items()}, able)
        due = [
            key
            for key, target in targets.items()
            if target == self._me
            and rows[key].owner != self._me
            and not rows[key].paused
            and not rows[key].lease_left_s
        ]
        taken = await self._projections.take_all(self._me, due, self._settings.lease_s) if due else []
        if taken:
            _log.info("projection.taken", ranges=len(taken), of=len(due))
            rows = {row.key: row for row in await self._projections.rows()}
        self._feeds.expect(any(target == self._me != rows[key].owner for key, target in targets.items()))
        self._publish(begun, rows, self._due_moves(rows, targets))
        return len(taken) == len(due) and not members.settles_in_s

    def _due_moves(
        self, rows: Mapping[RangeKey, ProjectionRow], targets: Mapping[RangeKey, str]
    ) -> dict[RangeKey, str]:
        own = {
            key: target
            for key, target in targets.items()
            if rows[key].owner == self._me
            and target != self._me
            and not rows[key].paused
            and rows[key].stayed_s >= self._settings.stay_s
        }
        room = self._settings.moves_max - sum(row.is_directed for row in rows.values())
        return dict(sorted(own.items(), key=lambda item: item[0][1])[: max(0, room)])

    def _publish(self, begun: int, rows: Mapping[RangeKey, ProjectionRow], moves: dict[RangeKey, str]) -> None:
        own = {key for key, row in rows.items() if row.owner == self._me}
        if own != self._own:
            _log.info("projection.assigned", ranges=len(own), of=len(rows), members=len(self._membership.live))
        self._published, self._rows, self._own, self._moves = begun, rows, own, moves
        self._turned.fire()
        for key, lease in self._leases.items():
            row = rows.get(key)
            if (row is None or row.epoch != lease.epoch or key in moves) and key in self._scopes:
                self._scopes[key].cancel()

    async def leave(self) -> None:
        """Hand everything over, each range to the member that is to have it without this one; in one statement."""
        others = work_of(one for one in self._membership.live if one.instance != self._me)
        owners = {key: row.owner for key, row in self._rows.items()}
        own = {key for key, owner in owners.items() if owner == self._me}
        successors = {key: target for key, target in assign(owners, others).items() if key in own}
        await self._membership.leave(successors)

    # -- what a range's task asks ------------------------------------------------------------------------------------
    def prepared(self, name: str) -> None:
        """See ``RangeHolder.prepared``."""
        self._membership.prepared(name)
        self._turned.fire()

    async def acquire(self, key: RangeKey, not_ours: NotOurs) -> ProjectionLease:
        """See ``RangeHolder.acquire``: waits for the assignment."""
        # What was read before the range was declared does not have it.
        begun = self._begun
        self._membership.changed.fire()
        while self._published <= begun:
            await self._turned.wait_beyond(self._turned.count, _LOOK_EVERY_S)
        while True:
            seen = self._turned.count
            row = self._rows.get(key)
            if row is None:
                raise range_gone(*key)
            if row.owner == self._me and not row.paused and not self._membership.has_left:
                successor = self._moves.pop(key, None)
                if successor is not None:
                    await self._hand_over(ProjectionLease(*key, row.epoch, row.position), successor)
                else:
                    lease = await self._lease_of(row)
                    if lease is not None:
                        self._leases[key] = lease
                        self._used[key] = lease.epoch
                        return lease
                self._membership.changed.fire()
            else:
                not_ours(row, False)  # which are whose is said once for all of them
            while self._turned.count == seen:
                await self._turned.wait_beyond(seen, _LOOK_EVERY_S)

    async def _lease_of(self, row: ProjectionRow) -> ProjectionLease | None:
        """The lease of a range that is ours by its row. Under an epoch of ours that was not used nothing has moved since."""
        if row.epoch > self._used.get(row.key, 0):
            return ProjectionLease(*row.key, row.epoch, row.position, row.ahead, row.failing)
        return await acquire_within_deadline(self._projections, row.key, self._me, self._settings.lease_s)

    def check(self, lease: ProjectionLease) -> None:
        """See ``RangeHolder.check``."""
        row = self._rows.get((lease.name, lease.slices))
        if row is None:
            raise range_gone(lease.name, lease.slices)
        # Lower after a crash of the server that lost the hand-over to us: nothing was committed under it.
        if row.epoch != lease.epoch:
            raise fenced(lease)

    def successor(self, lease: ProjectionLease) -> str | None:
        """See ``RangeHolder.successor``."""
        return self._moves.get((lease.name, lease.slices))

    @contextmanager
    def interrupting(self, lease: ProjectionLease) -> Iterator[None]:
        """See ``RangeHolder.interrupting``."""
        key = lease.name, lease.slices
        with trio.CancelScope() as scope:
            self._scopes[key] = scope
            row = self._rows.get(key)
            if row is None or row.epoch != lease.epoch or key in self._moves:
                scope.cancel()
            try:
                yield
            finally:
                del self._scopes[key]

    async def release(self, lease: ProjectionLease) -> None:
        """See ``RangeHolder.release``: to its successor, if there is one."""
        key = lease.name, lease.slices
        self._leases.pop(key, None)
        successor = self._moves.pop(key, None)
        if self._membership.has_left:
            return
        if successor is not None:
            await self._hand_over(lease, successor)
        else:
            await self._projections.release(lease)
        self._membership.changed.fire()

    async def _hand_over(self, lease: ProjectionLease, successor: str) -> None:
        _log.info(
            "projection.handed_over",
            projection=lease.name,
            slices=str(lease.slices),
            successor=successor,
            position=lease.position,
            epoch=lease.epoch,
        )
        # Those that end their pages in the same moment go in one statement, so that it prompts their successors once.
        mine = self._departures
        mine.append((lease, successor))
        async with self._departing:
            if mine is self._departures:
                self._departures = []
                await self._projections.hand_over(mine)
