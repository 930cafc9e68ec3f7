"""What a seed decides: how large everything is, how the lines are, and which faults come when. Plain data.

A plan is drawn before anything runs and printed when a run fails, so a failure can be read, and replayed with fewer
faults, without knowing the code that drew it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import count, islice
from random import Random

from tests.simulation.down.plan import DownPlan, draw_down_plan

DAY_S = 86_400.0
LISTED = 500
"""How many seeds are listed."""
_LISTED_FROM = 2_000_000
DATABASE = "database"
"""The clock of the cloud's database, which both nodes store by."""


class Kind(StrEnum):
    """What can go wrong. ``Fault.target`` is an edge, a node or a clock; '' where there is only one to hit."""

    CUT = "cut"  # the edge's lines, now
    CUT_MESSAGE = "cut_message"  # in the middle of the edge's next message but `amount`; `how` is up or down
    CUT_AT_COMMIT = "cut_at_commit"  # between the cloud's next commit for this edge and its ack
    HOLD = "hold"  # a black hole for `for_s`, or for ever when that is 0
    SLOW = "slow"  # `amount` bytes a second for `for_s`
    REFUSE_DIALS = "refuse_dials"
    SWALLOW_DIALS = "swallow_dials"
    CRASH = "crash"  # of edge or node, down for `for_s`; `how` is now, in_commit or after_commit
    POWER_CUT = "power_cut"  # as CRASH, but the peers are told nothing
    STOP = "stop"  # and start again after `for_s`: what SIGTERM does
    STEP_CLOCK = "step_clock"  # by `amount` seconds
    LOSE_DISK = "lose_disk"  # the edge comes back with an empty one
    REWIND_EDGE = "rewind_edge"  # copied now, put back after `for_s`
    REWIND_CLOUD = "rewind_cloud"
    OLD_DISK_BACK = "old_disk_back"  # as LOSE_DISK; after `for_s` the lost disk is in the edge again for a while
    CLONE = "clone"  # a copy of the edge's disk runs for `for_s` under the same id
    ROT = "rot"  # one event not sent yet vanishes from the edge's disk, unsaid
    PAUSE = "pause"  # of all projections, for `for_s`


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, ``at_s`` seconds after the start."""

    at_s: float
    kind: Kind
    target: str = ""
    for_s: float = 0.0
    how: str = ""
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds, times (seconds) and delays both services and the world run with."""

    batch_events: int
    batch_bytes: int
    window_batches: int
    window_bytes: int
    payload_bytes: int
    heartbeat_s: float
    progress_timeout_s: float
    poll_s: float
    poll_only: bool
    backoff_max_s: float
    retention_s: float
    keep_acked_s: float
    drop_at_bytes: int
    """Size at which an edge drops its oldest plain events; 0 = it never does."""
    lease_s: float
    projection_ranges: int
    edge_commit_s: float
    cloud_commit_s: float


