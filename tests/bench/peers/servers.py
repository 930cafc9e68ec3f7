"""The peers' servers in pairs, one at the edge and one in the cloud, as their manuals would have them.

NATS: a leaf node with JetStream and a hub whose stream mirrors the leaf's. Mosquitto: a broker with a bridge to another,
both with persistence (it writes its store at times and at its end, and syncs no message).
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from examples.support.processes import Program
from tests.bench.peers.tools import Tools
from tests.bench.processes import BenchFailure, running_command

_READY_TIMEOUT_S: Final = 15.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Pair:
    """Two running servers, and where the driver finds them."""

    edge: Program
    cloud: Program
    edge_address: str
    cloud_address: str


class Peer(Protocol):
    """A product beside ours. ``kind`` is the driver's word for its protocol."""

    @property
    def name(self) -> str:
        """As in the table."""
        ...

    @property
    def kind(self) -> str: ...

    def open_pair(self, folder: Path) -> AbstractAsyncContextManager[Pair]:
        """Both servers, linked, and ready for events."""
        ...

    async def drain(self, folder: Path, count: int) -> float:
        """Events a second of a backlog of ``count`` that waits at the edge."""
        ...


@asynccontextmanager
async def drive_meanwhile(tools: Tools, **task: object) -> AsyncIterator[Program]:
    """The load driver with a task of its own (driver/main.go)."""
    async with running_command("driver", str(tools.driver), json.dumps(task)) as program:
        yield program


async def drive(tools: Tools, **task: object) -> Mapping[str, Any]:
    """Run the driver to its end. Raises ProcessFailure with what it said when it failed."""
    async with drive_meanwhile(tools, **task) as program:
        return await program.event("result")


@dataclass(frozen=True)
class Nats:
    """``sync_interval: always`` syncs each message before it is acknowledged; the default syncs every two minutes."""

    tools: Tools
    is_synced: bool
    kind: str = "nats"

    @property
    def name(self) -> str:
        """As in the table."""
        return "NATS, sync always" if self.is_synced else "NATS, default sync"

    @asynccontextmanager
    async def open_pair(self, folder: Path) -> AsyncIterator[Pair]:
        """With streams."""
        async with self._servers(folder, is_synced=self.is_synced) as pair:
            await drive(self.tools, kind="prepare", peer="nats", edge=pair.edge_address, cloud=pair.cloud_address)
            yield pair

    async def drain(self, folder: Path, count: int) -> float:
        """From the mirror's first stored event to its last."""
        # Filling is not measured: without waiting for the disk it is soon done.
        async with self._servers(folder, is_synced=False) as pair:
            await drive(self.tools, kind="prepare", peer="nats", edge=pair.edge_address)
            await drive(self.tools, kind="fill", peer="nats", edge=pair.edge_address, count=count)
        async with self._servers(folder, is_synced=self.is_synced) as pair:
            measured = await drive(
                self.tools, kind="drain", peer="nats", edge=pair.edge_address, cloud=pair.cloud_address, count=count
            )
        return float(measured["rate"])

    @asynccontextmanager
    async def _servers(self, folder: Path, *, is_synced: bool) -> AsyncIterator[Pair]:
        assert self.tools.nats is not None
        edge_port, cloud_port, leaf_port = (_free_port() for _ in range(3))
        sync = ", sync_interval: always" if is_synced else ""
        hub, leaf = folder / "hub.conf", folder / "leaf.conf"
        hub.write_text(
            f'server_name: hub\nhost: "127.0.0.1"\nport: {cloud_port}\n'
            f'jetstream {{ domain: hub, store_dir: "{folder / "hub"}"{sync} }}\n'
            f'leafnodes {{ host: "127.0.0.1", port: {leaf_port} }}\n'
        )
        leaf.write_text(
            f'server_name: leaf\nhost: "127.0.0.1"\nport: {edge_port}\n'
            f'jetstream {{ domain: leaf, store_dir: "{folder / "leaf"}"{sync} }}\n'
            f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{leaf_port}" }} ] }}\n'
        )
        server = str(self.tools.nats)
        async with running_command("hub", server, "-c", str(hub)) as cloud:
            await _listens(cloud_port, cloud)
            async with running_command("leaf", server, "-c", str(leaf)) as edge:
                await _listens(edge_port, edge)
                yield Pair(edge, cloud, f"127.0.0.1:{edge_port}", f"127.0.0.1:{cloud_port}")


@dataclass(frozen=True)
class Mosquitto:
    """MQTT 3.1.1, QoS 1 all the way."""

    tools: Tools
    name: str = "Mosquitto, no sync"
    kind: str = "mqtt"

    @asynccontextmanager
    async def open_pair(self, folder: Path) -> AsyncIterator[Pair]:
        """Bridged."""
        edge_port, cloud_port = _free_port(), _free_port()
        async with (
            self._broker(folder, "cloud", cloud_port) as cloud,
            self._broker(folder, "edge", edge_port, bridge_to=cloud_port) as edge,
        ):
            yield Pair(edge, cloud, f"127.0.0.1:{edge_port}", f"127.0.0.1:{cloud_port}")

    async def drain(self, folder: Path, count: int) -> float:
        """From the first event at a consumer of the cloud's broker to the last."""
        edge_port, cloud_port = _free_port(), _free_port()
        edge_address, cloud_address = f"127.0.0.1:{edge_port}", f"127.0.0.1:{cloud_port}"
        async with self._broker(folder, "edge", edge_port, bridge_to=cloud_port) as edge:
            await drive(self.tools, kind="fill", peer="mqtt", edge=edge_address, count=count)
            # Frozen, so that its consumer is there before the bridge.
            edge.freeze()
            async with (
                self._broker(folder, "cloud", cloud_port),
                drive_meanwhile(self.tools, kind="drain", peer="mqtt", cloud=cloud_address, count=count) as driver,
            ):
                await driver.event("drain.ready")
                edge.thaw()
                return float((await driver.event("result"))["rate"])

    @asynccontextmanager
    async def _broker(self, folder: Path, name: str, port: int, bridge_to: int | None = None) -> AsyncIterator[Program]:
        store = folder / name
        store.mkdir(exist_ok=True)
        lines = [
            f"listener {port} 127.0.0.1",
            "allow_anonymous true",
            f"user {getpass.getuser()}",
            "persistence true",
            f"persistence_location {store}/",
            "max_queued_messages 0",  # no limit: what it cannot send yet it would drop
            "set_tcp_nodelay true",
        ]
        if bridge_to is not None:
            lines += [
                "connection cloud",
                f"address 127.0.0.1:{bridge_to}",
                "topic ev/# out 1",
                "cleansession false",
                "restart_timeout 1",
            ]
        (folder / f"{name}.conf").write_text("\n".join(lines) + "\n")
        command = (str(self.tools.mosquitto), "-c", str(folder / f"{name}.conf"))
        async with running_command(f"mosquitto-{name}", *command) as program:
            await _listens(port, program)
            yield program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _listens(port: int, program: Program) -> None:
    with trio.move_on_after(_READY_TIMEOUT_S):
        while program.status is None:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(_POLL_S)
            else:
                return
    raise BenchFailure(f"{program.name} does not listen; it said:\n{program.last_words()}")
