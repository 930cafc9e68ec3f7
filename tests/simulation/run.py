"""One run of the simulation: faults first, then calm, in which everybody must come to the same state and end cleanly.

outcome = simulate(seed)            # or simulate_plan(plan) with a plan of your own
assert not outcome.complaints, outcome.story()
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields

import trio
from trio.testing import MockClock

from tests.simulation.down.orders_folded import NAME
from tests.simulation.down.workload import FilterChanger, ProjectionResetter, Publisher, Reader, SnapshotTaker
from tests.simulation.facts import CLOUD, named
from tests.simulation.faults import Faults
from tests.simulation.mutations import MUTATIONS
from tests.simulation.plan import FaultPlan, Kind, draw_plan
from tests.simulation.read_models import has_caught_up
from tests.simulation.referee import Complaint, Referee
from tests.simulation.trace import Trace, deterministic_scheduling
from tests.simulation.workload import Application
from tests.simulation.world import World

CONVERGE_S = 300.0
"""Virtual time after the faults within which everybody must have converged."""

_LOOK_S = 0.5
_SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run; times in virtual seconds."""

    plan: FaultPlan
    complaints: tuple[Complaint, ...]
    digest: str
    lines: tuple[str, ...]
    converged_s: float
    events: int
    lost: int

    def story(self, last_lines: int = 60) -> str:
        """Why it failed, under which plan, and what came before."""
        plan = [f"  {field.name} = {getattr(self.plan, field.name)}" for field in fields(self.plan)[:-1]]
        faults = [f"  {fault}" for fault in self.plan.faults]
        complaints = [f"! {complaint}" for complaint in self.complaints]
        return "\n".join([f"seed {self.plan.seed}", *plan, *faults, "...", *self.lines[-last_lines:], *complaints])


def simulate(seed: int, mutation: str = "") -> Outcome:
    """Run a seed's plan, with a protection removed when ``mutation`` names one."""
    return simulate_plan(draw_plan(seed), mutation)


def simulate_plan(plan: FaultPlan, mutation: str = "") -> Outcome:
    """Run a plan."""
    trace = Trace()
    with ExitStack() as stack:
        if mutation:
            stack.enter_context(MUTATIONS[mutation].applied())
        stack.enter_context(trace.captured_logs())
        stack.enter_context(deterministic_scheduling(plan.seed))
        return trio.run(_run, plan, trace, clock=MockClock(autojump_threshold=0))


async def _run(plan: FaultPlan, trace: Trace) -> Outcome:
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    with trio.CancelScope() as whole:
        referee = Referee(trace, plan.sizes, plan.down, whole.cancel)
        world = World(plan, trace, referee)
        with referee.down.sized():
            converged_s = await _phases(plan, trace, referee, world)
    _check_what_is_left(referee, world, tasks_before)
    for error in trace.errors:
        referee.complain("NothingInternal", error)
    return Outcome(
        plan,
        tuple(referee.complaints),
        trace.digest,
        tuple(trace.lines),
        0.0 if whole.cancelled_caught else converged_s,
        len(referee.facts.order),
        len(referee.facts.lost),
    )


async def _phases(plan: FaultPlan, trace: Trace, referee: Referee, world: World) -> float:
    applications = [Application(name, name, host, plan, referee) for name, host in world.edges.items()]
    reading = trio.CancelScope()
    async with trio.open_nursery() as machines:
        for host in world.hosts.values():
            machines.start_soon(host.run)
        machines.start_soon(_read, plan, referee, world, reading)
        faults = Faults(world, referee, trace)
        operating = trio.CancelScope()
        if any(fault.kind is Kind.CLONE for fault in plan.faults):
            machines.start_soon(_operate, faults, operating)
        async with trio.open_nursery() as nursery:
            for until in _users_of_the_way_down(plan, referee, world):
                nursery.start_soon(until, plan.faults_s)
            for application in applications:
                nursery.start_soon(application.run, plan.faults_s)
            nursery.start_soon(faults.run, plan.faults)
            await trio.sleep(plan.faults_s)
            trace.add("fault", "all faults are over")
            world.heal()
        converged_s = await _convergence(plan, referee, world)
        reading.cancel()
        operating.cancel()
        for host in world.hosts.values():
            host.retire()
        async with trio.open_nursery() as stopping:
            for host in world.hosts.values():
                stopping.start_soon(host.stop)
    referee.at_end([host.disk for host in world.edges.values()])
    disks = {name: host.disk for name, host in world.edges.items()}
    referee.down.at_end({**disks, CLOUD: referee.facts.cloud_disk})
    return converged_s