@dataclass(frozen=True, slots=True)
class Lines:
    """How new lines are: each number is a probability or a bound, drawn anew for every connection."""

    delay_max_s: float
    slow: float
    slow_bytes_per_s: float
    cut: float
    cut_messages_max: int


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Everything a seed decides but the order in which ready tasks run and what the applications append."""

    seed: int
    edges: tuple[str, ...]
    nodes: tuple[str, ...]
    faults_s: float
    appenders: int
    pause_s: float
    """Mean time between two appends of one appender."""
    sizes: Sizes
    lines: Lines
    held_for_ever: bool
    """Whether lines held at the end of the faults stay so: links must be left by themselves then."""
    down: DownPlan | None
    faults: tuple[Fault, ...]


def draw_plan(seed: int) -> FaultPlan:
    """The plan of a seed."""
    chance = Random(f"plan {seed}")
    edges = tuple(f"edge-{n + 1}" for n in range(chance.choice((1, 1, 2, 3))))
    nodes = tuple(f"node-{n + 1}" for n in range(chance.choice((1, 2, 2))))
    faults_s = chance.choice((15.0, 30.0, 50.0))
    down = draw_down_plan(seed, edges, faults_s)
    return FaultPlan(
        seed=seed,
        edges=edges,
        nodes=nodes,
        faults_s=faults_s,
        appenders=chance.randint(1, 2),
        pause_s=chance.choice((0.5, 1.0, 2.0)),
        sizes=_sizes(chance),
        lines=Lines(
            delay_max_s=chance.choice((0.0, 0.01, 0.2)),
            slow=chance.choice((0.0, 0.1)),
            slow_bytes_per_s=chance.choice((300.0, 3_000.0)),
            cut=chance.choice((0.0, 0.2, 0.6)),
            cut_messages_max=chance.choice((3, 10, 30)),
        ),
        held_for_ever=chance.random() < 0.5,
        down=down,
        faults=tuple(
            sorted((*_faults(chance, edges, nodes, faults_s), *_starts(down, nodes)), key=lambda fault: fault.at_s)
        ),
    )


def listed_seeds() -> list[int]:
    """The first ``LISTED`` seeds of a range whose plans have a way down: walls, moves, snapshots and changes of filters."""
    plans = ((seed, draw_plan(seed)) for seed in count(_LISTED_FROM))
    return list(islice((seed for seed, plan in plans if plan.down is not None), LISTED))


def _sizes(chance: Random) -> Sizes:
    batch_bytes = chance.choice((1_024, 4_096, 1_048_576))
    heartbeat_s = chance.choice((1.0, 3.0))
    return Sizes(
        batch_events=chance.choice((2, 5, 30, 2_000)),
        batch_bytes=batch_bytes,
        window_batches=chance.choice((1, 2, 8)),
        window_bytes=batch_bytes * chance.choice((1, 4)),
        payload_bytes=chance.choice((30, 300, 900)),
        heartbeat_s=heartbeat_s,
        progress_timeout_s=heartbeat_s * chance.choice((2, 3)),
        poll_s=chance.choice((0.3, 1.0)),
        poll_only=chance.random() < 0.3,
        backoff_max_s=chance.choice((0.5, 2.0)),
        retention_s=chance.choice((0.5, 2.0)),
        keep_acked_s=chance.choice((0.0, 3.0, 30.0, DAY_S)),
        drop_at_bytes=chance.choice((0, 0, 3_000, 10_000)),
        lease_s=chance.choice((1.0, 5.0)),
        projection_ranges=chance.choice((1, 2, 4)),
        edge_commit_s=chance.choice((0.0, 0.002, 0.02)),
        cloud_commit_s=chance.choice((0.001, 0.01, 0.1)),
    )


_LINE_FAULTS = (
    Kind.CUT,
    Kind.CUT_MESSAGE,
    Kind.CUT_MESSAGE,
    Kind.CUT_AT_COMMIT,
    Kind.CUT_AT_COMMIT,
    Kind.HOLD,
    Kind.HOLD,
    Kind.SLOW,
    Kind.REFUSE_DIALS,
    Kind.SWALLOW_DIALS,
)
_SERVICE_FAULTS = (Kind.CRASH, Kind.CRASH, Kind.POWER_CUT, Kind.STOP)
_STORAGE_FAULTS = (
    Kind.LOSE_DISK,
    Kind.REWIND_EDGE,
    Kind.REWIND_EDGE,
    Kind.REWIND_CLOUD,
    Kind.REWIND_CLOUD,
    Kind.OLD_DISK_BACK,
    Kind.CLONE,
    Kind.ROT,
)


def _faults(chance: Random, edges: tuple[str, ...], nodes: tuple[str, ...], faults_s: float) -> tuple[Fault, ...]:
    def some(least: int, most: int) -> range:
        return range(chance.randint(least, most))

    def at_s() -> float:
        return round(chance.uniform(0.5, faults_s), 3)

    faults = [_line_fault(chance, at_s(), chance.choice(_LINE_FAULTS), chance.choice(edges)) for _ in some(0, 8)]
    for _ in some(0, 5):
        targets = [chance.choice((*edges, *nodes))] if chance.random() < 0.8 else [chance.choice(edges), *nodes]
        moment, kind = at_s(), chance.choice(_SERVICE_FAULTS)
        for target in targets:
            how = chance.choice(("now", "in_commit", "after_commit"))
            faults.append(Fault(moment, kind, target, _short(chance), how))
    for _ in some(0, 2):
        clock = chance.choice((*edges, *nodes, DATABASE))
        step_s = chance.choice((-5.0, -3_600.0, 5.0, DAY_S))
        faults.append(Fault(at_s(), Kind.STEP_CLOCK, clock, amount=step_s))
    if chance.random() < 0.5:
        kinds = [chance.choice(_STORAGE_FAULTS) for _ in some(1, 3)]
        for kind in kinds:
            if kind is Kind.OLD_DISK_BACK and Kind.REWIND_CLOUD in kinds:
                continue  # a rewound cloud may not know which of two disks is the old one
            target = "" if kind is Kind.REWIND_CLOUD else chance.choice(edges)
            faults.append(Fault(at_s(), kind, target, round(chance.uniform(1, faults_s / 2), 3)))
    if chance.random() < 0.15:
        faults.append(Fault(at_s(), Kind.PAUSE, for_s=_short(chance)))
    return tuple(faults)


def _starts(down: DownPlan | None, nodes: tuple[str, ...]) -> list[Fault]:
    """A late subscription begins with a new process of its edge, a late projection with new ones of the nodes."""
    if down is None:
        return []
    late = [(one.from_s, one.edge) for one in down.subscriptions]
    late += [(down.fold.from_s, node) for node in nodes] if down.fold else []
    return [Fault(from_s, Kind.STOP, target) for from_s, target in late if from_s]


def _line_fault(chance: Random, at_s: float, kind: Kind, edge: str) -> Fault:
    match kind:
        case Kind.CUT_MESSAGE:
            return Fault(at_s, kind, edge, how=chance.choice(("up", "down")), amount=chance.randint(0, 3))
        case Kind.HOLD:
            return Fault(at_s, kind, edge, for_s=chance.choice((0.0, _short(chance), 3 * _short(chance))))
        case Kind.SLOW:
            return Fault(at_s, kind, edge, for_s=3 * _short(chance), amount=chance.choice((100.0, 1_000.0)))
        case Kind.CUT | Kind.CUT_AT_COMMIT:
            return Fault(at_s, kind, edge)
        case _:
            return Fault(at_s, kind, edge, for_s=_short(chance))


def _short(chance: Random) -> float:
    return round(chance.choice((0.0, chance.uniform(0, 1), chance.uniform(1, 8))), 3)
