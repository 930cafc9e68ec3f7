"""The simulated nodes and their one database: every call of a store goes through the gate of its node.

A closed gate is a process that is stopped: a call that was sent takes effect, and the process hears of it when it goes on. A
broken one is a process that is dead: whatever its last tasks still do while they are cancelled reaches nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from random import Random
from typing import Any, cast

import trio

from common.core.errors import BackhaulError
from common.core.journal.history import begin_generation, epoch_jump
from common.journal.change_signal import ChangeSignal
from common.journal.head_signal import HeadSignal
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.journal import compose
from common.journal.memory.members import disconnect
from common.projection.handlers import Event, Handler
from common.projection.tally import TALLY
from tests.simulation.disks import Disk, State
from tests.simulation.spread.plan import SpreadPlan
from tests.simulation.trace import Trace
from tests.support.members import Node, node
from tests.support.projections import clock_us

ACTING: ContextVar[str] = ContextVar("acting", default="")
"""The node whose call is under way."""
ECHO = "echo"
_GATED = ("log", "projections", "leases", "members")


class Gate:
    """Between a process and its stores."""

    def __init__(self) -> None:
        self.is_broken = False
        self._pauses = 0
        self._changed = trio.lowlevel.ParkingLot()

    def close(self) -> None:
        """The process is stopped, until each of its pauses is over."""
        self._pauses += 1

    def open(self) -> None:
        """One of its pauses is over."""
        self._pauses -= 1
        self._changed.unpark_all()

    def break_off(self) -> None:
        """The process is dead, also when it was stopped."""
        self.is_broken = True
        self._changed.unpark_all()

    async def passed(self) -> None:
        """Wait until the process runs. Raises ``journal.unavailable`` when it is dead."""
        while self._pauses > 0 and not self.is_broken:
            await self._changed.park()
        if self.is_broken:
            raise BackhaulError("journal.unavailable", "the process is dead", retry_after_s=1.0)


class _Gated:
    """A store, with every call through a gate, in the name of a node."""

    def __init__(self, store: object, gate: Gate, acting: str) -> None:
        self._store = store
        self._gate = gate
        self._acting = acting

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._store, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: object, **kwargs: object) -> object:
            await self._gate.passed()
            token = ACTING.set(self._acting)
            try:
                answer = await attribute(*args, **kwargs)
            finally:
                ACTING.reset(token)
            await self._gate.passed()
            return answer

        return call


class _LossyHead:
    """A node's ``HeadSignal``, of which some prompts do not arrive."""

    def __init__(self, signal: HeadSignal, chance: Random, lost: float) -> None:
        self._signal = signal
        self._chance = chance
        self._lost = lost

    def raise_to(self, position: int) -> None:
        if self._chance.random() >= self._lost:
            self._signal.raise_to(position)


class _LossyChanges:
    """The same of its ``ChangeSignal``."""

    def __init__(self, signal: ChangeSignal, chance: Random, lost: float) -> None:
        self._signal = signal
        self._chance = chance
        self._lost = lost

    def fire(self) -> None:
        if self._chance.random() >= self._lost:
            self._signal.fire()


