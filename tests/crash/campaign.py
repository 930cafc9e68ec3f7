"""One campaign on one storage: start, die at every named fail point, die at random under load, settle, prove.

Each kill is reported with one line when its recovery is known: what, where, when, and how long until everything the edge
held was in the cloud and projected again. A kill may come before the one before it has been recovered from.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import trio

from common.fail_points import NAMES
from common.journal.migrations import load_migrations
from common.runtime.environment import real_environment
from examples.support.postgres import PostgresUnavailable
from tests.crash.failure import CrashFailure
from tests.crash.feeder import Feeder
from tests.crash.killing import Killer, Tell
from tests.crash.ledger import Ledger
from tests.crash.nodes import POINTS as NODE_POINTS
from tests.crash.proof import Finding, examine
from tests.crash.service_process import ServiceProcess
from tests.crash.stage import PREFIX, Stage, open_stage
from tests.crash.stores import read_cloud, read_edge

# Where each point can be reached: the cloud keeps what it has, and no projection runs at an edge.
EDGE_POINTS: Final = ("append.before_commit", "append.after_commit", "trim.before_commit")
CLOUD_POINTS: Final = ("append.before_commit", "append.after_commit", "push.before_ack", "projection.in_transaction")
MIGRATION: Final = "migration.in_transaction"
# Reached where a service follows another one's log: tests/crash/down/campaign.py kills both there.
CONSUMER_POINTS: Final = (
    "subscription.in_transaction",
    "subscription.before_ack",
    "subscription.after_filter_applied",
    "subscription.after_backfill_done",
    "inbox.in_transaction",
)
SOURCE_POINTS: Final = (
    "serving.before_filter_change",
    "serving.after_filter_change",
    "serving.in_backfill",
    "serving.before_backfill_done",
    "serving.after_backfill_done",
    "serving.in_snapshots",
    "serving.in_replay",
)
# Reached where a filter is changed: tests/e2e/test_filters.py kills it there.
FILTER_CHANGES: Final = ("push.before_filter_change", "push.after_filter_change")
# Reached where an entity comes into what is pushed: tests/crash/pasts/campaign.py kills the edge there.
PAST_POINTS: Final = ("push.in_past",)
# Reached where snapshots stand in for events: tests/e2e/up/test_snapshots.py kills the edge there.
SNAPSHOT_POINTS: Final = ("push.in_snapshots",)
assert {
    *EDGE_POINTS,
    *CLOUD_POINTS,
    *FILTER_CHANGES,
    *PAST_POINTS,
    *SNAPSHOT_POINTS,
    *CONSUMER_POINTS,
    *SOURCE_POINTS,
    *NODE_POINTS,
    MIGRATION,
} == NAMES, "a new fail point: say where it is reached"

_FEEDERS: Final = 3
_LEVEL_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: ``rounds`` through all fail points, then ``kills`` at random moments, the first of the kinds ``begin_with``.

    A brief campaign visits the points of edge and cloud side by side and does not wait for a recovery between them.
    """

    storage: str
    nodes: int
    rounds: int
    kills: int
    seed: int
    is_brief: bool = False
    begin_with: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What came of it. ``recovered_s`` has an entry for each kill that was recovered from before the next.

    ``restarts`` counts the starts that found PostgreSQL away, which end a service until it is started again.
    """

    plan: Plan
    directory: Path
    kills: Counter[str] = field(default_factory=Counter)
    points: Counter[tuple[str, str]] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)
    restarts: int = 0
    alarms: dict[str, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    finding: Finding | None = None
    problems: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything was proved."""
        return self.finding is not None and not self.problems


async def run_campaign(plan: Plan, directory: Path, tell: Tell) -> Outcome:
    """Run ``plan`` in ``directory``, where the stores and logs stay."""
    began_s = trio.current_time()
    outcome = Outcome(plan, directory)
    try:
        async with open_stage(directory, storage=plan.storage, nodes=plan.nodes, chance=Random()) as stage:
            try:
                await _Campaign(plan, stage, outcome, tell).run()
            finally:
                outcome.restarts = sum(one.restarts for one in stage.services)
                outcome.alarms = dict(sum((Counter(one.alarms()) for one in stage.services), Counter()))
    except* (CrashFailure, PostgresUnavailable) as group:
        outcome.problems += messages_of(group)
    outcome.took_s = trio.current_time() - began_s
    return outcome


def messages_of(group: BaseExceptionGroup[Exception]) -> list[str]:
    """What the errors of a group say."""
    return [
        message
        for error in group.exceptions
        for message in (messages_of(error) if isinstance(error, BaseExceptionGroup) else [str(error)])
    ]


