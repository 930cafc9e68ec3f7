"""How a subscription runs here, and how it is: what a composition root sets, and what status, metrics and routes read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import trio

from common.core.filters.past import Past
from common.core.flow.measures import CodeCounts
from common.core.subscription.messages import Begin, OrderTime, StreamLimits
from common.journal.head_signal import HeadSignal
from common.transport.link.departure import Departure


@dataclass(frozen=True, slots=True)
class SubscriptionSettings:
    """Which stream, under which name, with which bounds; times in seconds.

    ``criteria`` is the filter of a subscription that has none stored yet.
    """

    name: str
    stream_id: str
    consumer_id: str
    limits: StreamLimits
    start: Begin | OrderTime = Begin.LOG
    on_trimmed: Begin = Begin.SNAPSHOTS
    on_diverged: Literal["stop", "restart"] = "stop"
    snapshots_if_behind: int = 0
    past: Past = Past.SNAPSHOT
    criteria: str = ""
    inbox_max_bytes: int | None = None
    heartbeat_s: float = 10.0
    progress_timeout_s: float = 30.0
    lease_s: float = 15.0
    look_s: float = 2.0
    """How often to look for a filter that was changed elsewhere."""


@dataclass(slots=True)
class SubscriptionState:
    """What is known of a subscription now. Positions are the source journal's.

    ``state`` is standby (another node has the lease), offline, dialling or connected.
    """

    name: str
    stream_id: str
    state: str = "offline"
    since_us: int = 0
    connects: int = 0
    ends: CodeCounts = field(default_factory=CodeCounts)
    last_code: str = ""
    last_reason: str = ""
    last_hint: str = ""
    position: int = 0
    resumed_position: int = 0
    head_position: int = 0
    """Of the source's log, as far as the source has named it."""
    backfill_position: int = -1
    applied_version: int = 0
    requested_version: int = 0
    received: int = 0
    repeated: int = 0
    deleted: int = 0
    """Events that the source had deleted before they came here: stated, and led over."""
    awaiting: int = 0
    takes_restarts: bool = True
    """Whether entities may begin again in what this subscription brings about."""
    timestamp_us: int = 0
    """Order time of the last event or place heard of, for the lag in seconds."""
    requested_changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    departure: Departure = field(default_factory=Departure)
    committed: HeadSignal = field(default_factory=HeadSignal)
    """Raised to the revision after each commit: who waits for an inbox looks."""

    @property
    def moved(self) -> int:
        """Positions the present link, or the last one, has brought."""
        return self.position - self.resumed_position

    def begins(self) -> None:
        """The source is dialled."""
        self.resumed_position = self.position

    def filter_changed(self) -> None:
        """Tell the open stream that another filter is stored: it asks for it at once."""
        self.requested_changed.unpark_all()
