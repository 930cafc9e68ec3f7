"""The services of the demo as processes that come and go. What each writes goes to its log file, and past `heard` on the way:
a service's own log lines are part of the story.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from examples.demo.failure import DemoFailure
from examples.support.processes import ProcessFailure, Program, Programs, open_programs, service_variables

_READY_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 12.0

Heard = Callable[[str, Mapping[str, Any]], None]


class Service:
    """One edge or cloud node. Its process comes and goes; its settings, folder and name stay."""

    def __init__(self, name: str, module: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self.module = module
        self.settings = settings
        self.http_port = 0
        self.grpc_port = 0
        self.program: Program | None = None

    @property
    def running(self) -> Program:
        """The process of its present life."""
        assert self.program is not None, f"{self.name} was not started"
        return self.program


class Cast:
    """Everybody on stage. Made by `open_cast`."""

    def __init__(self, programs: Programs, logs: Path, heard: Heard) -> None:
        self._programs = programs
        self._logs = logs
        self._heard = heard

    async def start(self, service: Service) -> None:
        """Start its process and wait until it is ready. Raises DemoFailure with the last it said."""
        service.program = await self._programs.start(
            service.name,
            service.module,
            "run",
            variables=service_variables(service.module, service.settings),
            log=self._logs / f"{service.name}.log",
            heard=lambda fields: self._heard(service.name, fields),
        )
        try:
            ready = await service.program.event("service.ready", timeout_s=_READY_TIMEOUT_S)
        except ProcessFailure as failure:
            raise DemoFailure(str(failure)) from failure
        service.http_port, service.grpc_port = int(ready["http_port"]), int(ready["grpc_port"])

    def freeze(self, service: Service) -> None:
        """It answers nothing any more, and what is sent to it stays under way."""
        service.running.freeze()

    def thaw(self, service: Service) -> None:
        """It goes on as if nothing had been."""
        service.running.thaw()

    async def kill(self, service: Service) -> None:
        """SIGKILL, and wait until it is gone."""
        service.http_port = 0
        await service.running.kill()

    async def stop(self, service: Service) -> int:
        """SIGTERM, and wait until it has drained; returns its exit status, -9 when it had to be killed."""
        return await service.running.stop(_STOP_TIMEOUT_S)


@asynccontextmanager
async def open_cast(logs: Path, heard: Heard) -> AsyncIterator[Cast]:
    """Run processes while the block runs; none outlives it. ``heard`` gets each log line with its service's name.

    Raises DemoFailure when one ends that was not asked to.
    """
    async with open_programs(_ended) as programs:
        yield Cast(programs, logs, heard)


def _ended(program: Program) -> None:
    if not program.is_asked_to_end:
        raise DemoFailure(f"{program.name} ended by itself with status {program.status}: {program.last_words(1)}")