class _Campaign:
    """A campaign while it runs."""

    def __init__(self, plan: Plan, stage: Stage, outcome: Outcome, tell: Tell) -> None:
        self._plan = plan
        self._stage = stage
        self._outcome = outcome
        self._ledger = outcome.ledger
        self._running: list[ServiceProcess] = []
        self._killer = Killer(
            stage,
            outcome,
            Random(plan.seed),
            tell,
            load=lambda: f"{self._ledger.answered_events:>7,} acknowledged, {self._ledger.in_flight} in flight",
            until_level=lambda: stage.until_level(self._running, _LEVEL_TIMEOUT_S),
        )

    async def run(self) -> None:
        """Everything up to the proof. Raises CrashFailure for what the rest cannot go on without."""
        stage, stop = self._stage, trio.Event()
        await self._first_starts()
        async with trio.open_nursery() as nursery:
            for number in range(1, _FEEDERS + 1):
                chance = Random(f"{self._plan.seed} feeder {number}")
                feeder = Feeder(number, self._ledger, lambda: stage.edge.http_port, PREFIX, chance)
                nursery.start_soon(feeder.run, stop)
            await stage.until_level(self._running, _LEVEL_TIMEOUT_S)
            for _ in range(self._plan.rounds):
                points = {stage.edge: EDGE_POINTS, stage.nodes[0]: CLOUD_POINTS}
                await self._killer.visit(points, is_brief=self._plan.is_brief)
            for node in stage.nodes[1:]:
                await node.start()
                self._running.append(node)
            await self._killer.at_random(self._plan.kills, begin_with=self._plan.begin_with)
            for service in stage.services:
                await service.until_ready()  # the feeders' last requests want an edge
            stop.set()
        await stage.until_level(stage.nodes, _LEVEL_TIMEOUT_S)
        for service in reversed(stage.services):
            await service.stop()
        await self._prove()

    # -- the kills -------------------------------------------------------------------------------------------------
    async def _first_starts(self) -> None:
        """New stores, and a death in each step of their making; then the edge and the first node are up."""
        edge, node = self._stage.edge, self._stage.nodes[0]
        steps = len(load_migrations(self._plan.storage)) + 1  # the last one: a projection's own
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._be_born, edge, 1)
            nursery.start_soon(self._be_born, node, steps)
        self._running = [node]

    async def _be_born(self, service: ServiceProcess, steps: int) -> None:
        # SQLite keeps each step that was done: every life does one and dies in the next. PostgreSQL does all or none.
        passes = [1, *([2] * (steps - 1))] if self._is_file(service) else [*range(1, steps + 1)]
        if self._plan.is_brief and steps > 2:  # the first step, the second, the last
            passes = [1, 2, steps - 1] if self._is_file(service) else [1, steps]
        await self._killer.die_along(service, [f"{MIGRATION}:{step}" for step in passes])
        await service.until_ready()

    def _is_file(self, service: ServiceProcess) -> bool:
        return service is self._stage.edge or self._stage.postgres is None

    # -- the proof -------------------------------------------------------------------------------------------------
    async def _prove(self) -> None:
        stage, outcome = self._stage, self._outcome
        async with real_environment() as environment:
            edge = await read_edge(environment, stage.edge_journal)
            cloud = await read_cloud(environment, stage.cloud_journal)
        outcome.finding = examine(self._ledger.requests, edge, cloud)
        outcome.problems += outcome.finding.problems
        outcome.problems += missed_points(outcome.points)
        if self._plan.rounds and not edge.deleted_through:
            outcome.problems.append("retention removed nothing at the edge: the campaign proved less than it should")


def missed_points(points: Counter[tuple[str, str]]) -> list[str]:
    """Each named fail point that no process died at, on a side where it can."""
    wanted = [("edge", point) for point in (*EDGE_POINTS, MIGRATION)]
    wanted += [("cloud", point) for point in (*CLOUD_POINTS, MIGRATION)]
    return [f"no {side} died at {point}" for side, point in wanted if not points[side, point]]


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """The closing table."""
    rows: list[tuple[str, list[str]]] = [
        ("", [title(outcome.plan) for outcome in outcomes]),
        ("kills", [", ".join(f"{name} {n}" for name, n in sorted(one.kills.items())) for one in outcomes]),
        ("recovered in, median / longest", [seconds(outcome.recovered_s) for outcome in outcomes]),
        (
            "lost answers: found stored / not",
            [f"{o.ledger.found_stored:,} / {o.ledger.found_unstored:,}" for o in outcomes],
        ),
        ("starts that found no database", [f"{outcome.restarts:,}" for outcome in outcomes]),
        ("old appends asked again", [f"{outcome.ledger.asked_again:,}" for outcome in outcomes]),
    ]
    findings = [outcome.finding for outcome in outcomes]
    figures: list[tuple[str, Callable[[Finding], str]]] = [
        ("events acknowledged", lambda finding: f"{finding.acknowledged:,}"),
        ("appends given up: stored / not", lambda f: f"{f.given_up_stored:,} / {f.given_up - f.given_up_stored:,}"),
        ("events in the cloud", lambda finding: f"{finding.in_cloud:,}"),
        ("still at the edge", lambda finding: f"{finding.at_edge:,}"),
        ("missing", lambda finding: f"{finding.missing:,}"),
        ("duplicate", lambda finding: f"{finding.duplicates:,}"),
        ("out of order", lambda finding: f"{finding.out_of_order:,}"),
    ]
    rows += [(name, [tell(finding) if finding else "-" for finding in findings]) for name, tell in figures]
    rows.append(("result", ["holds" if outcome.holds else "DOES NOT HOLD" for outcome in outcomes]))
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(outcomes))]
    return [
        f"  {name:<34}" + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]


def title(plan: Plan) -> str:
    """Which storages."""
    return f"SQLite → {'SQLite' if plan.storage == 'sqlite' else 'PostgreSQL'}" + (
        f", {plan.nodes} nodes" if plan.nodes > 1 else ""
    )


def seconds(taken: Sequence[float]) -> str:
    """Median and longest."""
    return f"{statistics.median(taken):.2f} s / {max(taken):.2f} s" if taken else "-"
