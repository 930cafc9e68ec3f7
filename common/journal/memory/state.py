"""What a journal in memory consists of: the durable state, drafts of it, and the database that several nodes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace

import trio

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.events.ids import SliceRange
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import EntityHead, ParkedNumbers, cut_range
from common.core.journal.ages import JournalAge
from common.core.journal.append import Appended, PushedAppend
from common.core.journal.history import Generation, Offset, OriginState
from common.core.journal.range_failure import RangeFailure
from common.core.journal.slice_ranges import Ahead
from common.core.journal.snapshot import Snapshot
from common.core.members.member import MemberReport
from common.core.push.filter_transition import PushFilterState
from common.core.push.requested_filter import RequestedFilter
from common.core.subscription.place import Subscription
from common.journal.change_signal import ChangeSignal
from common.journal.head_signal import HeadSignal
from common.journal.memory.tables import TablesInMemory
from common.journal.stores.fleet import FleetNote, FleetRow
from common.journal.stores.identities import BlockedIdentity
from common.journal.stores.origins import StoredRange
from common.journal.stores.parked import ParkedRow
from common.journal.stores.subscriptions import InboxRow


@dataclass(frozen=True, slots=True)
class AppendIdEntry:
    """What an append id was answered, and what it was asked."""

    digest: bytes
    outcome: Appended


@dataclass(frozen=True, slots=True)
class ParkedEntry:
    """A parked event and the branch it came on."""

    id: int
    origin_id: str
    branch: int
    code: str
    parked_us: int
    event: EventBatch
    """The one event, as it came."""

    @property
    def persistence_id(self) -> str:
        return self.event.persistence_id[0]

    @property
    def numbers(self) -> ParkedNumbers:
        return ParkedNumbers(self.id, self.branch, self.event.seq_nr[0], self.event.prev_seq_nr[0])

    @property
    def row(self) -> ParkedRow:
        return ParkedRow(self.id, self.origin_id, self.code, self.parked_us, self.event.envelope(0))


@dataclass(frozen=True, slots=True)
class ProjectionEntry:
    """One range of a projection: its offset and who may move it."""

    position: int
    epoch: int
    owner: str
    lease_until_us: int
    paused: bool
    updated_us: int
    ahead: tuple[Ahead, ...] = ()
    is_directed: bool = False
    moved_us: int | None = None
    failing: RangeFailure | None = None
    begin: int = 0


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """Who holds a lease, until when."""

    owner: str
    epoch: int
    until_us: int


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A node's row."""

    report: MemberReport
    renewals: int
    renewed_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class SubscriptionEntry:
    """A subscription with its entities' numbers and its inbox; replaced as a whole, so none of it is ever changed."""

    current: Subscription
    known: dict[str, int] = field(default_factory=dict)
    awaiting: frozenset[str] = frozenset()
    deleted: dict[str, StatedRange] = field(default_factory=dict)
    inbox: list[InboxRow] = field(default_factory=list)
    last_id: int = 0
    acked_id: int = 0

    @property
    def inbox_bytes(self) -> int:
        return sum(len(row.event.payload) + EVENT_OVERHEAD_BYTES for row in self.inbox)


