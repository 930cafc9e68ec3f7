"""What the demo found, as one value: drawn as tables for people, written as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from examples.demo.orders.proof import SiteFinding
from examples.demo.proof import EdgeFinding
from examples.demo.timing import CutLag, Latency
from examples.demo.wall import WallFinding


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
class Orders:
    """The way down: one finding an edge, and what the acts did. Latencies are from the cloud's commit to the program.

    ``latency_calm`` and ``latency_stopped`` are those of the edge that was neither stopped nor killed, before another
    one stopped reading and while it did.
    """

    sites: tuple[SiteFinding, ...]
    published: int
    moved: int
    backfilled_at_kill: int
    backfill_left_at_kill: int
    stopped_s: float
    latency_calm: Latency | None
    latency_stopped: Latency | None
    travelled: tuple[tuple[int, bool], ...] = ()
    """What the site got to which one order moved: numbers, and whether each was a snapshot."""


@dataclass(frozen=True, slots=True)
class NodeMoves:
    """What became of a killed cloud node's ranges: ``had`` of ``ranges`` until the kill, ``has`` when it was back."""

    node: str
    ranges: int
    had: int
    moved_s: float
    has: int
    returned_s: float


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
    orders: Orders
    wall: WallFinding
    nodes: NodeMoves | None
    seconds: float
    story: tuple[StoryLine, ...]
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that was promised is so."""
        return not self.problems

    @property
    def account(self) -> str:
        """Where every reading that went in is, in one sentence; only for an outcome that holds."""
        given, stored = sum(edge.given for edge in self.edges), sum(edge.in_cloud for edge in self.edges)
        lost = sum(len(edge.lost_with_disk) for edge in self.edges)
        if not lost:
            return f"Of {given:,} readings all are in the cloud, each once and in order."
        were = "was" if lost == 1 else "were"
        return (
            f"Of {given:,} readings {stored:,} are in the cloud, each once and in order; "
            f"{lost:,} {were} only on the disk that we destroyed, named above."
        )

    def as_json(self) -> dict[str, Any]:
        """The same facts for `json.dumps`; readings are [file, row, content]."""
        return {"holds": self.holds, "account": self.account if self.holds else "", **asdict(self)}
