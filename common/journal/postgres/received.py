"""Snapshots and subscriptions of a ``PostgresJournal``: what it keeps beside the log, and of other logs."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.journal.snapshot import NewSnapshot, Snapshot
from common.core.subscription.place import FilterState, Subscription
from common.journal.postgres import snapshots, subscriptions
from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.journal import InboxRow, InboxStats, ProjectionLease, ReceivedCommit


class PostgresReceived(PostgresSessions):
    """``SnapshotStore`` and ``SubscriptionStore`` over an open database."""

    # -- snapshots ---------------------------------------------------------------------------------------------------
    async def put_snapshots(self, snapshots_: Sequence[NewSnapshot]) -> list[bool]:
        """See ``SnapshotStore.put_snapshots``."""
        return await self._state.run(snapshots.put, snapshots_, self._now_us())

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
        return await self._read(snapshots.page, after_persistence_id, max_rows, max_bytes, entity_types)

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
        return await self._state.run(subscriptions.set_requested, name, criteria, if_new, self._now_us())

    async def forget_subscription(self, name: str) -> bool:
        """See ``SubscriptionStore.forget_subscription``."""
        return await self._state.run(subscriptions.forget, name)

    async def restart_subscription(self, name: str, lease: ProjectionLease) -> bool:
        """See ``SubscriptionStore.restart_subscription``."""
        return await self._state.run(subscriptions.restart, name, lease, self._now_us())

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
        """See ``SubscriptionStore.commit_received``."""
        following, head = await self._committer().connection.run(
            subscriptions.commit_received,
            name,
            lease,
            revision,
            commit,
            lease_s,
            inbox_max_bytes,
            self._now_us(),
        )
        if head:
            self._saw_head(head)
            self._hints.committed(head)
        return following

    async def inbox(self, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
        """See ``SubscriptionStore.inbox``."""
        return await self._read(subscriptions.inbox, name, after_id, max_rows, max_bytes)

    async def ack_inbox(self, name: str, through_id: int) -> int:
        """See ``SubscriptionStore.ack_inbox``."""
        return await self._state.run(subscriptions.ack_inbox, name, through_id)

    async def inbox_stats(self, name: str) -> InboxStats:
        """See ``SubscriptionStore.inbox_stats``."""
        return await self._read(subscriptions.inbox_stats, name)
