"""One edge or cloud node as a process that comes and goes: started (armed or not), killed, stopped, ended by its id.

Its output goes to one log file, across all its lives. What has to be known of a life is read from there: the line that
says it is ready and where it listens, and the line of the fail point that ended it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import trio

from tests.crash.failure import CrashFailure

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_READY_TIMEOUT_S: Final = 45.0
_STOP_TIMEOUT_S: Final = 15.0
_LOOK_S: Final = 0.02
_EXIT_FAILED: Final = 1
# A service that finds no database when it starts says so and ends, to be started again.
_DATABASE_AWAY: Final = '"event":"service.failed"', '"code":"postgres.unreachable"'


class ServiceProcess:
    """Settings, name and log stay; the process changes."""

    def __init__(self, name: str, module: str, settings: Mapping[str, object], log: Path) -> None:
        self.name = name
        self.restarts = 0
        self._port = 0
        self._module = module
        self._settings = settings
        self._log = log
        self._life_begins_at = 0
        self._process: trio.Process | None = None

    async def start(self, fail_point: str = "") -> None:
        """Begin another life, which ``fail_point`` (`name:k`) is to end; returns before the service is ready."""
        self._life_begins_at = self._log_bytes()
        with _append_to(self._log) as output:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", self._module, "run"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(fail_point),
                cwd=_ROOT,
                start_new_session=True,  # Ctrl-C reaches the campaign alone, which then ends them
            )

    async def until_ready(self) -> None:
        """Raises CrashFailure when it is not in time, or ends instead."""
        with trio.move_on_after(_READY_TIMEOUT_S):
            while True:
                await self.tend()
                if self.http_port:
                    return
                await trio.sleep(_LOOK_S)
        raise CrashFailure(f"{self.name} was not ready within {_READY_TIMEOUT_S:g} s; it said: {self.last_words()}")

    @property
    def side(self) -> str:
        """edge or cloud."""
        return self._module.partition("_")[0]

    @property
    def http_port(self) -> int:
        """Where this life serves HTTP; 0 as long as it has not said so."""
        if not self._port and self._process is not None:
            for line in self._said().splitlines():
                fields = _fields(line)
                if fields.get("event") == "service.ready":
                    self._port = int(fields["http_port"])
        return self._port

    async def until_dead_at(self, fail_point: str, timeout_s: float) -> None:
        """Wait for the death that was ordered. Raises CrashFailure when it does not come, or is another one."""
        process = self._living()
        with trio.move_on_after(timeout_s):
            await process.wait()
            self._process, self._port = None, 0
            name = fail_point.partition(":")[0]
            if process.returncode == -signal.SIGKILL and f"fail point hit: {name}\n" in self._said():
                return
            raise CrashFailure(
                f"{self.name} was to die at {fail_point} and ended with status {process.returncode}: {self.last_words()}"
            )
        raise CrashFailure(f"{self.name} did not reach {fail_point} within {timeout_s:g} s under load")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Nothing happens when it is."""
        process, self._process, self._port = self._process, None, 0
        if process is not None:
            process.kill()
            await process.wait()

    async def stop(self) -> None:
        """SIGTERM. Raises CrashFailure when it does not drain and end with status 0."""
        process = self._living()
        process.terminate()
        with trio.move_on_after(_STOP_TIMEOUT_S):
            status = await process.wait()
            self._process, self._port = None, 0
            if status:
                raise CrashFailure(f"{self.name} ended with status {status} after SIGTERM: {self.last_words()}")
            return
        raise CrashFailure(f"{self.name} had not stopped {_STOP_TIMEOUT_S:g} s after SIGTERM: {self.last_words()}")

    async def tend(self) -> None:
        """What a container's restart policy does, for the one reason there is; any other end raises CrashFailure."""
        if self._process is None or self._process.poll() is None:
            return
        status = self._process.returncode
        if status != _EXIT_FAILED or not all(word in self._said() for word in _DATABASE_AWAY):
            raise CrashFailure(f"{self.name} ended by itself with status {status}: {self.last_words()}")
        self.restarts += 1
        await self.kill()
        await self.start()

    def last_words(self) -> str:
        """The end of what this life said."""
        return self._said().strip()[-800:]

    def alarms(self) -> dict[str, int]:
        """Log lines of level error and above by event and code, over all lives."""
        found: dict[str, int] = {}
        for line in self._log.read_text(errors="replace").splitlines():
            fields = _fields(line)
            if fields.get("level") in ("error", "critical"):
                name = f"{fields['event']} {fields.get('code', '')}".strip()
                found[name] = found.get(name, 0) + 1
        return found

    def _living(self) -> trio.Process:
        assert self._process is not None, f"{self.name} is not running"
        return self._process

    def _environment(self, fail_point: str) -> dict[str, str]:
        prefix = self.side.upper()
        foreign = ("EDGE_", "CLOUD_", "BACKHAUL_")
        ours = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        ours |= {f"{prefix}_{key.upper()}": str(value) for key, value in self._settings.items()}
        return ours | ({"BACKHAUL_FAIL_POINT": fail_point} if fail_point else {})

    def _said(self) -> str:
        with open(self._log, "rb") as log:
            log.seek(self._life_begins_at)
            return log.read().decode(errors="replace")

    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0


def _append_to(path: Path) -> BinaryIO:
    return open(path, "ab")


def _fields(line: str) -> dict[str, Any]:
    """A log line's fields; none of what is no log line."""
    if not line.startswith("{"):
        return {}
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) and "event" in fields else {}
