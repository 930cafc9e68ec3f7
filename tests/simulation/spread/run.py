"""One run: nodes come and go, then it is calm, in which the ranges must be spread and everything must have taken effect.

OwnersCommit   nothing is committed by a node that the range's row does not name as its owner
Converges      at the end every range is at the head of the log
TallyIsFold    the tally is a fold of the log
Spread         every node has its share, and the same slices of all projections are on one node
EffectsOnce    moves that were planned repeat no effect elsewhere
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import trio
from trio.testing import MockClock

from common.core.events.ids import slice_of
from common.core.members.assignment import RangeKey
from common.projection.tally import all_tallies
from tests.simulation.spread.cluster import Cluster
from tests.simulation.spread.mutations import MUTATIONS
from tests.simulation.spread.plan import Event, Happening, SpreadPlan, draw_spread_plan
from tests.simulation.trace import Trace, deterministic_scheduling
from tests.support.projections import expected_tallies, store

_CONVERGE_S = 60.0
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class SpreadOutcome:
    """What came of a run."""

    plan: SpreadPlan
    complaints: tuple[tuple[str, str], ...]
    """(checker, what it saw)"""
    digest: str
    lines: tuple[str, ...]

    def told(self, last_lines: int = 60) -> str:
        """Why it failed, under which plan, and what came before."""
        happenings = [f"  {one}" for one in self.plan.happenings]
        complaints = [f"! {checker}: {what}" for checker, what in self.complaints]
        return "\n".join([f"{self.plan}", *happenings, "...", *self.lines[-last_lines:], *complaints])


def simulate_spread(seed: int, mutation: str = "") -> SpreadOutcome:
    """Run a seed's plan, with a protection removed when ``mutation`` names one."""
    plan, trace = draw_spread_plan(seed), Trace()
    complaints: list[tuple[str, str]] = []
    with ExitStack() as stack:
        stack.enter_context(trace.captured_logs())
        stack.enter_context(deterministic_scheduling(seed))
        trio.run(_run, plan, trace, complaints, mutation, clock=MockClock(autojump_threshold=0))
    return SpreadOutcome(plan, tuple(complaints), trace.digest, tuple(trace.lines))


async def _run(plan: SpreadPlan, trace: Trace, complaints: list[tuple[str, str]], mutation: str) -> None:
    with trio.CancelScope() as whole, ExitStack() as stack:

        def complain(checker: str, what: str) -> None:
            complaints.append((checker, what))
            whole.cancel()

        cluster = Cluster(plan, trace, complain)
        if mutation:
            stack.enter_context(MUTATIONS[mutation].applied(cluster))
        async with trio.open_nursery() as nursery:
            for machine in cluster.machines.values():
                nursery.start_soon(machine.run)
                if machine.name not in plan.late:
                    machine.start()
            async with trio.open_nursery() as happening:
                happening.start_soon(_append, cluster)
                for one in plan.happenings:
                    happening.start_soon(_happen, cluster, one)
            trace.add("plan", "all is calm")
            for machine in cluster.machines.values():
                machine.start()
            await _converge(cluster, complain)
            nursery.cancel_scope.cancel()
        if plan.is_planned_only and (again := [at for at, times in sorted(cluster.effects.items()) if times > 1]):
            complain("EffectsOnce", f"the effects of {again[:5]} and {len(again)} in all happened again")


async def _append(cluster: Cluster) -> None:
    chance = Random(f"events {cluster.plan.seed}")
    while trio.current_time() < cluster.plan.faults_s:
        await store(cluster.operator, chance, chance.randint(1, 30), entities=40)
        await trio.sleep(chance.uniform(0, 0.4))


async def _happen(cluster: Cluster, one: Happening) -> None:
    await trio.sleep_until(one.at_s)
    cluster.trace.add("plan", f"{one}")
    machine = cluster.machines.get(one.node)
    match one.event:
        case Event.FAILOVER | Event.FAILOVER_AT_HAND_OVER:
            backup = await cluster.backup()
            with trio.move_on_after(one.for_s):
                if one.event is Event.FAILOVER:
                    await trio.sleep_forever()
                await cluster.handed_over.wait()
            await cluster.fail_over(backup)
        case Event.DRAIN:
            await cluster.operator.members.set_drained(one.node, True)
            # The name of each life is another; the operator names it as it is now.
            drained = machine.node.name if machine and machine.node else one.node
            await cluster.operator.members.set_drained(drained, True)
            await trio.sleep(one.for_s)
            await cluster.operator.members.set_drained(drained, False)
            await cluster.operator.members.set_drained(one.node, False)
        case Event.PAUSE:
            assert machine is not None
            gate = machine.gate
            gate.close()
            await trio.sleep(one.for_s)
            gate.open()
        case Event.KILL | Event.LEAVE:
            assert machine is not None
            await (machine.kill() if one.event is Event.KILL else machine.leave())
            await trio.sleep(one.for_s)
            machine.start()
        case Event.JOIN:
            assert machine is not None
            machine.start()


async def _converge(cluster: Cluster, complain: Callable[[str, str], None]) -> None:
    with trio.move_on_after(_CONVERGE_S):
        while _not_yet(cluster):  # noqa: ASYNC110  mock time
            await trio.sleep(_LOOK_S)
        if await all_tallies(cluster.operator.projections) != await expected_tallies(cluster.operator):
            complain("TallyIsFold", "events were lost, came twice or in another order")
        return
    complain(*(_not_yet(cluster) or ("Converges", "at the last moment")))


def _not_yet(cluster: Cluster) -> tuple[str, str] | tuple[()]:
    """What is missing: the checker that complains when it stays so."""
    state, live = cluster.disk.state, [machine.node for machine in cluster.machines.values() if machine.node]
    rows = state.projections
    behind = {key: row for key, row in rows.items() if row.position < _last(cluster, key)}
    if len(rows) != 2 * cluster.plan.ranges or behind:
        return "Converges", f"{len(rows)} ranges, behind {state.head_position}: {behind}"
    counts = Counter({node.instance: 0 for node in live})
    for (name, slices), row in rows.items():
        counts[row.owner] += 1
        if rows["tally", slices].owner != row.owner:
            return "Spread", f"{name} {slices} is apart from the others of its slices"
    if len(live) < len(cluster.machines) or max(counts.values()) - min(counts.values()) > 2:
        return "Spread", f"{dict(counts)}"
    if any(row.is_directed for row in rows.values()):
        return "Spread", "a range has not been accepted"
    return ()


def _last(cluster: Cluster, key: RangeKey) -> int:
    """Up to where a range has to be: it does not store that it has passed what is others'."""
    log, slices = cluster.disk.state.log, key[1]
    return max(
        (at for at, who in zip(log.position, log.persistence_id, strict=True) if slice_of(who) in slices), default=0
    )
