"""Offsets, leases and tables of projections in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import trio

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange
from common.core.journal.range_failure import RangeFailure
from common.core.journal.slice_ranges import (
    RangeOffset,
    changes,
    check_ranges,
    divide,
    missing_ranges,
    projection_in_use,
    projection_not_paused,
)
from common.core.journal.statement import Statement
from common.core.members.assignment import RangeKey
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.leases import lease_end
from common.journal.memory.members import handed, is_held, left_s
from common.journal.memory.state import MemoryState, ProjectionEntry
from common.journal.stores.projections import ProjectionLease, ProjectionRow, fenced, moved_to
from common.journal.tables import Tables

_MICROSECONDS = 1_000_000


def held_row(draft: MemoryState, lease: ProjectionLease) -> ProjectionEntry:
    """The range's row, if the lease still gives the right to change it."""
    row = draft.projections.get((lease.name, lease.slices))
    if row is None or row.paused or (row.epoch, row.position) != (lease.epoch, lease.position):
        raise fenced(lease)
    return row


class MemoryProjections:
    """``ProjectionStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def warm_up(self) -> None:
        """See ``ProjectionStore.warm_up``: there are none."""
        await trio.lowlevel.checkpoint()

    async def migrate(self, name: str, steps: Sequence[Sequence[str]]) -> None:
        """See ``ProjectionStore.migrate``."""
        async with self._connections.transaction() as draft:
            done = draft.migrated.get(name, 0)
            if done > len(steps):
                raise BackhaulError(
                    "journal.schema_newer",
                    f"the tables of {name} are at step {done}, this program knows {len(steps)}",
                    "run the program that wrote them, or a later one",
                )
            for step in steps[done:]:
                self._connections.database.tables.run([Statement(sql) for sql in step])
            draft.migrated[name] = len(steps)

    async def acquire(self, name: str, slices: SliceRange, owner: str, lease_s: float) -> ProjectionLease | None:
        """See ``ProjectionStore.acquire``."""
        async with self._connections.transaction() as draft:
            check_ranges(name, slices, [stored for other, stored in draft.projections if other == name])
            now_us = self._connections.now_us()
            row = draft.projections.get((name, slices)) or ProjectionEntry(0, 0, "", 0, False, now_us)
            until_us = lease_end(now_us, lease_s)
            if row.paused or (row.owner != owner and is_held(draft, row.owner, row.lease_until_us, now_us, until_us)):
                return None
            epoch = row.epoch + (row.owner != owner)
            row = replace(row, epoch=epoch, owner=owner, lease_until_us=until_us, is_directed=False)
            draft.projections[name, slices] = row
            return ProjectionLease(name, slices, row.epoch, row.position, row.ahead, row.failing)

    async def release(self, lease: ProjectionLease) -> None:
        """See ``ProjectionStore.release``."""
        async with self._connections.transaction() as draft:
            row = draft.projections.get((lease.name, lease.slices))
            if row and row.epoch == lease.epoch:
                draft.projections[lease.name, lease.slices] = replace(
                    row, owner="", lease_until_us=0, is_directed=False
                )

    async def take_all(self, owner: str, keys: Collection[RangeKey], lease_s: float) -> list[RangeKey]:
        """See ``ProjectionStore.take_all``."""
        async with self._connections.transaction() as draft:
            now_us = self._connections.now_us()
            until_us = lease_end(now_us, lease_s)
            taken = []
            for key in keys:
                row = draft.projections.get(key)
                if row is None or row.paused or row.owner == owner:
                    continue
                if not is_held(draft, row.owner, row.lease_until_us, now_us, until_us):
                    moved_us = now_us if row.owner else row.moved_us
                    draft.projections[key] = replace(
                        row,
                        epoch=row.epoch + 1,
                        owner=owner,
                        lease_until_us=until_us,
                        is_directed=False,
                        moved_us=moved_us,
                    )
                    taken.append(key)
            return taken

    async def hand_over(self, moves: Sequence[tuple[ProjectionLease, str]]) -> None:
        """See ``ProjectionStore.hand_over``."""
        async with self._connections.transaction() as draft:
            for lease, successor in moves:
                row = draft.projections.get((lease.name, lease.slices))
                if row and row.epoch == lease.epoch and not row.paused:
                    draft.projections[lease.name, lease.slices] = handed(row, successor, self._connections.now_us())

    async def accept(self, owner: str) -> None:
        """See ``ProjectionStore.accept``."""
        async with self._connections.transaction() as draft:
            for key, row in draft.projections.items():
                if row.owner == owner and row.is_directed:
                    draft.projections[key] = replace(row, is_directed=False)

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit``."""
        async with self._connections.transaction() as draft:
            moved = self._move(draft, lease, position, lease_s)
            self._connections.database.tables.run(statements)
            return moved

    async def commit_in_transaction(
        self,
        lease: ProjectionLease,
        position: int,
        work: Callable[[Tables], Awaitable[None]],
        statements: Sequence[Statement],
        lease_s: float,
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit_in_transaction``."""
        async with self._connections.transaction() as draft:
            moved = self._move(draft, lease, position, lease_s)
            tables = self._connections.database.tables.open()
            try:
                await work(tables)
            finally:
                tables.close()
            if tables.failure is not None:
                raise tables.failure
            self._connections.database.tables.run(statements)
            return moved

    def _move(self, draft: MemoryState, lease: ProjectionLease, position: int, lease_s: float) -> ProjectionLease:
        row, now_us, moved = held_row(draft, lease), self._connections.now_us(), moved_to(lease, position)
        until_us = lease_end(now_us, lease_s)
        draft.projections[lease.name, lease.slices] = replace(
            row,
            position=position,
            lease_until_us=until_us,
            updated_us=now_us,
            ahead=moved.ahead,
            failing=row.failing if position == row.position else None,
        )
        return moved

    async def intervene(self, name: str, statements: Sequence[Statement], *, restart: bool = False) -> int:
        """See ``ProjectionStore.intervene``."""
        async with self._connections.transaction() as draft:
            self._connections.database.tables.run(statements)
            keys = [key for key in draft.projections if key[0] == name]
            for key in keys:
                row = draft.projections[key]
                if restart:
                    row = replace(row, position=row.begin, ahead=(), failing=None)
                draft.projections[key] = replace(
                    row, epoch=row.epoch + 1, owner="", lease_until_us=0, is_directed=False
                )
            return len(keys)

    async def move(self, name: str, position: int, statements: Sequence[Statement] = ()) -> int:
        """See ``ProjectionStore.move``."""
        async with self._connections.transaction() as draft:
            keys = [key for key in draft.projections if key[0] == name]
            if not all(draft.projections[key].paused for key in keys):
                raise projection_not_paused(name)
            self._connections.database.tables.run(statements)
            for key in keys:
                row = draft.projections[key]
                draft.projections[key] = replace(row, position=position, ahead=(), epoch=row.epoch + 1, failing=None)
            return len(keys)

    async def declare(self, name: str, ranges: Sequence[SliceRange], begin: int = 0) -> list[SliceRange]:
        """See ``ProjectionStore.declare``."""
        async with self._connections.transaction() as draft:
            stored = [slices for other, slices in draft.projections if other == name]
            missing = missing_ranges(stored, ranges)
            row = ProjectionEntry(begin, 0, "", 0, False, self._connections.now_us(), begin=begin)
            draft.projections.update({(name, slices): row for slices in missing})
            return sorted([*stored, *missing])

    async def reshape(self, name: str, ranges: Sequence[SliceRange]) -> list[RangeOffset]:
        """See ``ProjectionStore.reshape``."""
        async with self._connections.transaction() as draft:
            stored = {slices: row for (other, slices), row in draft.projections.items() if other == name}
            offsets = [RangeOffset(slices, row.position, row.ahead) for slices, row in stored.items()]
            divided = divide(name, offsets, ranges)
            epoch = max(row.epoch for row in stored.values()) + 1
            paused = any(row.paused for row in stored.values())
            begin = max(row.begin for row in stored.values())
            gone, new = changes(offsets, divided)
            for slices in gone:
                del draft.projections[name, slices]
            for one in new:
                draft.projections[name, one.slices] = ProjectionEntry(
                    one.position, epoch, "", 0, paused, self._connections.now_us(), one.ahead, begin=begin
                )
            return divided

    async def forget(self, name: str, statements: Sequence[Statement]) -> int:
        """See ``ProjectionStore.forget``."""
        async with self._connections.transaction() as draft:
            stored = {key: row for key, row in draft.projections.items() if key[0] == name}
            for row in stored.values():
                if left_s(draft, row.owner, row.lease_until_us, self._connections.now_us()):
                    raise projection_in_use(name, row.owner)
            self._connections.database.tables.run(statements)
            for key in stored:
                del draft.projections[key]
            return len(stored)

    async def set_failing(self, lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
        """See ``ProjectionStore.set_failing``."""
        async with self._connections.transaction() as draft:
            row = draft.projections.get((lease.name, lease.slices))
            if row is None or row.epoch != lease.epoch:
                raise fenced(lease)
            draft.projections[lease.name, lease.slices] = replace(row, failing=failing)
            return replace(lease, failing=failing)

    async def rows(self) -> list[ProjectionRow]:
        """See ``ProjectionStore.rows``."""
        await trio.lowlevel.checkpoint()
        now_us, state = self._connections.now_us(), self._connections.database.state
        return [
            ProjectionRow(
                name=name,
                slices=slices,
                position=row.position,
                epoch=row.epoch,
                owner=row.owner,
                lease_left_s=left_s(state, row.owner, row.lease_until_us, now_us),
                paused=row.paused,
                updated_us=row.updated_us,
                ahead=row.ahead,
                is_directed=row.is_directed,
                stayed_s=inf if row.moved_us is None else (now_us - row.moved_us) / _MICROSECONDS,
                failing=row.failing,
                begin=row.begin,
            )
            for (name, slices), row in sorted(state.projections.items())
        ]

    async def set_paused(self, name: str, paused: bool) -> int:
        """See ``ProjectionStore.set_paused``."""
        async with self._connections.transaction() as draft:
            keys = [key for key in draft.projections if key[0] == name]
            for key in keys:
                row = draft.projections[key]
                draft.projections[key] = replace(row, paused=paused, epoch=row.epoch + paused)
            return len(keys)

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See ``ProjectionStore.query``."""
        async with self._connections.database.lock:
            return self._connections.database.tables.query(sql, args)