class Machine:
    """Runs a node whenever it is up, each time as another member."""

    def __init__(self, cluster: Cluster, name: str, skew_s: float) -> None:
        self.name = name
        self.node: Node | None = None
        self.is_up = False
        self._cluster = cluster
        self._skew_us = round(skew_s * 1e6)
        self._gate = Gate()
        self._lives = 0
        self._connections: MemoryConnections | None = None
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def gate(self) -> Gate:
        """Of the process that runs, or ran last."""
        return self._gate

    def own_us(self) -> int:
        """The time by this machine's own clock, which decides nothing."""
        return clock_us() + self._skew_us

    def start(self) -> None:
        """It is to run."""
        self.is_up = True
        self._changed.unpark_all()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while not self.is_up:
                await self._changed.park()
            self._lives += 1
            await self._live(f"{self.name}.{self._lives}")

    async def _live(self, life: str) -> None:
        cluster = self._cluster
        gate = self._gate = Gate()
        connections = MemoryConnections(cluster.disk, clock_us, cluster.plan.commit_s)
        self._connections = connections
        head = cast(HeadSignal, _LossyHead(connections.head_signal, cluster.chance, cluster.plan.lost_prompts))
        prompts = cast(
            ChangeSignal, _LossyChanges(connections.members_changed, cluster.chance, cluster.plan.lost_prompts)
        )
        composed = compose(connections)
        cluster.disk.head_signals.append(head)
        cluster.disk.member_signals[-1] = prompts
        cluster.own_clocks[f"{life}/1"] = self.own_us
        gated = {name: _Gated(getattr(composed, name), gate, f"{life}/1") for name in _GATED}
        journal = replace(composed, **cast(dict[str, Any], gated))
        cluster.trace.add(life, "starts")
        try:
            async with node(
                journal,
                life,
                handlers=cluster.handlers,
                ranges=cluster.plan.ranges,
                stay_s=cluster.plan.stay_s,
                now_us=self.own_us,
            ) as self.node:
                while self.is_up:
                    await self._changed.park()
        finally:
            self.node = self._connections = None
            cluster.disk.head_signals.remove(head)
            if prompts in cluster.disk.member_signals:
                cluster.disk.member_signals.remove(prompts)
            disconnect(connections)
            cluster.trace.add(life, "is gone")
            self._changed.unpark_all()

    async def kill(self) -> None:
        """SIGKILL: nothing is given back, and its sessions are closed."""
        if self.node is not None and self._connections is not None:
            self._gate.break_off()
            disconnect(self._connections)
            await self._end()

    async def leave(self) -> None:
        """SIGTERM: hand over first, then end."""
        if self.node is not None:
            with trio.move_on_after(2.0):
                try:
                    await self.node.assignment.leave()
                except BackhaulError as error:
                    self._cluster.trace.add(self.name, f"has not left: {error.code}")
            await self._end()

    async def _end(self) -> None:
        self.is_up = False
        self._changed.unpark_all()
        while self.node is not None:
            await self._changed.park()


class Cluster:
    """The database and its machines."""

    def __init__(self, plan: SpreadPlan, trace: Trace, complain: Callable[[str, str], None]) -> None:
        self.plan = plan
        self.trace = trace
        self.chance = Random(f"prompts {plan.seed}")
        self.own_clocks: dict[str, Callable[[], int]] = {}
        """Of each member, what its own clock says."""
        self.effects: dict[int, int] = {}
        """Position → how often the effect elsewhere of its event happened."""
        self.handed_over = trio.Event()
        self._complain = complain
        self._ids = 0
        self.disk = Disk("database", self._committed)
        draft = self.disk.state.draft()
        draft.journal_id, draft.generations = self._new_id(), begin_generation((), self._new_id(), 0)
        self.disk.state = draft
        self.handlers = (TALLY, Handler(ECHO, effect=self._echo))
        self.machines = {
            name: Machine(self, name, skew_s) for name, skew_s in zip(plan.nodes, plan.skews_s, strict=True)
        }
        self.operator = compose(MemoryConnections(self.disk, clock_us, 0.0))

    async def _echo(self, event: Event) -> None:
        await trio.sleep(self.plan.effect_s)
        self.effects[event.envelope.position] = self.effects.get(event.envelope.position, 0) + 1

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:08d}-id"

    def _committed(self, _disk: Disk, before: State, after: State) -> None:
        for (name, slices), row in after.projections.items():
            old = before.projections.get((name, slices))
            if old is None or row == old:
                continue
            self.trace.add(ACTING.get(), f"{name} {slices} {row.owner} {row.epoch} {row.position} {row.is_directed}")
            if row.position != old.position and ACTING.get() not in ("", row.owner):
                self._complain("OwnersCommit", f"{ACTING.get()} moved {name} {slices}, which is {row.owner}'s")
            if row.is_directed and not old.is_directed:
                self.handed_over.set()
                self.handed_over = trio.Event()

    async def fail_over(self, backup: Disk) -> None:
        """A standby that was behind is the database now: what a session that finds a new timeline does, and what it sees."""
        async with self.disk.lock:
            self.disk.restore(backup)
            state = self.disk.state.draft()
            state.generations = begin_generation(state.generations, self._new_id(), state.head_position)
            state.members = {}
            jump = epoch_jump(state.generations[-1].id)
            state.projections = {
                key: replace(row, epoch=row.epoch + jump, owner="", is_directed=False, lease_until_us=0)
                for key, row in state.projections.items()
            }
            self.disk._committed = state
            self.disk.member_locks.clear()
            for signal in self.disk.member_signals:
                signal.fire()
            self.trace.add("database", f"fails over to {state.head_position}")

    async def backup(self) -> Disk:
        """As of now."""
        async with self.disk.lock:
            return self.disk.copy()
