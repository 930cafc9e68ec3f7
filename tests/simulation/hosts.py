"""Machines of the simulated world: each runs one service's real ``serve``, over and over, until told to stay down.

A machine can be crashed (its disk mount severed, its lines cut, every task cancelled), lose its power (the same, but
peers are told nothing), or be stopped as SIGTERM stops a process. A service that ends by itself is a complaint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
import trio
from starlette.types import ASGIApp

from common.runtime.environment import Environment
from common.runtime.logs.fields import leaf_errors
from common.transport.memory.line import MemoryConnection
from tests.simulation.disks import Disk, Mount
from tests.simulation.referee import Referee
from tests.simulation.trace import Trace

DRAIN_S = 8.0
_AFTER_CANCEL_S = 1.0


class Clock:
    """A wall clock: the mock clock's time from ``start_us`` on, and whatever it was stepped by."""

    def __init__(self, start_us: int) -> None:
        self._start_us = start_us

    def __call__(self) -> int:
        return self._start_us + round(trio.current_time() * 1e6)

    def step(self, seconds: float) -> None:
        """Set it on, or back when negative."""
        self._start_us += round(seconds * 1e6)


Serve = Callable[[Environment, trio.Event, trio.TaskStatus[object]], Awaitable[None]]


class MakeOutside(Protocol):
    """The world as one life of a machine sees it."""

    def __call__(self, host: Host, mount: Mount, life: str) -> Environment: ...


class Host:
    """``ports`` is what ``serve`` started with, while it runs."""

    def __init__(
        self,
        name: str,
        edge_id: str,
        disk: Disk,
        clock: Clock,
        serve: Serve,
        *,
        environment: MakeOutside,
        lines: Callable[[str], list[MemoryConnection]],
        referee: Referee,
        trace: Trace,
        notified: bool,
    ) -> None:
        self.name = name
        self.edge_id = edge_id
        """Who it is to others: a clone is its original."""
        self.disk = disk
        self.clock = clock
        self.ports: object = None
        self.app: ASGIApp | None = None
        """What answers at the HTTP port, while it runs."""
        self.changed = trio.lowlevel.ParkingLot()
        self._serve = serve
        self._environment = environment
        self._lines = lines
        self._referee = referee
        self._trace = trace
        self._notified = notified
        self._keepers = 0  # faults that keep it down
        self._lives = 0
        self._mount: Mount | None = None
        self._scope: trio.CancelScope | None = None
        self._stop = trio.Event()
        self._is_retired = False

    @property
    def life(self) -> str:
        """The name of the process that runs, or ran last, in the logs."""
        return f"{self.name}.{self._lives}"

    @property
    def is_running(self) -> bool:
        """Whether there is a process, also one that is just ending."""
        return self._scope is not None

    async def run(self) -> None:
        """Run the service whenever nothing keeps it down; returns after ``retire``."""
        while not self._is_retired:
            if self._keepers:
                await self.changed.park()
            else:
                await self._live()

    async def _live(self) -> None:
        self._lives += 1
        life = self.life
        self._mount, self._stop = Mount(self.disk, notified=self._notified), trio.Event()
        environment = self._environment(self, self._mount, life)
        self._trace.add(life, "starts")
        try:
            with structlog.contextvars.bound_contextvars(service=life):
                async with trio.open_nursery() as nursery:
                    self._scope = nursery.cancel_scope

                    async def serve(task_status: trio.TaskStatus[object]) -> None:
                        await self._serve(environment, self._stop, task_status)

                    self.ports = await nursery.start(serve)
                    self.changed.unpark_all()
        except* Exception as group:  # noqa: BLE001  whatever ends a service is a complaint
            self._referee.complain("ServicesLive", f"{life} failed: {leaf_errors(group)!r}")
        was_asked = self._stop.is_set() or self._mount.is_severed
        if not was_asked:
            self._referee.complain("ServicesLive", f"{life} ended by itself")
        self._mount.sever()
        self._scope = self._mount = self.ports = self.app = None
        self._trace.add(life, "is gone")
        self.changed.unpark_all()

    def crash(self, *, is_power_cut: bool = False) -> None:
        """End the process between two instructions."""
        if self._mount is None or self._scope is None or self._mount.is_severed:
            return
        self._trace.add(self.name, "loses its power" if is_power_cut else "crashes")
        self._mount.sever()
        self.ports = self.app = None
        for connection in self._lines(self.name):
            if is_power_cut:
                connection.hold()
            else:
                connection.cut("the process at one end is dead")
        self._scope.cancel()

    async def stop(self) -> None:
        """What SIGTERM does: drain, then be cancelled; returns when the process is gone."""
        scope, mount = self._scope, self._mount
        if scope is None or mount is None:
            return
        self._trace.add(self.name, "is stopped")
        self._stop.set()
        with trio.move_on_after(DRAIN_S) as drain:
            await self.gone(mount)
        if drain.cancelled_caught:
            scope.cancel()
            with trio.move_on_after(_AFTER_CANCEL_S) as end:
                await self.gone(mount)
            if end.cancelled_caught:
                self._referee.complain(
                    "EndsInTime", f"{self.name} has not ended {DRAIN_S + _AFTER_CANCEL_S:g} s after SIGTERM"
                )
                self.crash()
                await self.gone(mount)

    async def gone(self, life: Mount | None = None) -> None:
        """Wait until no process runs, or until the given life of it is over."""
        life = life or self._mount
        while life is not None and self._mount is life:
            await self.changed.park()

    @contextmanager
    def kept_down(self) -> Iterator[None]:
        """No new process starts while the block runs."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            self.changed.unpark_all()

    def retire(self) -> None:
        """No process starts any more."""
        self._is_retired = True
        self.changed.unpark_all()

    async def running(self) -> object:
        """The ports of the running service; waits until there is one."""
        while self.ports is None:
            await self.changed.park()
        return self.ports
