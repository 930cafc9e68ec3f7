"""Services and other programs as processes: given settings, heard line by line, ended by their id whatever happens.

Each is a session of its own, so that Ctrl-C reaches us alone, and we then end them in order. What they write are log
lines, JSON with an ``event``; a `Program` keeps them by event, so one waits for a line instead of sleeping. Programs
live in `open_programs`, which hears them all. What is no trio program takes the parts: `environment`, `logs.fields`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_TIMEOUT_S: Final = 600.0  # longer than anything that is measured or played takes
_LAST_LINES: Final = 20
_LINE_CHARACTERS: Final = 500
_END_TIMEOUT_S: Final = 5.0
# What would be a setting of a service, and what would make each start compile everything again.
_FOREIGN: Final = ("EDGE_", "CLOUD_", "BACKHAUL_", "PYTHONDONTWRITEBYTECODE")

Fields = Mapping[str, Any]


class ProcessFailure(Exception):
    """A process did not do what was to be waited for. The message ends with the last it said."""


def environment(variables: Mapping[str, object]) -> dict[str, str]:
    """Our environment without what would be settings, and ``variables``."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return ours | {name: _text(value) for name, value in variables.items()}


def service_variables(module: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Settings, named as in a service's TOML file, as variables of ``edge_service`` or ``cloud_service``."""
    prefix = module.partition("_")[0].upper()
    return {f"{prefix}_{key.upper()}": value for key, value in settings.items()}


def log_fields(line: str) -> dict[str, Any]:
    """A log line's fields; none of what is no log line."""
    if not line.startswith("{"):
        return {}
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if "event" in fields else {}


class Program:
    """A process and what it has said so far. Made by `Programs.start`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.is_asked_to_end = False
        self._process = process
        self._said: dict[str, list[Fields]] = {}
        self._first_heard_s: dict[str, float] = {}
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._changed = trio.Event()
        self._is_over = False

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def said(self, event: str) -> Sequence[Fields]:
        """The lines with this event, oldest first."""
        return self._said.get(event, ())

    def first_heard_s(self, event: str) -> float:
        """When the first line with this event was heard, by trio's clock. Raises KeyError when none was."""
        return self._first_heard_s[event]

    def last_words(self, lines: int = _LAST_LINES) -> str:
        """The last lines it said, log lines or not."""
        return "\n".join(list(self._last)[-lines:])

    async def event(self, event: str, nth: int = 1, *, timeout_s: float = _TIMEOUT_S) -> Fields:
        """The ``nth`` line with this event, waited for. Raises ProcessFailure when it is not in time or cannot come."""
        with trio.move_on_after(timeout_s):
            while len(self.said(event)) < nth and not self._is_over:
                await self._changed.wait()
        if len(self.said(event)) < nth:
            why = f"ended with status {self.status} before" if self._is_over else f"did not within {timeout_s:g} s"
            raise ProcessFailure(f"{self.name} was to say {event} and {why}; it said:\n{self.last_words()}")
        return self.said(event)[nth - 1]

    async def tell(self, word: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{word}\n".encode())

    def freeze(self) -> None:
        """SIGSTOP: from now on it answers nothing; its connections stay, and what is sent to it is under way."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.is_asked_to_end = True
        self._process.kill()
        await self._process.wait()

    async def stop(self, timeout_s: float) -> int:
        """SIGTERM, and wait until it has drained; returns its exit status, -9 when it had to be killed."""
        self.is_asked_to_end = True
        self._process.terminate()
        with trio.move_on_after(timeout_s):
            return await self._process.wait()
        self._process.kill()
        return await self._process.wait()

    async def end(self) -> int:
        """Wait until it has ended by itself and all that it said is heard; returns its exit status."""
        while not self._is_over:
            await self._changed.wait()
        return await self._process.wait()

    async def listen(self, heard: Callable[[Fields], None], log: Path | None) -> None:
        """Hear it to its end, and append what it writes to ``log``."""
        assert self._process.stdout is not None
        with (log or Path(os.devnull)).open("ab", buffering=0) as copy:
            rest = b""
            async for data in self._process.stdout:
                copy.write(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(line.decode(errors="replace").strip(), heard)
        self._hear(rest.decode(errors="replace").strip(), heard)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            await pipe.aclose()
        await self._process.wait()
        self._is_over = True
        self._has_changed()

    def _hear(self, line: str, heard: Callable[[Fields], None]) -> None:
        if line:
            self._last.append(line[:_LINE_CHARACTERS])
        fields = log_fields(line)
        if fields:
            self._said.setdefault(fields["event"], []).append(fields)
            self._first_heard_s.setdefault(fields["event"], trio.current_time())
            heard(fields)
            self._has_changed()

    def _has_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _nothing(_: object) -> None:
    """What nobody wants to hear of."""


class Programs:
    """Starts programs and hears them. Made by `open_programs`."""

    def __init__(self, on_end: Callable[[Program], None]) -> None:
        self._on_end = on_end
        self._running: list[Program] = []
        self._entering, self._entrances = trio.open_memory_channel[
            tuple[Program, Callable[[Fields], None], Path | None]
        ](0)

    async def start(
        self,
        name: str,
        module: str,
        *words: str,
        variables: Mapping[str, object],
        log: Path | None = None,
        heard: Callable[[Fields], None] = _nothing,
    ) -> Program:
        """``python -m module words``, with ``variables`` in an environment without foreign settings.

        Its log lines go to ``heard``, and all that it writes to the end of the file ``log``.
        """
        return await self.start_command(
            name, [sys.executable, "-m", module, *words], variables=variables, log=log, heard=heard
        )

    async def start_command(
        self,
        name: str,
        command: Sequence[str],
        *,
        variables: Mapping[str, object],
        log: Path | None = None,
        heard: Callable[[Fields], None] = _nothing,
    ) -> Program:
        """As ``start``, for a program that is not a module of Python."""
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(variables),
            cwd=ROOT,
            start_new_session=True,
        )
        program = Program(name, process)
        self._running.append(program)
        await self._entering.send((program, heard, log))
        return program

    async def hear_all(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            async for program, heard, log in self._entrances:
                nursery.start_soon(self._hear, program, heard, log)

    async def _hear(self, program: Program, heard: Callable[[Fields], None], log: Path | None) -> None:
        await program.listen(heard, log)
        self._running.remove(program)
        self._on_end(program)

    async def kill_all(self) -> None:
        """SIGKILL all that are left."""
        for program in tuple(self._running):
            await program.kill()


@asynccontextmanager
async def open_programs(on_end: Callable[[Program], None] = _nothing) -> AsyncIterator[Programs]:
    """Run programs while the block runs; none outlives it. ``on_end`` is called with each that has ended, and may raise."""
    programs = Programs(on_end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(programs.hear_all)
        try:
            yield programs
        finally:
            with trio.move_on_after(_END_TIMEOUT_S, shield=True):
                await programs.kill_all()
            nursery.cancel_scope.cancel()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
