"""What the demo found, as one value: drawn as tables for people, written as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from examples.demo.proof import EdgeFinding
from examples.demo.timing import CutLag, Latency


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One thing that happened: an act of the script, a service's own log line, or one of those that warns."""

    at_s: float
    who: str
    what: str
    kind: Literal["act", "log", "alarm"]


@dataclass(frozen=True, slots=True)
class TallyLine:
    """One entity as a fold of the cloud's journal has it, and whether the `tally` table says the same."""

    entity: str
    events: int
    checksum: int
    out_of_order: int
    is_equal: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything the closing tables show. It holds when there are no ``problems``."""

    edges: tuple[EdgeFinding, ...]
    latencies: Mapping[str, Latency | None]
    latency_of_all: Latency | None
    cut: CutLag | None
    killed_unacked: int
    # Idempotency key of each POST in flight at the kill → whether the repeat found it stored.
    killed_in_flight: Mapping[str, bool | None]
    acked_at_loss: int
    tally: tuple[TallyLine, ...]
    cloud_events: int
    seconds: float
    story: tuple[StoryLine, ...]
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that was promised is so."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The same facts for `json.dumps`; readings are [file, row, content]."""
        return {"holds": self.holds, **asdict(self)}
