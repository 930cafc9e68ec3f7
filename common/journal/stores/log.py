"""The log itself: append to it, read it, trim it, and say where those are that follow it.

Positions are 1, 2, 3 … in commit order and appear in order, so a reader that asks for "after p" never has to look
twice; a position at or below the head that is not returned was deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest
from common.core.journal.history import History, Offset
from common.journal.commit_feed import CommitFeed
from common.journal.head_signal import HeadSignal

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
class TrimLimit:
    """What one chunk of retention may remove: events with position <= ``through``; an age is a position (``AgeStore``).

    ``reason`` is kept with the entities ("trimmed" or "dropped"); ``entity_types`` limits it when not empty. Entities of
    ``covered_types`` lose only what is at or below their latest snapshot: without it, nothing. Positions up to ``after``
    are not looked at, so that a long log is gone through in stretches; entities with events there lose nothing. Nor do
    the entities ``kept``, by persistence id. A chunk ends with the event that makes it weigh ``max_bytes``.
    """

    through: int
    max_events: int
    reason: str = "trimmed"
    entity_types: frozenset[str] = field(default_factory=frozenset)
    covered_types: frozenset[str] = field(default_factory=frozenset)
    after: int = 0
    kept: frozenset[str] = frozenset()
    max_bytes: int = 1 << 62


class LogStore(Protocol):
    """One totally ordered log, and the cursors of those who take it elsewhere."""

    head_signal: HeadSignal
    """Raised after each commit that moved the head, as far as this process knows; a hint, never the truth."""

    feed: CommitFeed
    """What this process's commits stored, for a reader that wants it before reading it."""

    read_counts: Counter[str]
    """How often this process has read the log, by kind (``READ_KINDS``)."""

    @property
    def history(self) -> History:
        """Journal id and generations as of opening, head as last known here."""

    @property
    def trims(self) -> int | None:
        """How often events were removed: while it stays the same, so does what was read of deleted ones.

        None where it is not known: one is under way, or others may do it too.
        """

    @property
    def place_key(self) -> str:
        """The journal's secret for the digests of places (``core.journal.place_digest``); it is never sent."""

    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """Judge and store all requests in one synced transaction; one outcome a request, in order.

        ``group_commit.Group`` says which requests may be in one group. It may be called again before it has returned:
        groups are stored in the order of the calls, one after the other. On return everything answered is durable. An
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

    async def read_histories(self, first: Mapping[str, int], *, each_max: int, max_bytes: int) -> dict[str, EventBatch]:
        """Of each entity all stored events from the number ``first`` on, in order; whole histories only.

        One with more than ``each_max`` events is left out, and so are all behind the first one, in the order given, with
        which the others that are short would weigh more than ``max_bytes`` together (``EventBatch.byte_size``).
        """

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """The entity's head row, or None when it never existed."""

    async def entity_heads(self, persistence_ids: Collection[str]) -> dict[str, EntityHead]:
        """The head rows of those of these entities that exist."""

    async def probe(self, append_bytes: int) -> None:
        """Find out whether appends can be stored now, of about ``append_bytes`` if not 0; stores nothing readers see.

        Costs a synced commit. Raises as ``append_group``.
        """

    async def stats(self) -> JournalStats:
        """Head, floor and sizes. After it, ``history`` has the generations that other nodes have begun, too."""

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """Entities whose last removed event stood at ``after`` < position <= ``through``: 1 … deleted_to, with reason.

        In the order of those positions; ``max_rows`` gives the first so many.
        """

    async def deleted_entities(self, after: int, through: int, *, max_rows: int) -> list[tuple[StatedRange, int]]:
        """As ``deleted_ranges``, each with that position: to go on from the last one's."""

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """For those of these entities that lost events to retention: 1 … deleted_to, and the tags of their last event."""

    async def tag_sets(self, persistence_ids: Collection[str]) -> dict[str, frozenset[str] | None]:
        """The distinct tags, joined, that events of these entities ever had; None where not all are known or too many."""

    async def trim(self, limit: TrimLimit) -> int:
        """Remove at most ``limit.max_events`` of the oldest events that ``limit`` allows; returns how many.

        An entity always loses its oldest events first.
        """

    async def event_bytes(self, after: int, through: int) -> int:
        """What the events with ``after`` < position <= ``through`` weigh, as bounds count them (``EventBatch.byte_size``)."""

    async def forget_append_ids(self, through: int, max_rows: int) -> int:
        """Remove append ids whose events begin at a position <= ``through``, the oldest first; returns how many."""

    async def load_cursor(self, name: str) -> Offset | None:
        """The place of a follower of this log, such as the push to the cloud, as the peer names it."""

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """Store the place."""
