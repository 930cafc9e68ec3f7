"""Disks of the simulated world: they outlive the services on them, can be copied, and tell of every commit.

A ``Disk`` is what has been committed. A process works on it through a ``Mount``; when the process dies its mount is
severed, and whatever its last tasks still do while they are cancelled never reaches the disk: a dead process gives
no lease back and finishes no transaction.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.journal.statement import Statement
from common.journal.memory.state import MemoryDatabase
from common.journal.memory.tables import TablesInMemory

State = Any
"""The memory journal's durable state; checkers read its parts by name."""

OnCommit = Callable[["Disk", State, State], None]


@dataclass(slots=True)
class Followed:
    """What a subscription has brought: numbers with their payloads, and numbers that were led over."""

    accepted: dict[str, dict[int, bytes]] = field(default_factory=dict)
    passed: dict[str, set[int]] = field(default_factory=dict)

    def begin_again(self, name: str, first: int) -> None:
        """An entity's numbers from ``first`` on are to come again."""
        self.accepted[name] = {
            seq_nr: payload for seq_nr, payload in self.accepted.get(name, {}).items() if seq_nr < first
        }
        self.passed[name] = {seq_nr for seq_nr in self.passed.get(name, ()) if seq_nr < first}

    def copy(self) -> Followed:
        """As of now, for a copy of the disk."""
        return Followed(
            {name: dict(numbers) for name, numbers in self.accepted.items()},
            {name: set(numbers) for name, numbers in self.passed.items()},
        )


class Disk(MemoryDatabase):
    """``name`` says whose it is; ``on_commit(disk, before, after)`` is called in the instant of each commit."""

    def __init__(self, name: str, on_commit: OnCommit) -> None:
        self.name = name
        self._on_commit = on_commit
        self._committed: State = None
        self.payload_at: dict[int, bytes] = {}
        """Position → payload of every event ever committed here, also of those deleted since."""
        self.verified = 0
        """Up to where acks were compared with the cloud's disk."""
        self.history = EventBatch()
        """Every event ever committed here, position after position from 1 on: retention takes nothing from it."""
        self.snapshots: dict[tuple[str, int], set[bytes]] = {}
        """Payloads of every snapshot ever stored here, by entity and number."""
        self.followed: dict[str, Followed] = {}
        """What each subscription has brought here since it began."""
        super().__init__()

    @property
    def state(self) -> State:
        """What is durable."""
        return self._committed

    @state.setter
    def state(self, after: State) -> None:
        before, self._committed = self._committed, after
        if before is not None:
            self._on_commit(self, before, after)

    def copy(self) -> Disk:
        """A backup; a transaction must not be under way in the projections' tables."""
        backup = Disk(self.name, self._on_commit)
        backup._committed = self._committed
        backup.tables = self.tables.copy()
        backup.payload_at = dict(self.payload_at)
        backup.history = self.history.slice(0, len(self.history))
        backup.snapshots = {key: set(payloads) for key, payloads in self.snapshots.items()}
        backup.followed = {name: followed.copy() for name, followed in self.followed.items()}
        return backup

    def restore(self, backup: Disk) -> None:
        """Be as the backup was; no process may be using the disk."""
        heads = backup.state.heads
        for (name, seq_nr), payloads in self.snapshots.items():
            # Taken since of an event that is there: who has it may keep it, though the store has forgotten it.
            if name in heads and seq_nr <= heads[name].seq_nr:
                backup.snapshots.setdefault((name, seq_nr), set()).update(payloads)
        self._committed, self.tables = backup.state, backup.tables
        self.payload_at, self.history, self.snapshots = backup.payload_at, backup.history, backup.snapshots

    def keep_history(self, before: State, after: State) -> None:
        """A commit was taken: remember what is new, whatever retention does to it."""
        log = after.log
        self.history.extend(log.slice(bisect_right(log.position, before.head_position), len(log)))
        if after.snapshots is before.snapshots or after.snapshots == before.snapshots:
            return
        for name, snapshot in after.snapshots.items():
            self.snapshots.setdefault((name, snapshot.seq_nr), set()).add(snapshot.payload)

    def remove_unsaid(self, position: int) -> None:
        """One event is gone, and nothing says so: what a bad sector would do."""
        draft = self._committed.draft()
        log = draft.log
        draft.log = log.select([index for index in range(len(log)) if log.position[index] != position])
        self._committed = draft


class Mount(MemoryDatabase):
    """A disk as one process sees it. ``notified``: whether commits of other processes are heard of at once."""

    def __init__(self, disk: Disk, *, notified: bool) -> None:
        super().__init__()
        self.disk = disk
        self._last_seen: State = None
        self.is_severed = False
        self.tables = _MountedTables(self)
        self.lock = disk.lock
        self.member_locks = disk.member_locks
        if notified:
            self.head_signals = disk.head_signals
            self.member_signals = disk.member_signals

    @property
    def state(self) -> State:
        """What the process believes to be durable."""
        return self._last_seen if self.is_severed else self.disk.state

    @state.setter
    def state(self, after: State) -> None:
        if "disk" in self.__dict__ and not self.is_severed:  # the base class begins with an empty state
            self.disk.state = after

    def sever(self) -> None:
        """The process is dead."""
        if not self.is_severed:
            self._last_seen = self.disk.state
            self.is_severed = True


class _MountedTables(TablesInMemory):
    """The projections' tables of the mounted disk."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._mount.disk.tables.transaction():
            yield
            if self._mount.is_severed:
                raise BackhaulError("journal.unavailable", "the process is dead", retry_after_s=1.0)

    def run(self, statements: Sequence[Statement]) -> None:
        self._mount.disk.tables.run(statements)

    def query(self, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._mount.disk.tables.query(sql, args)
