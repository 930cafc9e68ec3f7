"""How projections run on a node, and what each range of them does there at the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.ids import SliceRange
from common.core.flow.measures import LatencyHistogram


@dataclass(frozen=True, slots=True)
class ProjectionSettings:
    """How projections run on this node.

    ``ranges`` is how many a new projection is divided into; those with offsets have the ranges that the store has for
    them (``ProjectionStore.reshape``). ``lease_s`` is how
    long a dead owner's range rests before another takes it; ``save_s`` how far behind a stored offset may be that moves
    over events of other ranges only, or over effects that are no writes to this database; ``poll_s`` bounds how late an
    event is seen when no prompt arrives.
    """

    ranges: int = 1
    lease_s: float = 10.0
    save_s: float = 5.0
    poll_s: float = 0.5
    standby_poll_s: float = 1.0
    page_max_events: int = 2_000
    page_max_bytes: int = 1024 * 1024
    backoff_min_s: float = 0.5
    backoff_max_s: float = 30.0
    summary_s: float = 60.0


class ProjectionState(StrEnum):
    """What a range does on this node."""

    WAITING = "waiting"  # another owner holds the lease
    PAUSED = "paused"  # by an operator
    BEHIND = "behind"
    LIVE = "live"  # at the end of the log, waiting for the next event
    FAILING = "failing"  # retried with backoff


@dataclass(slots=True)
class ProjectionProgress:
    """A range as this process knows it, for metrics and status; written by the range's own task only.

    ``events`` and ``commits`` count since this process started. Lag is measured from the journal (``status``).
    """

    name: str
    slices: SliceRange
    state: ProjectionState = ProjectionState.WAITING
    position: int = 0
    epoch: int = 0
    events: int = 0
    commits: int = 0
    failures: int = 0
    error_code: str = ""
    error: str = ""
    """Why it fails at present, in words; '' when it does not."""
    fault: BackhaulError | None = None
    """The error itself, with what the handler raised as its cause: a test shows it, a log never does."""
    skipped: int = 0
    commit_latency: LatencyHistogram = field(default_factory=LatencyHistogram)


OnCommit = Callable[[ProjectionProgress, EventBatch], None]
"""Called right after each commit that had events, with those events. Must be quick and must not raise."""
