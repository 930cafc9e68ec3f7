"""What a consumer and its source say to each other (protos/backhaul/v1/subscribe.proto has the protocol's steps)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.history import History
from common.core.subscription.place import FilterState, LogCursor, ResumePoint, SnapshotScan

PROTOCOL_VERSION = 1
SUBSCRIBE_PATH = "/backhaul.v1.Subscription/Subscribe"
LATEST_OFFSET_PATH = "/backhaul.v1.Subscription/LatestOffset"
ENTITY_EVENTS_PATH = "/backhaul.v1.Subscription/EntityEvents"
EVENT_PATH = "/backhaul.v1.Subscription/Event"


class DeliveryLane(StrEnum):
    """Which cursor a message moves; a replay moves none."""

    LIVE = ""
    BACKFILL = "backfill"
    REPLAY = "replay"


class Begin(StrEnum):
    """Where a consumer that was never subscribed begins, and one from whom events were trimmed goes on."""

    LOG = "log"
    SNAPSHOTS = "snapshots"
    NOW = "now"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class OrderTime:
    """Where a consumer that was never subscribed begins: behind the source's events up to this order time, microseconds."""

    timestamp_us: int


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds a consumer sets: bytes that may be in flight, and when a message is full."""

    window_bytes: int
    batch_bytes: int
    batch_events: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Who dials, for which stream, from which place, with which filter."""

    stream_id: str
    consumer_id: str
    subscription: str
    place: ResumePoint
    requested: FilterState
    limits: StreamLimits
    clock_us: int
    start: Begin | OrderTime = Begin.LOG
    on_trimmed: Begin = Begin.SNAPSHOTS
    snapshots_if_behind: int = 0
    past: Past = Past.SNAPSHOT
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class FilterUpdate:
    """Another filter is wanted."""

    version: int
    criteria: str


@dataclass(frozen=True, slots=True)
class ConsumerAck:
    """So many deliveries of this stream have taken effect."""

    deliveries: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Events of an entity are missing from a number on."""

    persistence_id: str
    from_seq_nr: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Where the lanes go on: ``place`` with the filters they serve, and why there (a ``Resumed``)."""

    history: History
    floor_position: int
    resume: str
    place: ResumePoint
    window_bytes: int
    replays_max: int
    clock_us: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """What a lane selects of positions ``after`` < p <= ``through``.

    ``ranges`` hold before the first event. The first ``snapshots`` events stand for all numbers of their entities up to
    their own. ``scan`` is set while the lane is in its snapshots, as it is after this message. ``reached`` is the highest
    position of what snapshots and ranges stand for, where that may be beyond the lane. ``unstated_to`` is above
    ``through`` when deleted events among these positions are stated only with later ones, up to there at the latest.
    """

    lane: DeliveryLane
    after: int
    through: int
    timestamp_us: int = 0
    digest: str = ""
    events: EventBatch = field(default_factory=EventBatch)
    ranges: tuple[StatedRange, ...] = ()
    leaving: tuple[int, ...] = ()
    snapshots: int = 0
    scan: SnapshotScan | None = None
    replay_of: str = ""
    replay_done: bool = False
    reached: int = 0
    unstated_to: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing of ``after`` < p <= ``through`` is for this lane; ``unstated_to`` as in ``Deliver``."""

    lane: DeliveryLane
    after: int
    through: int
    timestamp_us: int = 0
    digest: str = ""
    unstated_to: int = 0


@dataclass(frozen=True, slots=True)
class FilterApplied:
    """From ``change_position`` on the live lane serves both filters; ``begin`` is where backfill does, None without.

    ``wall`` names what the consumer may see at most from then on.
    """

    version: int
    change_position: int
    begin: LogCursor | None
    wall: str = ""


@dataclass(frozen=True, slots=True)
class BackfillDone:
    """Backfill has met live at ``position``: the filter of this version is the applied one."""

    version: int
    position: int


FromConsumer = Subscribe | FilterUpdate | ConsumerAck | Replay | Heartbeat
FromSource = Subscribed | Deliver | Progress | FilterApplied | BackfillDone | Heartbeat | Drain


@dataclass(frozen=True, slots=True)
class LatestOffset:
    """How far a log goes, and from where it is whole."""

    journal_id: str
    generation_id: str
    head_position: int
    floor_position: int
    timestamp_us: int


@dataclass(frozen=True, slots=True)
class EntityQuery:
    """Events of one entity of a stream, asked for once; ``to_seq_nr`` 0 = to the last one."""

    stream_id: str
    consumer_id: str
    persistence_id: str = ""
    from_seq_nr: int = 0
    to_seq_nr: int = 0


@dataclass(frozen=True, slots=True)
class EntityEvents:
    """Events of one entity, the first one a snapshot if so said; ``next_seq_nr`` 0 = that was all."""

    events: EventBatch
    begins_with_snapshot: bool = False
    ranges: tuple[StatedRange, ...] = ()
    next_seq_nr: int = 0
