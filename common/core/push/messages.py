"""What the two ends of a push stream say to each other (protos/backhaul/v1/push.proto has the protocol's steps)."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.append import ParkedEvent, PushLane
from common.core.journal.history import History, Offset, Resume
from common.core.push.filter_transition import NO_FILTER, UNFILTERED, PushFilter, PushFilterApplied, PushFilterState

PROTOCOL_VERSION = 1
PUSH_PATH = "/backhaul.v1.Push/Connect"
CHECK_PATH = "/backhaul.v1.Push/Check"


@dataclass(frozen=True, slots=True)
class CheckReply:
    """What a Hello would be answered: a refusal (code, message, hint), or what holds for the id."""

    clock_us: int
    refusal: tuple[str, str, str] | None = None
    version: str = ""
    rule: str = ""
    may_write: bool = False
    is_connected: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """Who dials, with which journal."""

    origin_id: str
    instance: str
    history: History
    clock_us: int
    entity_types: tuple[str, ...] = ()
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class PushLimits:
    """Bounds the receiver sets: of one event, of one batch, and of what may be in flight."""

    window_events: int
    window_bytes: int
    batch_bytes: int
    event_bytes: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where to go on, under which session, and with which filter: ``place`` is what is, ``requested`` what is asked for."""

    session: int
    stored: Offset
    resume: Resume
    cloud_journal_id: str
    cloud_generation_id: str
    limits: PushLimits
    clock_us: int
    place: PushFilterState = UNFILTERED
    requested: PushFilter = NO_FILTER


@dataclass(frozen=True, slots=True)
class PushFilterUpdate:
    """The cloud asks for another filter; the edge answers ``PushFilterApplied`` when it comes to it, or to a later one."""

    version: int
    criteria: str
    history: Past = Past.NONE


@dataclass(frozen=True, slots=True)
class PushBatch:
    """Positions ``after_position`` < p <= ``through_position`` of a lane; ``generation_id`` wrote the last of them.

    Without positions (``through_position`` = ``after_position``) it holds ranges only: what is gone ahead of the lane.
    In the past lane the batches of the stream are counted in their place, and events are in no order but their entities'.
    """

    after_position: int
    through_position: int
    generation_id: str
    events: EventBatch
    ranges: tuple[StatedRange, ...] = ()
    lane: PushLane = PushLane.LIVE

    @property
    def rows(self) -> int:
        """Events and stated ranges."""
        return len(self.events) + len(self.ranges)


@dataclass(frozen=True, slots=True)
class Ack:
    """Every position of the lane up to this one is durable at the receiver, or was withheld; or batch of the past lane."""

    position: int
    parked: tuple[ParkedEvent, ...] = ()
    lane: PushLane = PushLane.LIVE


@dataclass(frozen=True, slots=True)
class PastQuestion:
    """Up to which number are these entities known? Asked before they enter, one question at a time."""

    persistence_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PastKnown:
    """The answer, in the order of the question: the last number stored, stated or parked (``core.push.past``).

    What is still being stored need not be in it.
    """

    seq_nrs: tuple[int, ...]


FromEdge = Hello | PushBatch | PushFilterApplied | Heartbeat | PastQuestion
FromCloud = Start | Ack | PushFilterUpdate | Heartbeat | Drain | PastKnown
