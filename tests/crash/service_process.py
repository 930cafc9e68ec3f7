"""One edge or cloud node as a process that comes and goes: started (armed or not), killed, stopped.

Its output goes to one log file, across all its lives; what has to be known of the present one, its `Program` has heard:
that it is ready and where it listens, and the fail point that ended it.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from examples.support.processes import Program, Programs, log_fields, service_variables
from tests.crash import stepped_clock
from tests.crash.failure import CrashFailure
from tests.crash.stepped_clock import ClockFile

_READY_TIMEOUT_S: Final = 90.0
_STOP_TIMEOUT_S: Final = 15.0
_LOOK_S: Final = 0.02
_EXIT_FAILED: Final = 1
# A service that finds no database when it starts says so and ends, to be started again.
_DATABASE_AWAY: Final = "postgres.unreachable"


class ServiceProcess:
    """Settings, name, log and wall clock stay; the process changes."""

    def __init__(self, programs: Programs, name: str, module: str, settings: Mapping[str, object], log: Path) -> None:
        self.name = name
        self.restarts = 0
        self._programs = programs
        self._module = module
        self._settings = settings
        self._log = log
        self.clock = ClockFile(log.with_suffix(".clock"))
        self._program: Program | None = None

    async def start(self, fail_point: str = "") -> None:
        """Begin another life, which ``fail_point`` (`name:k`) is to end; returns before the service is ready."""
        variables = service_variables(self._module, self._settings)
        if fail_point:
            variables["BACKHAUL_FAIL_POINT"] = fail_point
        variables[stepped_clock.VARIABLE] = self.clock.path
        self._program = await self._programs.start(
            self.name, stepped_clock.__name__, self._module, "run", variables=variables, log=self._log
        )

    async def until_ready(self) -> None:
        """Raises CrashFailure when it is not in time, or ends instead."""
        with trio.move_on_after(_READY_TIMEOUT_S):
            while True:
                await self.tend()
                if self.http_port:
                    return
                await trio.sleep(_LOOK_S)
        raise CrashFailure(f"{self.name} was not ready within {_READY_TIMEOUT_S:g} s; it said: {self._last_words()}")

    @property
    def side(self) -> str:
        """edge or cloud."""
        return self._module.partition("_")[0]

    @property
    def http_port(self) -> int:
        """Where this life serves HTTP; 0 as long as it has not said so."""
        ready = self._program.said("service.ready") if self._program else ()
        return int(ready[-1]["http_port"]) if ready else 0

    async def until_dead_at(self, fail_point: str, timeout_s: float) -> None:
        """Wait for the death that was ordered. Raises CrashFailure when it does not come, or is another one."""
        program = self._living()
        with trio.move_on_after(timeout_s):
            status = await program.end()
            self._program = None
            name = fail_point.partition(":")[0]
            if status == -signal.SIGKILL and f"fail point hit: {name}" in program.last_words().splitlines():
                return
            raise CrashFailure(
                f"{self.name} was to die at {fail_point} and ended with status {status}: {program.last_words()}"
            )
        raise CrashFailure(f"{self.name} did not reach {fail_point} within {timeout_s:g} s under load")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Nothing happens when it is."""
        program, self._program = self._program, None
        if program is not None:
            await program.kill()

    async def stop(self) -> None:
        """SIGTERM. Raises CrashFailure when it does not drain and end with status 0."""
        program = self._living()
        status = await program.stop(_STOP_TIMEOUT_S)
        self._program = None
        if status:
            raise CrashFailure(
                f"{self.name} ended with status {status} within {_STOP_TIMEOUT_S:g} s of SIGTERM, or was killed then: "
                + program.last_words()
            )

    async def tend(self) -> None:
        """What a container's restart policy does, for the one reason there is; any other end raises CrashFailure."""
        program = self._program
        if program is None or program.status is None:
            return
        status = await program.end()
        failures = program.said("service.failed")
        if status != _EXIT_FAILED or not failures or failures[-1].get("code") != _DATABASE_AWAY:
            raise CrashFailure(f"{self.name} ended by itself with status {status}: {program.last_words()}")
        self.restarts += 1
        await self.start()

    def alarms(self) -> dict[str, int]:
        """Log lines of level error and above by event and code, over all lives; none of a service that never started."""
        found: dict[str, int] = {}
        if not self._log.exists():
            return found
        for line in self._log.read_text(errors="replace").splitlines():
            fields = log_fields(line)
            if fields.get("level") in ("error", "critical"):
                name = f"{fields['event']} {fields.get('code', '')}".strip()
                found[name] = found.get(name, 0) + 1
        return found

    def _last_words(self) -> str:
        return self._program.last_words() if self._program else ""

    def _living(self) -> Program:
        assert self._program is not None, f"{self.name} is not running"
        return self._program
