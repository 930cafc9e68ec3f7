"""What a journal is: one totally ordered log, and the state that moves with it in the same transactions.

Memory, SQLite and PostgreSQL each implement the parts, one class a part over one value for their connections, and are
held to one contract suite a part (``tests/contract/journal``). Everything that follows the log keeps its place in it
through origins, cursors or projections here, written together with the effect.

Every method of a part is safe to cancel: it happened or it did not, and a caller that must know repeats it.
``log.append_group`` is called by ``group_commit`` only. Errors: ``journal.unavailable`` when the storage cannot be reached
for now (retry), ``journal.io_error`` when a file's medium fails, ``journal.full`` at the byte cap, ``journal.disk_full``
when the disk has no room, ``journal.broken`` when it must not be used any more.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from common.journal.stores.ages import AgeStore
from common.journal.stores.fleet import FleetStore
from common.journal.stores.identities import IdentityStore
from common.journal.stores.leases import LeaseStore
from common.journal.stores.log import LogStore
from common.journal.stores.members import MemberStore
from common.journal.stores.origins import OriginStore
from common.journal.stores.parked import ParkedStore
from common.journal.stores.projections import ProjectionStore
from common.journal.stores.push_filters import PushFilterStore
from common.journal.stores.snapshots import SnapshotStore
from common.journal.stores.subscriptions import SubscriptionStore


@dataclass(frozen=True)
class Journal:
    """The journal of one service, open: its parts. Code that needs one or two of them takes those."""

    log: LogStore
    origins: OriginStore
    parked: ParkedStore
    projections: ProjectionStore
    leases: LeaseStore
    ages: AgeStore
    members: MemberStore
    subscriptions: SubscriptionStore
    snapshots: SnapshotStore
    push_filters: PushFilterStore
    identities: IdentityStore
    fleet: FleetStore


class OpenJournal(Protocol):
    """How a composition root opens a journal by URL or path."""

    def __call__(self, url: str) -> AbstractAsyncContextManager[Journal]: ...
