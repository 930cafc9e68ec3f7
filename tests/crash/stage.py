"""Who takes part: one edge, one or two cloud nodes over one database, PostgreSQL with a standby. Started, asked, ended by id.

The cloud's nodes keep their ports through every life; two of them stand behind a relay that takes turns. Times are
short, so that a campaign sees many recoveries: leases of a second, backoff of at most half a second, retention that
removes what the cloud has had for a moment.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from examples.support.http_client import HttpClient, Unanswered
from examples.support.postgres import PostgresServer
from examples.support.processes import open_programs
from examples.support.relay import Relay
from tests.crash.failure import CrashFailure
from tests.crash.service_process import ServiceProcess
from tests.support.replication import Address, ReplicatedPair, replicated_pair

EDGE_ID: Final = "e1"
PREFIX: Final = f"{EDGE_ID}/"
_ASK_TIMEOUT_S: Final = 5.0
_LOOK_S: Final = 0.05
# Below what the system hands out by itself: a dial to a port nobody listens on must not find itself at the other end.
_PORTS: Final = range(15_000, 30_000)

_BOTH: Final[Mapping[str, object]] = {
    "http_port": 0,
    "heartbeat_s": 0.5,
    "progress_timeout_s": 3,
    "poll_interval_s": 0.1,
    "drain_s": 6,
    "log_format": "json",
}
_EDGE: Final[Mapping[str, object]] = {
    "grpc_port": 0,
    "backoff_min_s": 0.05,
    "backoff_max_s": 0.5,
    "connect_timeout_s": 2,
    "keep_acked_s": 0.3,
    "retention_interval_s": 0.1,
}
_CLOUD: Final[Mapping[str, object]] = {"lease_s": 1, "projection_ranges": 2}


@dataclass(slots=True)
class Stage:
    """Everybody, and how they are."""

    directory: Path
    edge: ServiceProcess
    nodes: list[ServiceProcess]
    edge_journal: str
    cloud_journal: str
    databases: ReplicatedPair | None
    address: Address | None
    more_edges: list[ServiceProcess] = field(default_factory=list)
    clients: dict[str, HttpClient] = field(default_factory=dict)

    @property
    def services(self) -> list[ServiceProcess]:
        """The edges and the nodes."""
        return [*self.edges, *self.nodes]

    @property
    def postgres(self) -> PostgresServer | None:
        """The server that may be written now; None where the cloud has a file."""
        return self.databases.primary if self.databases else None

    @property
    def edges(self) -> list[ServiceProcess]:
        """The edge, and those that some campaigns have beside it."""
        return [self.edge, *self.more_edges]

    async def tend(self) -> None:
        """Start again who must wait for the database. Raises CrashFailure when one has ended for another reason."""
        for service in self.services:
            await service.tend()

    async def ask(self, service: ServiceProcess) -> dict[str, Any] | None:
        """Its `/status`; None while it has none to give."""
        client = self.clients.setdefault(service.name, HttpClient(lambda: service.http_port))
        with trio.move_on_after(_ASK_TIMEOUT_S):
            try:
                answer = await client.get("/status")
            except Unanswered:
                return None
            return answer.body if answer.status == 200 else None
        return None

    async def until_level(self, nodes: list[ServiceProcess], timeout_s: float) -> None:
        """Wait until what the edge holds now is in the cloud, and what the cloud holds then is projected.

        Raises CrashFailure with the last that was heard when that takes longer than ``timeout_s``.
        """
        edge = cloud = None
        with trio.move_on_after(timeout_s):
            for service in (self.edge, *nodes):
                await service.until_ready()
            edge = await self._until(self.edge, lambda _: True)
            head = edge["journal"]["head"]
            edge = await self._until(self.edge, lambda status: status["link"]["acked"] >= head)
            cloud = await self._until(nodes[0], lambda _: True)
            stored = cloud["journal"]["head"]
            cloud = await self._until(nodes[0], lambda status: _is_projected(status, stored))
            return
        raise CrashFailure(f"not level within {timeout_s:g} s; the edge: {edge}; the cloud: {cloud}")

    async def _until(self, service: ServiceProcess, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            await self.tend()
            status = await self.ask(service)
            if status is not None and is_so(status):
                return status
            await trio.sleep(_LOOK_S)

    async def end(self) -> None:
        """SIGKILL all that are left."""
        for client in self.clients.values():
            client.close()
        for service in self.services:
            await service.kill()


def make_directory() -> Path:
    """A new one for stores and logs, which the user whom PostgreSQL runs as may enter."""
    directory = Path(tempfile.mkdtemp(prefix="backhaul-crash-"))
    directory.chmod(0o711)
    return directory


def _is_projected(status: dict[str, Any], position: int) -> bool:
    ranges = status["projections"]
    return bool(ranges) and all(one["position"] >= position or not one["lag_events"] for one in ranges)


@asynccontextmanager
async def open_stage(
    directory: Path,
    *,
    storage: str,
    nodes: int,
    chance: Random,
    cloud: Mapping[str, object] | None = None,
    edges: Sequence[Mapping[str, object]] = ({},),
) -> AsyncIterator[Stage]:
    """Everything but the services themselves is running; whatever is, is ended on exit.

    ``directory`` exists, and everybody may enter it. ``cloud`` and ``edges`` are what each has of settings of its own.
    """
    ports = _free_ports(nodes, chance)
    async with trio.open_nursery() as nursery, open_programs() as programs:
        address = ports[0]
        if nodes > 1:
            address = await nursery.start(Relay([("127.0.0.1", port) for port in ports]).run)
        with contextlib.ExitStack() as held:
            databases, database_address, cloud_journal = None, None, str(directory / "cloud.db")
            if storage == "postgres":
                databases = held.enter_context(replicated_pair(directory / "postgres"))
                databases.restore(synchronous=True)
                databases.primary.require_durable()
                database_address = Address(databases.primary)
                await nursery.start(database_address.run)
                cloud_journal = database_address.url(databases.primary.create())
            homes = [directory / f"edge{number if number > 1 else ''}.db" for number in range(1, len(edges) + 1)]
            first, *others = (
                ServiceProcess(
                    programs,
                    home.stem,
                    "edge_service",
                    {
                        **_BOTH,
                        **_EDGE,
                        "id": f"e{number}",
                        "cloud": f"127.0.0.1:{address}",
                        "journal": home,
                        **settings,
                    },
                    directory / f"{home.stem}.log",
                )
                for number, (home, settings) in enumerate(zip(homes, edges, strict=True), 1)
            )
            stage = Stage(
                directory,
                first,
                [
                    ServiceProcess(
                        programs,
                        name,
                        "cloud_service",
                        {**_BOTH, **_CLOUD, "node": name, "grpc_port": port, "journal": cloud_journal, **(cloud or {})},
                        directory / f"{name}.log",
                    )
                    for name, port in zip((f"cloud-{number}" for number in range(1, nodes + 1)), ports, strict=True)
                ],
                str(homes[0]),
                cloud_journal,
                databases,
                database_address,
                others,
            )
            try:
                yield stage
            finally:
                with trio.CancelScope(shield=True):
                    await stage.end()
                nursery.cancel_scope.cancel()


def _free_ports(count: int, chance: Random) -> list[int]:
    """Ports nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = chance.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