@dataclass(slots=True)
class MemoryState:
    """All that is durable but the projections' tables; once published it is never changed again."""

    journal_id: str = ""
    generations: tuple[Generation, ...] = ()
    log: EventBatch = field(default_factory=EventBatch)
    head_position: int = 0
    head_timestamp_us: int = 0
    deleted_through: int = 0
    trims: int = 0
    heads: dict[str, EntityHead] = field(default_factory=dict)
    tag_sets: dict[str, frozenset[str]] = field(default_factory=dict)
    append_ids: dict[str, AppendIdEntry] = field(default_factory=dict)
    origins: dict[str, OriginState] = field(default_factory=dict)
    ranges: list[tuple[int, StoredRange]] = field(default_factory=list)
    parked: list[ParkedEntry] = field(default_factory=list)
    last_parked_id: int = 0
    cursors: dict[str, Offset] = field(default_factory=dict)
    projections: dict[tuple[str, SliceRange], ProjectionEntry] = field(default_factory=dict)
    leases: dict[str, LeaseEntry] = field(default_factory=dict)
    age: JournalAge = field(default_factory=JournalAge)
    members: dict[str, MemberEntry] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    migrated: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    older_snapshots: dict[str, tuple[Snapshot, ...]] = field(default_factory=dict)
    """Of an entity, the latest first."""
    subscriptions: dict[str, SubscriptionEntry] = field(default_factory=dict)
    requested_filters: dict[str, RequestedFilter] = field(default_factory=dict)
    last_filter_version: int = 0
    push_filter_states: dict[str, PushFilterState] = field(default_factory=dict)
    blocked: dict[str, BlockedIdentity] = field(default_factory=dict)
    fleet_rows: dict[str, FleetRow] = field(default_factory=dict)
    fleet_notes: dict[str, tuple[FleetNote, ...]] = field(default_factory=dict)
    fleet_nodes: dict[str, int] = field(default_factory=dict)

    def draft(self) -> MemoryState:
        """A copy to change; entity heads are copied one by one when they are touched (``DraftHeads``)."""
        return replace(
            self,
            log=self.log.slice(0, len(self.log)),
            heads=dict(self.heads),
            tag_sets=dict(self.tag_sets),
            append_ids=dict(self.append_ids),
            origins=dict(self.origins),
            ranges=list(self.ranges),
            parked=list(self.parked),
            cursors=dict(self.cursors),
            projections=dict(self.projections),
            leases=dict(self.leases),
            members=dict(self.members),
            migrated=dict(self.migrated),
            snapshots=dict(self.snapshots),
            older_snapshots=dict(self.older_snapshots),
            subscriptions=dict(self.subscriptions),
            requested_filters=dict(self.requested_filters),
            push_filter_states=dict(self.push_filter_states),
            blocked=dict(self.blocked),
            fleet_rows=dict(self.fleet_rows),
            fleet_notes=dict(self.fleet_notes),
        )

    def ranges_of(self, request: PushedAppend, persistence_id: str) -> list[StatedRange]:
        """What was stated of an entity by the request's origin on its branch."""
        meant = (request.branch, request.origin_id, persistence_id)
        return [
            kept.stated for branch, kept in self.ranges if (branch, kept.origin_id, kept.stated.persistence_id) == meant
        ]

    def cut_ranges(self, request: PushedAppend, returned: Mapping[str, int]) -> None:
        """See ``PushAdmission.returned``."""
        kept = []
        for branch, stored in self.ranges if returned else ():
            is_meant = (branch, stored.origin_id) == (request.branch, request.origin_id)
            seq_nr = returned.get(stored.stated.persistence_id) if is_meant else None
            left = stored.stated if seq_nr is None else cut_range(stored.stated, seq_nr)
            if left:
                kept.append((branch, replace(stored, stated=left)))
        self.ranges = kept if returned else self.ranges


class DraftHeads(MutableMapping[str, EntityHead]):
    """The entity heads of a draft as judging wants them: what it reads it may change, until ``keep`` or never."""

    def __init__(self, stored: dict[str, EntityHead]) -> None:
        self._stored = stored
        self._touched: dict[str, EntityHead] = {}

    def __getitem__(self, persistence_id: str) -> EntityHead:
        if persistence_id not in self._touched:
            self._touched[persistence_id] = replace(self._stored[persistence_id])
        return self._touched[persistence_id]

    def __setitem__(self, persistence_id: str, head: EntityHead) -> None:
        self._touched[persistence_id] = head

    def __delitem__(self, persistence_id: str) -> None:
        raise NotImplementedError("an entity's head is never removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored.keys() | self._touched.keys())

    def __len__(self) -> int:
        return len(self._stored.keys() | self._touched.keys())

    def keep(self) -> None:
        """Make what was judged part of the draft."""
        self._stored.update(self._touched)


class MemoryDatabase:
    """What survives: the log and its state, and the projections' tables in an SQLite database in memory."""

    def __init__(self) -> None:
        self.state = MemoryState()
        self.tables = TablesInMemory()
        self.lock = trio.Lock()
        self.head_signals: list[HeadSignal] = []
        """Of the journals that are open on it."""
        self.member_signals: list[ChangeSignal] = []
        self.member_locks: set[str] = set()
        """Members whose session is open."""

    def copy(self) -> MemoryDatabase:
        """A backup of what is durable now: opened in place of the original it is a rewound or a cloned disk."""
        backup = MemoryDatabase()
        backup.state = self.state
        backup.tables = self.tables.copy()
        return backup
