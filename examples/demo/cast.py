"""The services of the demo as processes: started, heard, killed, stopped, and ended by their id whatever happens.

Each process is a session of its own, so that Ctrl-C reaches the demo alone, which then ends them in order. What a process
writes goes to its log file, and past `heard` on the way: a service's own log lines are part of the story.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from examples.demo.failure import DemoFailure

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_READY_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 12.0
_END_TIMEOUT_S: Final = 5.0

Heard = Callable[[str, Mapping[str, Any]], None]


class Service:
    """One edge or cloud node. Its process comes and goes; its settings, folder and name stay."""

    def __init__(self, name: str, module: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self.module = module
        self.settings = settings
        self.http_port = 0
        self.grpc_port = 0
        self.process: trio.Process | None = None
        self.ready = trio.Event()
        self.said_last = ""

    def environment(self) -> dict[str, str]:
        """Ours without what would be settings, and the service's settings."""
        prefix = self.module.partition("_")[0].upper()
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "CLOUD_"))}
        return ours | {f"{prefix}_{key.upper()}": str(value) for key, value in self.settings.items()}


class Cast:
    """Everybody on stage. Made by `open_cast`, which also listens to them."""

    def __init__(self, logs: Path, heard: Heard) -> None:
        self._logs = logs
        self._heard = heard
        self._started: list[Service] = []
        self._asked_to_end: set[trio.Process] = set()
        self._entering, self._entrances = trio.open_memory_channel[tuple[Service, trio.Process]](0)

    async def start(self, service: Service) -> None:
        """Start its process and wait until it is ready. Raises DemoFailure with the last it said."""
        service.ready, service.said_last = trio.Event(), ""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", service.module, "run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=service.environment(),
            cwd=_ROOT,
            start_new_session=True,
        )
        service.process = process
        self._started.append(service)
        await self._entering.send((service, process))
        with trio.move_on_after(_READY_TIMEOUT_S):
            await service.ready.wait()
            return
        raise DemoFailure(f"{service.name} was not ready within {_READY_TIMEOUT_S:.0f} s: {service.said_last}")

    def freeze(self, service: Service) -> None:
        """SIGSTOP: from now on it answers nothing, and what is sent to it stays under way."""
        assert service.process is not None
        service.process.send_signal(signal.SIGSTOP)

    def thaw(self, service: Service) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        assert service.process is not None
        service.process.send_signal(signal.SIGCONT)

    async def kill(self, service: Service) -> None:
        """SIGKILL, and wait until it is gone."""
        if service.process is not None and service.process.returncode is None:
            self._asked_to_end.add(service.process)
            service.http_port = 0
            service.process.kill()
            await service.process.wait()

    async def stop(self, service: Service) -> int:
        """SIGTERM, and wait until it has drained; returns its exit status, -9 when it had to be killed."""
        assert service.process is not None
        self._asked_to_end.add(service.process)
        service.process.terminate()
        with trio.move_on_after(_STOP_TIMEOUT_S):
            return await service.process.wait()
        service.process.kill()
        return await service.process.wait()

    async def end_all(self) -> None:
        """SIGKILL whoever is left."""
        for service in self._started:
            await self.kill(service)

    async def listen(self) -> None:
        """Hear everybody who enters, until cancelled. Raises DemoFailure when one ends that was not asked to."""
        async with trio.open_nursery() as nursery:
            async for service, process in self._entrances:
                nursery.start_soon(self._listen, service, process)

    async def _listen(self, service: Service, process: trio.Process) -> None:
        assert process.stdout is not None
        with (self._logs / f"{service.name}.log").open("ab", buffering=0) as log:
            rest = b""
            async for data in process.stdout:
                log.write(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(service, line)
        status = await process.wait()
        if process not in self._asked_to_end:
            raise DemoFailure(f"{service.name} ended by itself with status {status}: {service.said_last}")

    def _hear(self, service: Service, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if text:
            service.said_last = text[:500]
        try:
            fields = json.loads(text)
            event = str(fields["event"])
        except (ValueError, KeyError, TypeError):
            return  # a library's last words; they are in the log file
        if event == "service.ready":
            service.http_port, service.grpc_port = int(fields["http_port"]), int(fields["grpc_port"])
            service.ready.set()
        self._heard(service.name, fields)


@asynccontextmanager
async def open_cast(logs: Path, heard: Heard) -> AsyncIterator[Cast]:
    """Run processes while the block runs; none outlives it. ``heard`` gets each log line with its service's name."""
    cast = Cast(logs, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cast.listen)
        try:
            yield cast
        finally:
            with trio.move_on_after(_END_TIMEOUT_S, shield=True):
                await cast.end_all()
            nursery.cancel_scope.cancel()