async def _convergence(plan: FaultPlan, referee: Referee, world: World) -> float:
    """Seconds until everything every edge has is in the cloud and projected; complains when that takes too long.

    It must stay so for a while: a node that learns late of another one's generation has its consumers begin anew.
    """
    began_s = trio.current_time()
    while True:
        while missing := _not_yet(plan, referee, world):
            if trio.current_time() - began_s > CONVERGE_S:
                referee.complain("Converges", f"after {CONVERGE_S:g} s: {missing}")
            await trio.sleep(_LOOK_S)
        converged_s = trio.current_time() - began_s
        await trio.sleep(_SETTLE_S)
        if not _not_yet(plan, referee, world):
            return converged_s


def _not_yet(plan: FaultPlan, referee: Referee, world: World) -> str:
    cloud = referee.facts.cloud_disk.state
    for name, host in world.edges.items():
        edge, origin = host.disk.state, cloud.origins.get(name)
        at = (origin.stored.journal_id, origin.stored.position) if origin else ("", 0)
        if name in referee.facts.cloned:
            # A clone may have left the cloud at any position, and an idle original need not have noticed.
            # What it removed as acknowledged, before it dialled a cloud that was put back, it has yet to state.
            facts = referee.facts
            missing = [payload for payload in edge.log.payload if not facts.is_settled(payload)]
            missing += [payload for payload in facts.removed_unsent if facts.is_missing(payload)]
            if missing:
                return f"{name} has {named(missing[0])} and {len(missing) - 1} more that the cloud has not"
        elif edge.head_position and at != (edge.journal_id, edge.head_position):
            return f"{name} has {edge.head_position} of {edge.journal_id}, the cloud {at[1]} of {at[0]}"
    disks = {CLOUD: referee.facts.cloud_disk, **{name: host.disk for name, host in world.edges.items()}}
    for one in plan.down.subscriptions if plan.down else ():
        waiting_for = referee.down.not_yet(one, disks[one.edge], disks[one.source])
        if waiting_for:
            return waiting_for
    folds = (NAME,) if plan.down and plan.down.fold else ()
    is_projected = has_caught_up(cloud, plan.sizes.projection_ranges, others=folds)
    return "" if is_projected else f"projections: {cloud.projections}"


async def _operate(faults: Faults, operating: trio.CancelScope) -> None:
    with operating:
        await faults.readmit()


async def _read(plan: FaultPlan, referee: Referee, world: World, reading: trio.CancelScope) -> None:
    """The programs that work off inboxes: they go on until everything has come."""
    with reading:
        async with trio.open_nursery() as nursery:
            for one in plan.down.subscriptions if plan.down else ():
                assert plan.down is not None
                nursery.start_soon(Reader(one, plan, plan.down, world, referee).run)


def _users_of_the_way_down(
    plan: FaultPlan, referee: Referee, world: World
) -> Iterator[Callable[[float], Awaitable[None]]]:
    """What runs until the faults are over."""
    down = plan.down
    if down is None:
        return
    for number in range(down.publishers):
        yield Publisher(number + 1, plan, down, world, referee).run
    for one in down.subscriptions:
        if one.is_changing:
            yield FilterChanger(one, world.edges[one.edge], plan, down, referee).run
    yield SnapshotTaker(plan, down, world.nodes, referee).run
    if down.fold is not None:
        yield ProjectionResetter(plan, down.fold, world.nodes).run


def _check_what_is_left(referee: Referee, world: World, tasks_before: int) -> None:
    left = {
        "connections": len(world.network.connections),
        "journals": sum(len(disk.head_signals) for disk in (*referee.facts.disks, referee.facts.cloud_disk)),
        "locks": sum(disk.lock.locked() for disk in (*referee.facts.disks, referee.facts.cloud_disk)),
        "tasks": trio.lowlevel.current_statistics().tasks_living - tasks_before,
    }
    if any(left.values()):
        referee.complain("EndsClean", f"left behind: {left}")
