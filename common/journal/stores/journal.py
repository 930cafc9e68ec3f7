"""What a journal is: one totally ordered log, and the state that moves with it in the same transactions.

Memory, SQLite and PostgreSQL implement ``Journal`` and are held to one contract suite (``tests/contract``). Positions
are 1, 2, 3 … in commit order and appear in order, so a reader that asks for "after p" never has to look twice; a
position at or below the head that is not returned was deleted. Everything that follows the log keeps its place in it
through ``origin``, ``cursor`` or ``projection`` rows here, written together with the effect.

Every method is safe to cancel: it happened or it did not, and a caller that must know repeats it. ``append_group`` is
called by ``group_commit`` only. Errors: ``journal.unavailable`` when the storage cannot be reached for now
(retry), ``journal.full`` at the byte cap, ``journal.broken`` when it must not be used any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from common.core.events.batch import Envelope, EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest
from common.core.journal.history import History, Offset, OriginState, ResumeDecision
from common.journal.commit_feed import CommitFeed
from common.journal.head_signal import HeadSignal
from common.journal.stores.lease import ProjectionLease, SqlValue, Statement, Tables
from common.journal.stores.projections import ProjectionRow, ProjectionStore
from common.journal.stores.push_filters import PushFilterStore
from common.journal.stores.snapshots import SnapshotStore
from common.journal.stores.subscriptions import InboxRow, InboxStats, ReceivedCommit, SubscriptionStore

__all__ = [
    "InboxRow",
    "InboxStats",
    "Journal",
    "JournalStats",
    "LogPage",
    "OpenJournal",
    "ParkedRow",
    "ProjectionLease",
    "ProjectionRow",
    "ProjectionStore",
    "PushFilterStore",
    "ReceivedCommit",
    "SnapshotStore",
    "SqlValue",
    "Statement",
    "StoredRange",
    "SubscriptionStore",
    "Tables",
    "TrimLimit",
]


# All of the log or of some slices; by a selection; of one entity.
READ_KINDS = ("log", "selected", "entity")


@dataclass(frozen=True, slots=True)
class LogPage:
    """A stretch of the log: the events wanted, and how far it was looked through.

    ``through`` is the position up to which everything was examined (at least that of the last event; the head, or the
    bound that was asked for, when the end was reached); a reader goes on from there, also when a condition left
    nothing: one look is bounded. ``head`` was read with it or before.
    """

    events: EventBatch
    through: int
    head: int


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Sizes in bytes and counts, for summaries, the byte cap and metrics."""

    head_position: int
    head_timestamp_us: int
    deleted_through: int
    """Highest position that retention ever removed (0 = none); below it events may be missing."""
    first_position: int
    """Lowest position still stored; head + 1 when the log is empty."""
    used_bytes: int
    wal_bytes: int
    parked: int


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """An event set aside, as it came; ``id`` orders the rows of an entity."""

    id: int
    origin_id: str
    code: str
    parked_us: int
    event: Envelope


@dataclass(frozen=True, slots=True)
class StoredRange:
    """A stated range as it was received and kept."""

    origin_id: str
    stated: StatedRange
    received_us: int


@dataclass(frozen=True, slots=True)
class TrimLimit:
    """What one chunk of retention may remove: events with position <= ``through`` and stored before ``stored_before_us``.

    ``reason`` is kept with the entities ("trimmed" or "dropped"); ``entity_types`` limits it when not empty. Entities of
    ``covered_types`` lose only what is at or below their latest snapshot: without it, nothing. Positions up to ``after``
    are not looked at, so that a long log is gone through in stretches; entities with events there lose nothing.
    """

    through: int
    stored_before_us: int
    max_events: int
    reason: str = "trimmed"
    entity_types: frozenset[str] = field(default_factory=frozenset)
    covered_types: frozenset[str] = field(default_factory=frozenset)
    after: int = 0


