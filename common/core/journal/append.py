"""What may be asked of a journal's one writer, and what it answers.

Two kinds of sub-batch share a commit. A ``LocalAppend`` is atomic: all its events are stored or none. A
``PushedAppend`` carries a stretch of another journal: each event is judged, refused ones are parked, and the origin's
position moves in the same transaction. A bad sub-batch never touches another one's outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.journal.history import Offset
from common.core.journal.statement import Statement

LOCAL_OWNER = ""
NOT_ALLOWED = "parked.not_allowed"
"""Of an event whose entity its origin may not write: parked for its sender alone, the entity stays as it is."""


@dataclass(frozen=True, slots=True)
class LocalAppend:
    """Store ``events`` (see ``batch.new_events``) as the next ones of their entities, all or none.

    ``expected`` maps a persistence id to the number its entity must have before this append (0 = does not exist).
    ``append_id`` makes repeats safe: the first outcome is stored with it, and the same id with another ``digest`` is
    refused. ``statements`` are run in the same transaction when the events are stored; those of one group may be run
    together, text by text, so they must not depend on another request's.
    """

    events: EventBatch
    expected: Mapping[str, int] = field(default_factory=dict)
    append_id: str = ""
    digest: bytes = b""
    statements: tuple[Statement, ...] = ()

    @property
    def rows(self) -> int:
        """How much there is to store."""
        return len(self.events)


class PushLane(Enum):
    """Which of an origin's cursors a stretch moves (``core.push.filter_transition``); the past moves none."""

    LIVE = "live"
    BACKFILL = "backfill"
    PAST = "past"
    """What comes before the event with which an entity enters a filter (``core.push.past``)."""


@dataclass(frozen=True, slots=True)
class PushedAppend:
    """Positions ``after_position`` < p <= ``through.position`` of an origin's journal.

    ``events`` keeps the origin's numbering. ``poison`` maps an index in ``events`` to the code of what makes that event
    unfit to store; with ``NOT_ALLOWED`` it leaves the entity's head alone, and makes none. ``session`` must be the
    origin's newest, ``branch`` is the one its Hello opened. In the backfill lane positions are compared with the
    origin's backfill cursor, and events whose number is known are passed over; so they are in the past lane, in which
    batches are counted instead of positions, and nothing is compared but the session and ``generation_id``:
    that of the journal they are for, as it was when the stream began; empty = it is not compared.
    """

    origin_id: str
    session: int
    branch: int
    after_position: int
    through: Offset
    events: EventBatch
    ranges: tuple[StatedRange, ...] = ()
    poison: Mapping[int, str] = field(default_factory=dict)
    parked_max: int = 10_000
    lane: PushLane = PushLane.LIVE
    generation_id: str = ""

    @property
    def rows(self) -> int:
        """How much there is to store: a stated range costs about what an event does."""
        return len(self.events) + len(self.ranges)


AppendRequest = LocalAppend | PushedAppend


@dataclass(frozen=True, slots=True)
class Appended:
    """Stored: positions ``first_position`` … + n - 1 without holes, and each event's number in its entity."""

    first_position: int
    seq_nr: list[int]
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class AppendRefused:
    """Nothing of a ``LocalAppend`` was stored. ``expected`` and ``actual`` are entity numbers where they apply."""

    code: str
    message: str
    persistence_id: str = ""
    expected: int = 0
    actual: int = 0


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that was set aside with its payload; later ones of its entity queue behind it."""

    position: int
    persistence_id: str
    seq_nr: int
    code: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """All events up to ``position`` are durable, in the journal or parked."""

    position: int
    stored: int
    parked: tuple[ParkedEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Fenced:
    """A newer session of the same origin exists; nothing was stored.

    With the session's own number: the journal has begun another generation since, and may lack what was acknowledged.
    """

    session: int


@dataclass(frozen=True, slots=True)
class OutOfStep:
    """The origin's stored position is not where the batch begins; nothing was stored now.

    After a repeat whose first outcome was unknown, ``position`` at or above the batch's end means it had been stored.
    """

    position: int


@dataclass(frozen=True, slots=True)
class OriginBlocked:
    """Parking what was refused would exceed the origin's quota; nothing was stored."""

    parked: int
    parked_max: int


AppendOutcome = Appended | AppendRefused | Pushed | Fenced | OutOfStep | OriginBlocked
