"""What is known of the link on the way up while it is kept, over all its streams: for status, metrics and retention."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.core.flow.measures import CodeCounts, LatencyHistogram
from common.core.push.filter_transition import UNFILTERED, FilterTransition, PushFilterState
from common.transport.link.departure import Departure


@dataclass(slots=True)
class LinkState:
    """What is known of the link now, for status, metrics and summaries. Positions are the edge journal's."""

    state: str = "offline"
    since_us: int = 0
    session: int = 0
    sent_position: int = 0
    acked_position: int = 0
    resumed_position: int = 0
    """What the cloud had when the present link, or the last one, began: what was acked since is this link's doing."""
    acked_is_known: bool = False
    """Whether the cloud has named its position since this process began: before that nothing may be trimmed."""
    in_flight_bytes: int = 0
    window_bytes: int = 0
    ack_age_s: float = 0.0
    acks: LatencyHistogram = field(default_factory=LatencyHistogram)
    """How long each ack took, from the oldest batch that it covers."""
    ends: CodeCounts = field(default_factory=CodeCounts)
    clock_skew_s: float = 0.0
    last_progress_us: int = 0
    connects: int = 0
    parked: int = 0
    filter_version: int = 0
    """Of what the cloud asked for and is in force."""
    lanes: FilterTransition | None = None
    """What decides what is sent, of the present link or the last one; None before the first."""
    filters: PushFilterState = UNFILTERED
    """Which filters are in force, and up to where."""
    withheld: int = 0
    """Events that filters and ``on_push`` have withheld since this process began."""
    withheld_through: int = 0
    backfill_left: int = 0
    """Positions still to be looked through for what only that filter selects."""
    last_code: str = ""
    last_reason: str = ""
    last_hint: str = ""
    departure: Departure = field(default_factory=Departure)

    @property
    def position(self) -> int:
        """How far the cloud has this journal."""
        return self.acked_position

    @property
    def moved(self) -> int:
        """What was acknowledged since the present link, or the last one, began."""
        return self.acked_position - self.resumed_position

    def begins(self) -> None:
        """The cloud is dialled."""
        self.resumed_position = self.acked_position

    def passed(self, looked_at: Sequence[int], sent: Sequence[int]) -> None:
        """Live has come past these positions and sent some of them; those that an earlier link has passed are counted."""
        before = bisect_right(looked_at, self.withheld_through)
        self.withheld += len(looked_at) - before - (len(sent) - bisect_right(sent, self.withheld_through))
        self.withheld_through = max(self.withheld_through, looked_at[-1] if looked_at else 0)