class Journal(ProjectionStore, SnapshotStore, SubscriptionStore, PushFilterStore, Protocol):
    """The log of one service."""

    head_signal: HeadSignal
    """Raised after each commit that moved the head, as far as this process knows; a hint, never the truth."""

    feed: CommitFeed
    """What this process's commits stored, for whoever wants it before reading it."""

    read_counts: Counter[str]
    """How often this process has looked into the log, by kind (``READ_KINDS``)."""

    @property
    def history(self) -> History:
        """Journal id and generations as of opening, head as last known here."""

    # -- the log ---------------------------------------------------------------------------------------------------
    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """Judge and store all requests in one synced transaction; one outcome a request, in order.

        ``group_commit.Group`` says which requests may be in one group. It may be called again before it has returned:
        groups are stored in the order of the calls, one after the other. On return everything told is durable. An
        error means nothing is known to be stored: repeating the same group is safe for requests with an append id or
        an origin.
        """

    async def read(
        self,
        after: int,
        *,
        through: int | None = None,
        max_events: int,
        max_bytes: int,
        slices: SliceRange = ALL_SLICES,
        selection: Selection = EVERYTHING,
    ) -> LogPage:
        """Events with ``after`` < position <= ``through`` in order, up to the bounds, but the first one whatever its size.

        ``selection`` is found by indexes: what is read is about what is wanted, however much lies between.
        """

    async def read_entity(
        self, persistence_id: str, from_seq_nr: int, to_seq_nr: int, *, max_events: int
    ) -> EventBatch:
        """Stored events of one entity with from <= seq_nr <= to, in order."""

    async def read_entities(self, known: Mapping[str, int], *, each_max: int) -> EventBatch:
        """Of each entity the events numbered ``known`` + 1 … + ``each_max``, in order; one entity's follow each other."""

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """The entity's head row, or None when it never existed."""

    async def stats(self) -> JournalStats:
        """Head, floor and sizes. After it, ``history`` has the generations that other nodes have begun, too."""

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """Entities whose last removed event stood at ``after`` < position <= ``through``: 1 … deleted_to, with reason.

        In the order of those positions; ``max_rows`` gives the first so many.
        """

    async def trim(self, limit: TrimLimit) -> int:
        """Remove at most ``limit.max_events`` of the oldest events that ``limit`` allows; returns how many.

        An entity always loses its oldest events first, whatever the clock did between them (``core.retention.old_enough``).
        """

    async def event_bytes(self, after: int, through: int) -> int:
        """What the events with ``after`` < position <= ``through`` weigh, as bounds count them (``EventBatch.byte_size``)."""

    async def forget_append_ids(self, stored_before_us: int, max_rows: int) -> int:
        """Remove append ids older than that; returns how many."""

    # -- origins: logs of others that are received here --------------------------------------------------------------
    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """Decide (``history.decide_resume``) and store the new session in one transaction; refused ones change nothing."""

    async def origins(self) -> list[OriginState]:
        """All origins ever seen."""

    async def forget_superseded(self, origin_id: str) -> bool:
        """Let an origin's superseded journals, and logs left behind at forks, back in (an operator's decision).

        False when the origin is unknown.
        """

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """What was stated as never to come for one entity, oldest first."""

    # -- parked events -------------------------------------------------------------------------------------------------
    async def parked(
        self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000
    ) -> list[ParkedRow]:
        """Parked events in order of id."""

    async def parked_row(self, row_id: int) -> ParkedRow | None:
        """One parked event with its payload."""

    async def retry_parked(self, persistence_id: str, *, accept_gap: bool) -> tuple[int, str]:
        """Judge an entity's parked events again, in order, and store those that fit; (how many, code of the first left).

        With ``accept_gap`` an operator accepts that numbers before the first parked event are missing: the jump is
        kept as a stated range with reason "accepted".
        """

    async def discard_parked(self, row_id: int) -> bool:
        """Drop the first parked event of its entity for good: its number is kept as a stated range "discarded".

        Only the first one of an entity may go (``parked.not_first`` is raised otherwise); False when there is no such row.
        """

    # -- cursors of this service in other logs ---------------------------------------------------------------------------
    async def load_cursor(self, name: str) -> Offset | None:
        """The stored place in another log."""

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """Store the place."""


class OpenJournal(Protocol):
    """How a composition root opens a journal by URL or path."""

    def __call__(self, url: str) -> AbstractAsyncContextManager[Journal]: ...
