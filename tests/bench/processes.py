"""Services, loads and measuring programs as processes of their own: started, heard, asked, weighed and ended by id.

All of them write JSON lines with an ``event``; what a process said, and when it was heard, is kept by event.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import trio

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_TIMEOUT_S: Final = 600.0
_STOP_S: Final = 12.0
_LAST_LINES: Final = 20


class BenchFailure(Exception):
    """A process did not do what the benchmark needs; the message holds the last it said."""


class Program:
    """A running process. Made by ``running``."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self._process = process
        self._weighed = psutil.Process(process.pid)
        self._heard: dict[str, list[Mapping[str, Any]]] = {}
        self._heard_at_s: dict[str, float] = {}
        self._last: list[str] = []
        self._changed = trio.Condition()
        self._is_over = False

    async def event(self, name: str, nth: int = 1) -> Mapping[str, Any]:
        """The fields of the ``nth`` line with this event, waited for. Raises ``BenchFailure`` when none can come."""
        with trio.move_on_after(_TIMEOUT_S):
            async with self._changed:
                while len(self._heard.get(name, ())) < nth and not self._is_over:
                    await self._changed.wait()
        if len(self._heard.get(name, ())) < nth:
            raise BenchFailure(f"{self.name} did not say {name}; it ends:\n" + "\n".join(self._last))
        return self._heard[name][nth - 1]

    def heard_at_s(self, name: str) -> float:
        """When the first line with this event was heard, by trio's clock."""
        return self._heard_at_s[name]

    async def tell(self, word: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{word}\n".encode())

    def pause(self) -> None:
        """Stop it dead; its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def rss_bytes(self) -> int:
        """Resident memory now."""
        rss: int = self._weighed.memory_info().rss
        return rss

    @property
    def rss_peak_bytes(self) -> int:
        """The most it ever had resident (Linux), else what it has now."""
        for line in _lines(Path(f"/proc/{self._process.pid}/status")):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return self.rss_bytes

    @property
    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        times = self._weighed.cpu_times()
        return float(times.user + times.system)

    async def listen(self) -> None:
        """Hear it to its end."""
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                await self._hear(line.decode(errors="replace"))
        async with self._changed:
            self._is_over = True
            self._changed.notify_all()

    async def _hear(self, line: str) -> None:
        self._last = [*self._last[1 - _LAST_LINES :], line[:400]]
        try:
            fields = json.loads(line)
            event = str(fields["event"])
        except (ValueError, KeyError, TypeError):
            return
        async with self._changed:
            self._heard.setdefault(event, []).append(fields)
            self._heard_at_s.setdefault(event, trio.current_time())
            self._changed.notify_all()

    async def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        if self._process.returncode is None:
            self._process.terminate()
            with trio.move_on_after(_STOP_S, shield=True):
                await self._process.wait()
                return
            self._process.kill()


@asynccontextmanager
async def running(
    name: str, module: str, *words: str, variables: Mapping[str, object] | None = None
) -> AsyncIterator[Program]:
    """``python -m module words`` with ``variables`` in its environment, while the block runs."""
    # As on a user's machine: settings come from us alone, and a start does not compile everything again.
    foreign = ("EDGE_", "CLOUD_", "PYTHONDONTWRITEBYTECODE")
    ours = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ours | {key: str(value) for key, value in (variables or {}).items()},
        cwd=_ROOT,
        start_new_session=True,
    )
    program = Program(name, process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.listen)
        try:
            yield program
        finally:
            with trio.CancelScope(shield=True):
                await program.stop()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def cloud(
    journal: str,
    settings: Mapping[str, object] | None = None,
    *,
    module: str = "cloud_service",
    words: Sequence[str] = ("run",),
) -> AsyncIterator[Program]:
    """A ready cloud node on free ports. ``settings`` are named as in its TOML file."""
    chosen = {"journal": journal, "grpc_port": 0, "http_port": 0, "log_format": "json", **(settings or {})}
    variables = {f"CLOUD_{key.upper()}": value for key, value in chosen.items()}
    async with running("cloud", module, *words, variables=variables) as program:
        await program.event("service.ready")
        yield program


@asynccontextmanager
async def edge(name: str, journal: Path, cloud_port: int) -> AsyncIterator[Program]:
    """An edge on free ports, just started: wait for its ``service.ready``."""
    variables = {
        "EDGE_ID": name,
        "EDGE_CLOUD": f"127.0.0.1:{cloud_port}",
        "EDGE_JOURNAL": journal,
        "EDGE_GRPC_PORT": 0,
        "EDGE_HTTP_PORT": 0,
        "EDGE_LOG_FORMAT": "json",
    }
    async with running(name, "edge_service", "run", variables=variables) as program:
        yield program


def measured_meanwhile(module: str, **arguments: object) -> AbstractAsyncContextManager[Program]:
    """A measuring program: it gets ``arguments`` as JSON."""
    return running(module.rpartition(".")[2], module, json.dumps(arguments))


async def measured(module: str, **arguments: object) -> Mapping[str, Any]:
    """Run a measuring program to its end: it answers with the event ``result``."""
    async with measured_meanwhile(module, **arguments) as program:
        return await program.event("result")


async def metric(port: int, name: str) -> float:
    """One number of a service's ``/metrics``. Raises ``BenchFailure`` when it has no such."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        text = b"".join([part async for part in stream]).decode()
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise BenchFailure(f"no metric {name}")


def answer(event: str, **fields: object) -> None:
    """What a measuring program says."""
    print(json.dumps({"event": event, **fields}), flush=True)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
