"""Snapshots and subscriptions of an ``SqliteJournal``: what it keeps beside the log, and of other logs."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.journal.snapshot import NewSnapshot, Snapshot
from common.core.subscription.place import FilterState, Subscription
from common.journal.sqlite import log, snapshots, subscriptions
from common.journal.sqlite.connection import coded_errors, transaction
from common.journal.sqlite.connections import SqliteConnections
from common.journal.stores.journal import InboxRow, InboxStats, ProjectionLease, ReceivedCommit


class SqliteReceived(SqliteConnections):
    """``SnapshotStore`` and ``SubscriptionStore`` over an open file."""

    # -- snapshots ---------------------------------------------------------------------------------------------------
    async def put_snapshots(self, snapshots_: Sequence[NewSnapshot]) -> list[bool]:
        """See ``SnapshotStore.put_snapshots``."""
        return await self._write(snapshots.put, snapshots_, self._now_us())

    async def snapshot(self, persistence_id: str) -> Snapshot | None:
        """See ``SnapshotStore.snapshot``."""
        return await self._read(snapshots.get, persistence_id)

    async def snapshots(
        self,
        after_persistence_id: str,
        *,
        max_rows: int,
        max_bytes: int,
        entity_types: frozenset[str] = frozenset(),
    ) -> list[Snapshot]:
        """See ``SnapshotStore.snapshots``."""
        return await self._read(
            snapshots.page, after_persistence_id, max_rows=max_rows, max_bytes=max_bytes, entity_types=entity_types
        )

    async def uncovered_after(self, through: int, *, entity_types: frozenset[str] = frozenset()) -> int:
        """See ``SnapshotStore.uncovered_after``."""

        async def look(after: int, through: int) -> tuple[int | None, int]:
            return await self._read(snapshots.look, after, through, entity_types)

        return await self._covered.find(look, through, entity_types)

    # -- subscriptions -----------------------------------------------------------------------------------------------
    async def subscription(self, name: str) -> Subscription | None:
        """See ``SubscriptionStore.subscription``."""
        return await self._read(subscriptions.subscription, name)

    async def subscriptions(self) -> list[Subscription]:
        """See ``SubscriptionStore.subscriptions``."""
        return await self._read(subscriptions.subscriptions)

    async def set_requested(self, name: str, criteria: str, *, if_new: bool = False) -> FilterState:
        """See ``SubscriptionStore.set_requested``."""
        return await self._write(subscriptions.set_requested, name, criteria, if_new, self._now_us())

    async def forget_subscription(self, name: str) -> bool:
        """See ``SubscriptionStore.forget_subscription``."""
        return await self._write(subscriptions.forget, name)

    async def restart_subscription(self, name: str, lease: ProjectionLease) -> bool:
        """See ``SubscriptionStore.restart_subscription``."""
        return await self._write(subscriptions.restart, name, lease, self._now_us())

    async def known(self, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
        """See ``SubscriptionStore.known``."""
        return await self._read(subscriptions.known, name, persistence_ids)

    async def awaiting(self, name: str, max_rows: int) -> list[tuple[str, int]]:
        """See ``SubscriptionStore.awaiting``."""
        return await self._read(subscriptions.awaiting, name, max_rows)

    async def commit_received(
        self,
        name: str,
        lease: ProjectionLease,
        revision: int,
        commit: ReceivedCommit,
        lease_s: float,
        *,
        inbox_max_bytes: int | None = None,
    ) -> int:
        """See ``SubscriptionStore.commit_received``. What is received may not use the pages kept in reserve."""

        def work() -> tuple[int, int]:
            try:
                with coded_errors(self._file.path), transaction(self._file.writer):
                    following = subscriptions.commit_received(
                        self._file.writer,
                        self._entities,
                        name,
                        lease,
                        revision,
                        commit,
                        lease_s=lease_s,
                        inbox_max_bytes=inbox_max_bytes,
                        now_us=self._now_us(),
                    )
                    return following, log.head_position(self._file.writer)
            except BaseException:
                if commit.append:
                    self._entities.forget_all()
                raise

        async with self._writer_lock:
            following, head = await self._run(work)
        self.head_signal.raise_to(head)
        return following

    async def inbox(self, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
        """See ``SubscriptionStore.inbox``."""
        return await self._read(subscriptions.inbox, name, after_id, max_rows=max_rows, max_bytes=max_bytes)

    async def ack_inbox(self, name: str, through_id: int) -> int:
        """See ``SubscriptionStore.ack_inbox``."""
        return await self._write(subscriptions.ack_inbox, name, through_id)

    async def inbox_stats(self, name: str) -> InboxStats:
        """See ``SubscriptionStore.inbox_stats``."""
        return await self._read(subscriptions.inbox_stats, name)
