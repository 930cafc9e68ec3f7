"""Services, loads and measuring programs as processes of their own: started, asked, weighed.

All of them write JSON lines with an ``event``, and that is how they answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import trio

from examples.support.processes import Program, open_programs, service_variables

_STOP_S: Final = 12.0


class BenchFailure(Exception):
    """What a process did or printed is not what the benchmark needs."""


def rss_bytes(program: Program) -> int:
    """Resident memory now."""
    rss: int = psutil.Process(program.pid).memory_info().rss
    return rss


def rss_peak_bytes(program: Program) -> int:
    """The most it ever had resident (Linux), else what it has now."""
    for line in _lines(Path(f"/proc/{program.pid}/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return rss_bytes(program)


def cpu_s(program: Program) -> float:
    """Processor seconds used so far."""
    times = psutil.Process(program.pid).cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def running(
    name: str, module: str, *words: str, variables: Mapping[str, object] | None = None
) -> AsyncIterator[Program]:
    """``python -m module words`` with ``variables`` in its environment, while the block runs."""
    async with running_command(name, sys.executable, "-m", module, *words, variables=variables) as program:
        yield program


@asynccontextmanager
async def running_command(
    name: str, *command: str, variables: Mapping[str, object] | None = None
) -> AsyncIterator[Program]:
    """A program that is not a module of Python, while the block runs."""
    async with open_programs() as programs:
        program = await programs.start_command(name, command, variables=variables or {})
        try:
            yield program
        finally:
            with trio.CancelScope(shield=True):
                await program.stop(_STOP_S)


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
    async with running("cloud", module, *words, variables=service_variables("cloud_service", chosen)) as program:
        await program.event("service.ready")
        yield program


@asynccontextmanager
async def edge(
    name: str, journal: Path, cloud_port: int, more: Mapping[str, object] | None = None
) -> AsyncIterator[Program]:
    """An edge on free ports, just started: wait for its ``service.ready``. ``more`` settings as in its TOML file."""
    settings = {
        "id": name,
        "cloud": f"127.0.0.1:{cloud_port}",
        "journal": journal,
        "grpc_port": 0,
        "http_port": 0,
        "log_format": "json",
        **(more or {}),
    }
    async with running(name, "edge_service", "run", variables=service_variables("edge_service", settings)) as program:
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
