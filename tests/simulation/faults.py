"""Doing what a plan says goes wrong, and undoing it when its time is over."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import trio

from common.journal.memory.connections import MemoryConnections
from common.journal.memory.journal import compose
from common.projection.latest import LATEST
from common.projection.tally import TALLY
from common.transport.memory.line import MemoryConnection
from tests.simulation.disks import Disk, State
from tests.simulation.facts import CLOUD
from tests.simulation.hosts import Host
from tests.simulation.plan import DATABASE, Fault, Kind
from tests.simulation.referee import Referee
from tests.simulation.trace import Trace
from tests.simulation.workload import Application
from tests.simulation.world import World

_FOR_A_COMMIT_S = 5.0
_LOOK_S = 0.0007
_OLD_DISK_S = 5.0
_OPERATOR_S = 2.0


class Faults:
    """The plan's faults. When the world gets calm, each that lasts is undone at once."""

    def __init__(self, world: World, referee: Referee, trace: Trace) -> None:
        self._world = world
        self._referee = referee
        self._trace = trace
        self._clones = 0
        # One exchange of an edge's disk, or of the cloud's, at a time.
        self._exchanging = {name: trio.Lock() for name in (*world.edges, CLOUD)}
        self._do: dict[Kind, Callable[[Fault], Awaitable[None]]] = {
            Kind.CUT: self._cut,
            Kind.CUT_MESSAGE: self._cut_message,
            Kind.CUT_AT_COMMIT: self._cut_at_commit,
            Kind.HOLD: self._hold,
            Kind.SLOW: self._slow,
            Kind.REFUSE_DIALS: self._refuse_dials,
            Kind.SWALLOW_DIALS: self._swallow_dials,
            Kind.CRASH: self._crash,
            Kind.POWER_CUT: self._crash,
            Kind.STOP: self._stop,
            Kind.STEP_CLOCK: self._step_clock,
            Kind.LOSE_DISK: self._lose_disk,
            Kind.REWIND_EDGE: self._rewind_edge,
            Kind.REWIND_CLOUD: self._rewind_cloud,
            Kind.OLD_DISK_BACK: self._old_disk_back,
            Kind.CLONE: self._clone,
            Kind.ROT: self._rot,
            Kind.PAUSE: self._pause,
        }

    async def run(self, faults: tuple[Fault, ...]) -> None:
        """All of them, each at its time; returns when the last one is undone."""
        async with trio.open_nursery() as nursery:
            for fault in faults:
                nursery.start_soon(self._run_one, fault)

    async def _run_one(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at_s)
        self._trace.add("fault", f"{fault.kind} {fault.target} {fault.how} {fault.for_s} {fault.amount}")
        await self._do[fault.kind](fault)

    async def readmit(self) -> None:
        """What the operator of cloned edges does, until cancelled: the clone is off, so the original is let in again.

        An edge that says nothing of being refused waits for ever.
        """
        world, facts = self._world, self._referee.facts
        operator = compose(MemoryConnections(facts.cloud_disk, world.clocks[DATABASE], 0.001))
        while True:
            await trio.sleep(_OPERATOR_S)
            for name in sorted(facts.cloned):
                # Not while a clone runs, or while another fault has an old disk in the edge.
                async with self._exchanging[name], self._exchanging[CLOUD]:
                    life = world.edges[name].life
                    if life not in self._trace.superseded:
                        continue
                    self._trace.superseded.discard(life)
                    self._trace.add("operator", f"lets {life} in again")
                    facts.readmitted.add(name)
                    await operator.origins.forget_superseded(name)

    async def _pause_for(self, seconds: float) -> None:
        """Let time pass, but not more than until the faults are over."""
        with trio.move_on_after(seconds):
            await self._world.calm.wait()

    # -- lines -----------------------------------------------------------------------------------------------------
    def _lines(self, fault: Fault) -> list[MemoryConnection]:
        return self._world.lines_of(fault.target)

    async def _cut(self, fault: Fault) -> None:
        for connection in self._lines(fault):
            connection.cut()

    async def _cut_message(self, fault: Fault) -> None:
        for connection in self._lines(fault):
            connection.cut_after("up" if fault.how == "up" else "down", messages=fault.amount)

    async def _cut_at_commit(self, fault: Fault) -> None:
        def cut(before: State, after: State) -> None:
            old, new = before.origins.get(fault.target), after.origins.get(fault.target)
            if self._world.calm.is_set():
                self._referee.on_cloud_commit.remove(cut)
            elif old and new and old.stored != new.stored:
                self._trace.add("fault", f"{fault.target} is cut between commit and ack")
                for connection in self._lines(fault):
                    connection.cut()
                self._referee.on_cloud_commit.remove(cut)

        self._referee.on_cloud_commit.append(cut)

    async def _hold(self, fault: Fault) -> None:
        held = self._lines(fault)
        for connection in held:
            connection.hold()
        await self._pause_for(fault.for_s or math.inf)
        if fault.for_s or not self._world.plan.held_for_ever:
            for connection in held:
                connection.let_go()

    async def _slow(self, fault: Fault) -> None:
        slowed = self._lines(fault)
        for connection in slowed:
            connection.bytes_per_s = fault.amount
        await self._pause_for(fault.for_s)
        for connection in slowed:
            connection.bytes_per_s = math.inf

    async def _refuse_dials(self, fault: Fault) -> None:
        await self._while_in(self._world.refused, fault)

    async def _swallow_dials(self, fault: Fault) -> None:
        await self._while_in(self._world.swallowed, fault)

    async def _while_in(self, names: set[str], fault: Fault) -> None:
        names.add(fault.target)
        try:
            await self._pause_for(fault.for_s)
        finally:
            names.discard(fault.target)

    # -- machines --------------------------------------------------------------------------------------------------
    async def _crash(self, fault: Fault) -> None:
        host = self._world.hosts[fault.target]
        crash = partial(host.crash, is_power_cut=fault.kind is Kind.POWER_CUT)
        with self._down(host):
            await self._reach(host, fault.how, crash)
            crash()
            await host.gone()
            await self._pause_for(fault.for_s)

    async def _reach(self, host: Host, moment: str, crash: Callable[[], None]) -> None:
        """Wait until a commit of the host's disk is under way, or crash it in the instant after one."""
        with trio.move_on_after(_FOR_A_COMMIT_S):
            if moment == "in_commit":
                while not host.disk.lock.locked():  # noqa: ASYNC110  a lock tells nobody that it was taken
                    await trio.sleep(_LOOK_S)
            elif moment == "after_commit":
                await self._next_commit(host.disk, crash)

    async def _next_commit(self, disk: Disk, act: Callable[[], None]) -> None:
        """Call ``act`` in the instant in which the disk has taken a commit, before anybody else knows of it."""
        happened = trio.Event()
        is_cloud = disk is self._referee.facts.cloud_disk

        def on_edge(committed: Disk) -> None:
            if committed is disk and not happened.is_set():
                act()
                happened.set()

        def on_cloud(_before: State, _after: State) -> None:
            if not happened.is_set():
                act()
                happened.set()

        try:
            if is_cloud:
                self._referee.on_cloud_commit.append(on_cloud)
            else:
                self._referee.on_edge_commit.append(on_edge)
            await happened.wait()
        finally:
            if is_cloud:
                self._referee.on_cloud_commit.remove(on_cloud)
            else:
                self._referee.on_edge_commit.remove(on_edge)

    async def _stop(self, fault: Fault) -> None:
        host = self._world.hosts[fault.target]
        with self._down(host):
            await host.stop()
            await self._pause_for(fault.for_s)

    async def _step_clock(self, fault: Fault) -> None:
        self._world.clocks[fault.target].step(fault.amount)

    @contextmanager
    def _down(self, *hosts: Host) -> Iterator[None]:
        with ExitStack() as stack:
            for host in hosts:
                stack.enter_context(host.kept_down())
            yield

    # -- storage ---------------------------------------------------------------------------------------------------
    def _exchange(self, host: Host, disk: Disk, *, comes_back: bool = False) -> None:
        """Put another disk into an edge that is down; the one taken out is gone unless it comes back."""
        facts = self._referee.facts
        taken_out, host.disk = host.disk, disk
        if comes_back:
            facts.disks.append(disk)
        else:
            facts.edge_disk_gone(taken_out, disk)
        self._trace.add(host.name, f"has another disk, head {disk.state.head_position}")

    async def _off(self, *hosts: Host) -> None:
        for host in hosts:
            host.crash()
        for host in hosts:
            await host.gone()

    async def _lose_disk(self, fault: Fault) -> None:
        host = self._world.edges[fault.target]
        async with self._exchanging[host.name]:
            with self._down(host):
                await self._off(host)
                self._exchange(host, Disk(host.name, self._referee.committed))

    async def _rewind_edge(self, fault: Fault) -> None:
        host = self._world.edges[fault.target]
        async with self._exchanging[host.name]:
            async with host.disk.lock:
                backup = host.disk.copy()
            await self._pause_for(fault.for_s)
            with self._down(host):
                await self._off(host)
                self._exchange(host, backup)

    async def _rewind_cloud(self, fault: Fault) -> None:
        cloud = self._referee.facts.cloud_disk
        nodes = list(self._world.nodes.values())
        async with self._exchanging[cloud.name]:
            async with cloud.lock:
                backup = cloud.copy()
            await self._pause_for(fault.for_s)
            with self._down(*nodes):
                await self._off(*nodes)
                cloud.restore(backup)
                self._referee.cloud_replaced(cloud.state)
                self._trace.add(cloud.name, f"is rewound to {cloud.state.head_position}")

    async def _old_disk_back(self, fault: Fault) -> None:
        """Only an operator lets the old disk in: the edge is refused, and nothing of that disk reaches the cloud."""
        host = self._world.edges[fault.target]
        async with self._exchanging[host.name]:
            old, new = host.disk, Disk(host.name, self._referee.committed)
            with self._down(host):
                await self._off(host)
                self._exchange(host, new)
            await self._pause_for(fault.for_s)
            with self._down(host):
                await self._off(host)
                if old.state.journal_id not in self._superseded(host.name):
                    return  # the cloud has not heard of the new disk yet
                self._exchange(host, old, comes_back=True)
            await self._pause_for(_OLD_DISK_S)
            with self._down(host):
                await self._off(host)
                self._exchange(host, new)

    def _superseded(self, edge: str) -> tuple[str, ...]:
        origin = self._referee.facts.cloud_disk.state.origins.get(edge)
        return tuple(origin.superseded) if origin else ()

    async def _clone(self, fault: Fault) -> None:
        facts, original = self._referee.facts, self._world.edges[fault.target]
        async with self._exchanging[original.name]:
            async with original.disk.lock:
                disk = original.disk.copy()
            facts.cloned.add(original.name)
            facts.disks.append(disk)
            self._clones += 1
            clone = self._world.edge(f"{original.name}-clone-{self._clones}", original.name, disk)
            application = Application(clone.name, original.name, clone, self._world.plan, self._referee)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clone.run)
                nursery.start_soon(application.run, trio.current_time() + fault.for_s)
                await self._pause_for(fault.for_s)
                clone.retire()
                await self._off(clone)
                nursery.cancel_scope.cancel()
            facts.edge_disk_gone(disk, None)

    async def _rot(self, fault: Fault) -> None:
        facts, host = self._referee.facts, self._world.edges[fault.target]
        async with self._exchanging[host.name]:
            with self._down(host):
                await self._off(host)
                log = host.disk.state.log
                waiting = [index for index, payload in enumerate(log.payload) if not facts.has(payload)]
                for index in waiting[len(waiting) // 2 :][:1]:
                    facts.damaged.add(log.persistence_id[index])
                    facts.lost[log.payload[index]] = "rotten"
                    self._trace.add(host.name, f"loses position {log.position[index]} unsaid")
                    host.disk.remove_unsaid(log.position[index])

    # -- operators -------------------------------------------------------------------------------------------------
    async def _pause(self, fault: Fault) -> None:
        cloud = self._referee.facts.cloud_disk
        operator = compose(MemoryConnections(cloud, self._world.clocks[DATABASE], 0.001))
        async with self._exchanging[cloud.name]:
            for paused, for_s in ((True, fault.for_s), (False, 0.0)):
                for handler in (TALLY, LATEST):
                    await operator.projections.set_paused(handler.name, paused)
                await self._pause_for(for_s)
