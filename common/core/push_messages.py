"""What the two ends of a push stream say to each other (protos/backhaul/v1/push.proto has the protocol's steps)."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.append import ParkedEvent, StatedRange
from common.core.batch import EventBatch
from common.core.history import History, Offset, Resume

PROTOCOL_VERSION = 1
PUSH_PATH = "/backhaul.v1.Push/Connect"


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
    """Where to go on, and under which session."""

    session: int
    stored: Offset
    resume: Resume
    cloud_journal_id: str
    cloud_generation_id: str
    limits: PushLimits
    clock_us: int


@dataclass(frozen=True, slots=True)
class PushBatch:
    """Positions ``after_position`` < p <= ``through_position``; ``generation_id`` wrote the last of them."""

    after_position: int
    through_position: int
    generation_id: str
    events: EventBatch
    ranges: tuple[StatedRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """Every position up to this one is durable at the receiver."""

    position: int
    parked: tuple[ParkedEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life that says how many bytes have come so far."""

    bytes_received: int
    clock_us: int


@dataclass(frozen=True, slots=True)
class Drain:
    """The node stops: leave, and dial again after the pause."""

    retry_after_s: float
    reason: str


FromEdge = Hello | PushBatch | Heartbeat
FromCloud = Start | Ack | Heartbeat | Drain
