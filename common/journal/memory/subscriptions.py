"""Subscriptions and their inboxes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from common.core.events.batch import EVENT_OVERHEAD_BYTES
from common.core.events.ids import SEPARATOR
from common.core.events.stated_range import StatedRange, last_of_each
from common.core.journal.append import OriginBlocked, PushedAppend
from common.core.journal.history import NOWHERE, OriginState
from common.core.subscription.place import NO_FILTER, NO_RESUME_POINT, FilterState, Subscription
from common.journal.memory.append import append_pushed
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.leases import held, lease_end, take_away
from common.journal.memory.state import MemoryState, SubscriptionEntry
from common.journal.stores.leases import Lease
from common.journal.stores.subscriptions import (
    InboxRow,
    InboxStats,
    ReceivedCommit,
    blocked,
    check_ack,
    check_revision,
    check_room,
    lease_name,
)


class MemorySubscriptions:
    """``SubscriptionStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def get(self, name: str) -> Subscription | None:
        """See ``SubscriptionStore.subscription``."""
        await trio.lowlevel.checkpoint()
        entry = self._connections.database.state.subscriptions.get(name)
        return entry.current if entry else None

    async def rows(self) -> list[Subscription]:
        """See ``SubscriptionStore.subscriptions``."""
        await trio.lowlevel.checkpoint()
        return [entry.current for _, entry in sorted(self._connections.database.state.subscriptions.items())]

    async def set_requested(self, name: str, criteria: str, *, if_new: bool = False) -> FilterState:
        """See ``SubscriptionStore.set_requested``."""
        async with self._connections.transaction() as draft:
            entry = self._entry(draft, name)
            requested = entry.current.requested
            if requested.criteria != criteria and not (if_new and name in draft.subscriptions):
                requested = FilterState(requested.version + 1, criteria)
            draft.subscriptions[name] = replace(entry, current=replace(entry.current, requested=requested))
            return requested

    def _entry(self, draft: MemoryState, name: str) -> SubscriptionEntry:
        new = SubscriptionEntry(Subscription(name, NO_RESUME_POINT, NO_FILTER, 0, 0, self._connections.now_us()))
        return draft.subscriptions.get(name, new)

    async def forget(self, name: str) -> bool:
        """See ``SubscriptionStore.forget_subscription``."""
        async with self._connections.transaction() as draft:
            take_away(draft, lease_name(name))
            return draft.subscriptions.pop(name, None) is not None

    async def restart(self, name: str, lease: Lease) -> bool:
        """See ``SubscriptionStore.restart_subscription``."""
        async with self._connections.transaction() as draft:
            held(draft, lease)
            entry = draft.subscriptions.get(name)
            if entry is None:
                return False
            current = replace(
                entry.current,
                place=NO_RESUME_POINT,
                revision=entry.current.revision + 1,
                updated_us=self._connections.now_us(),
            )
            draft.subscriptions[name] = replace(entry, current=current, known={}, awaiting=frozenset(), deleted={})
            return True

    async def known(self, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
        """See ``SubscriptionStore.known``."""
        await trio.lowlevel.checkpoint()
        entry = self._connections.database.state.subscriptions.get(name)
        known = entry.known if entry else {}
        found = {persistence_id: known[persistence_id] for persistence_id in persistence_ids if persistence_id in known}
        bare = {one for one in persistence_ids if SEPARATOR not in one}
        if bare:
            found |= {name: number for name, number in known.items() if name.partition(SEPARATOR)[2] in bare}
        return found

    async def awaiting(self, name: str, max_rows: int) -> list[tuple[str, int]]:
        """See ``SubscriptionStore.awaiting``."""
        await trio.lowlevel.checkpoint()
        entry = self._connections.database.state.subscriptions.get(name)
        return [(key, entry.known[key]) for key in sorted(entry.awaiting)[:max_rows]] if entry else []

    async def deleted_of(self, persistence_id: str) -> list[tuple[str, StatedRange]]:
        """See ``SubscriptionStore.deleted_of``."""
        await trio.lowlevel.checkpoint()
        entries = sorted(self._connections.database.state.subscriptions.items())
        return [(name, entry.deleted[persistence_id]) for name, entry in entries if persistence_id in entry.deleted]

    async def commit(
        self,
        name: str,
        lease: Lease,
        revision: int,
        commit: ReceivedCommit,
        lease_s: float,
        *,
        inbox_max_bytes: int | None = None,
    ) -> int:
        """See ``SubscriptionStore.commit_received``."""
        async with self._connections.transaction() as draft:
            now_us = self._connections.now_us()
            draft.leases[lease.name] = replace(held(draft, lease), until_us=lease_end(now_us, lease_s))
            entry = self._entry(draft, name)
            check_revision(name, entry.current.revision, revision)
            entry = _with_inbox(entry, commit, inbox_max_bytes)
            current = replace(
                entry.current,
                place=commit.place,
                revision=revision + 1,
                received=entry.current.received + commit.received,
                updated_us=now_us,
            )
            awaiting = (entry.awaiting | {key for key, is_ in commit.awaiting.items() if is_}) - {
                key for key, is_ in commit.awaiting.items() if not is_
            }
            known = {**entry.known, **commit.known}
            for persistence_id in awaiting:
                known.setdefault(persistence_id, 0)
            deleted = last_of_each([*entry.deleted.values(), *commit.deleted]) if commit.deleted else ()
            draft.subscriptions[name] = replace(
                entry,
                current=current,
                known=known,
                awaiting=awaiting,
                deleted={one.persistence_id: one for one in deleted} or entry.deleted,
            )
            if commit.append is not None:
                self._append_received(draft, name, commit.append)
            self._connections.database.tables.run(commit.statements)
            return revision + 1

    def _append_received(self, draft: MemoryState, name: str, append: PushedAppend) -> None:
        # Lease and revision are the guard: the origin's row only counts where it is.
        new = OriginState(append.origin_id, 1, "", append.branch, NOWHERE, ())
        origin = draft.origins.setdefault(append.origin_id, new)
        request = replace(append, session=origin.session, after_position=origin.stored.position)
        outcome = append_pushed(self._connections, draft, request)
        if isinstance(outcome, OriginBlocked):
            raise blocked(name, outcome.parked, outcome.parked_max)

    async def inbox(self, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
        """See ``SubscriptionStore.inbox``."""
        await trio.lowlevel.checkpoint()
        entry = self._connections.database.state.subscriptions.get(name)
        found: list[InboxRow] = []
        size = 0
        for row in entry.inbox if entry else ():
            if row.id > after_id:
                size += len(row.event.payload) + EVENT_OVERHEAD_BYTES
                if found and (len(found) >= max_rows or size > max_bytes):
                    break
                found.append(row)
        return found

    async def ack_inbox(self, name: str, through_id: int) -> int:
        """See ``SubscriptionStore.ack_inbox``."""
        async with self._connections.transaction() as draft:
            entry = self._entry(draft, name)
            check_ack(name, through_id, entry.last_id)
            left = [row for row in entry.inbox if row.id > through_id]
            if len(left) < len(entry.inbox):
                draft.subscriptions[name] = replace(entry, inbox=left, acked_id=through_id)
            return len(entry.inbox) - len(left)

    async def inbox_stats(self, name: str) -> InboxStats:
        """See ``SubscriptionStore.inbox_stats``."""
        await trio.lowlevel.checkpoint()
        entry = self._connections.database.state.subscriptions.get(name)
        if entry is None:
            return InboxStats(0, 0, 0, 0, 0)
        return InboxStats(len(entry.inbox), entry.inbox_bytes, entry.acked_id + 1, entry.last_id, entry.acked_id)


def _with_inbox(entry: SubscriptionEntry, commit: ReceivedCommit, max_bytes: int | None) -> SubscriptionEntry:
    if not commit.inbox:
        return entry
    check_room(entry.current.name, entry.inbox_bytes, commit.inbox.byte_size(), max_bytes)
    rows = [
        InboxRow(entry.last_id + 1 + index, event, index in commit.leaving, index in commit.replaces)
        for index, event in enumerate(commit.inbox.envelopes())
    ]
    return replace(entry, inbox=[*entry.inbox, *rows], last_id=entry.last_id + len(rows))
