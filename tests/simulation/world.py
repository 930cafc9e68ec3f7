"""The simulated world: disks, clocks, machines and the lines between them, made from a plan.

Everything a service gets comes from here through ``Outside``; nothing in a service knows that the world is not real.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from random import Random

import structlog
import trio
from starlette.types import ASGIApp

import cloud_service.service
import edge_service.service
from cloud_service.settings import CloudSettings
from common.core.push_messages import PUSH_PATH
from common.journal.interface import Journal
from common.journal.memory import open_memory_journal
from common.runtime.outside import Outside
from common.runtime.setting_values import Address
from common.transport.memory_line import MemoryConnection
from common.transport.memory_streams import MemoryNetwork
from common.transport.stream import Channel, MessageStream, Methods, PeerGone, PeerInfo, StreamMethod, UnaryMethod
from edge_service.settings import EdgeSettings
from tests.simulation.disks import Disk, Mount
from tests.simulation.hosts import Clock, Host, Serve
from tests.simulation.plan import DATABASE, FaultPlan
from tests.simulation.referee import CLOUD, Referee
from tests.simulation.taps import TappedChannel, TappedStream
from tests.simulation.trace import Trace
from tests.support.builders import START_US

PLAIN_TYPE = "Plain"
"""Entity type whose oldest events an edge may drop when its journal is full."""

_PORT = 7443


class World:
    """Made from a plan; ``referee`` is told of every commit and every message."""

    def __init__(self, plan: FaultPlan, trace: Trace, referee: Referee) -> None:
        self.plan = plan
        self.network = MemoryNetwork()
        self.network.on_connect = self._connected
        self.refused: set[str] = set()
        self.swallowed: set[str] = set()
        self.calm = trio.Event()
        """Set when the faults are over: new lines are good ones."""
        self.clocks = {name: Clock(START_US) for name in (*plan.edges, *plan.nodes, DATABASE)}
        self._chance = Random(f"lines {plan.seed}")
        self._trace = trace
        self._referee = referee
        self._dials = count()
        self._ids = count(1)
        self._dialling: dict[str, Disk] = {}  # by life of an edge
        referee.facts.cloud_disk = Disk(CLOUD, referee.committed)
        self.edges = {name: self.edge(name, name, Disk(name, referee.committed)) for name in plan.edges}
        self.nodes = {name: self._node(name) for name in plan.nodes}
        referee.facts.disks.extend(host.disk for host in self.edges.values())

    @property
    def hosts(self) -> dict[str, Host]:
        """All machines but clones."""
        return {**self.edges, **self.nodes}

    # -- machines --------------------------------------------------------------------------------------------------
    def edge(self, name: str, edge_id: str, disk: Disk) -> Host:
        """A machine with an edge service; a clone has the id of another."""
        sizes = self.plan.sizes
        settings = EdgeSettings(
            id=edge_id,
            cloud=Address(CLOUD, _PORT),
            insecure=True,
            journal_max_bytes=sizes.drop_at_bytes or 10**9,
            on_full="drop_oldest" if sizes.drop_at_bytes else "refuse",
            plain_types=(PLAIN_TYPE,) if sizes.drop_at_bytes else (),
            keep_acked_s=sizes.keep_acked_s,
            retention_interval_s=sizes.retention_s,
            connect_timeout_s=2.0,
            backoff_min_s=0.1,
            backoff_max_s=sizes.backoff_max_s,
            event_max_bytes=1_000,
            batch_max_events=sizes.batch_events,
            batch_max_bytes=sizes.batch_bytes,
            window_max_batches=sizes.window_batches,
            window_max_bytes=sizes.window_bytes,
            heartbeat_s=sizes.heartbeat_s,
            progress_timeout_s=sizes.progress_timeout_s,
            poll_interval_s=sizes.poll_s,
            poll_only=sizes.poll_only,
        )

        async def serve(outside: Outside, stop: trio.Event, task_status: trio.TaskStatus[object]) -> None:
            await edge_service.service.serve(settings, outside, stop, task_status=task_status)

        return self._host(name, disk, self.clocks[edge_id], serve)

    def _node(self, name: str) -> Host:
        sizes = self.plan.sizes
        settings = CloudSettings(
            node=name,
            insecure=True,
            grpc_host=name,
            grpc_port=_PORT,
            projection_ranges=sizes.projection_ranges,
            lease_s=sizes.lease_s,
            event_max_bytes=1_000,
            batch_max_events=sizes.batch_events,
            batch_max_bytes=sizes.batch_bytes,
            window_max_batches=sizes.window_batches,
            window_max_bytes=sizes.window_bytes,
            heartbeat_s=sizes.heartbeat_s,
            progress_timeout_s=sizes.progress_timeout_s,
            poll_interval_s=sizes.poll_s,
            poll_only=sizes.poll_only,
        )

        async def serve(outside: Outside, stop: trio.Event, task_status: trio.TaskStatus[object]) -> None:
            await cloud_service.service.serve(settings, outside, stop, task_status=task_status)

        return self._host(name, self._referee.facts.cloud_disk, self.clocks[name], serve)

    def _host(self, name: str, disk: Disk, clock: Clock, serve: Serve) -> Host:
        return Host(
            name,
            disk,
            clock,
            serve,
            outside=self._outside,
            lines=self.lines_of,
            referee=self._referee,
            trace=self._trace,
            prompted=not self.plan.sizes.poll_only,
        )

    def _outside(self, host: Host, mount: Mount, life: str) -> Outside:
        is_node = mount.disk.name == CLOUD
        self._dialling[life] = mount.disk
        # A node's journal keeps its database's time, the node itself its own.
        stored_us = self.clocks[DATABASE] if is_node else host.clock
        commit_s = self.plan.sizes.cloud_commit_s if is_node else self.plan.sizes.edge_commit_s

        def open_journal(url: str, *, max_bytes: int | None, prompted: bool) -> AbstractAsyncContextManager[Journal]:
            return open_memory_journal(mount, now_us=stored_us, new_id=self._new_id, commit_delay_s=commit_s)

        @asynccontextmanager
        async def dial(
            address: str, *, tls: object, connect_timeout_s: float, message_max_bytes: int, user_timeout_s: float
        ) -> AsyncIterator[Channel]:
            node = self.plan.nodes[next(self._dials) % len(self.plan.nodes)]
            if host.name in self.swallowed:
                await trio.sleep(connect_timeout_s)
                raise PeerGone("link.timeout", f"{address} did not answer within {connect_timeout_s} s")
            if host.name in self.refused:
                raise PeerGone("link.refused", f"{address} refuses")
            async with self.network.open_channel(
                f"{node}:{_PORT}",
                connect_timeout_s=connect_timeout_s,
                message_max_bytes=message_max_bytes,
                dialler=PeerInfo(life),
            ) as channel:
                yield TappedChannel(channel, lambda: self._referee.dialled_ears(mount.disk))

        @asynccontextmanager
        async def serve_grpc(
            methods: Methods,
            *,
            host: str,
            port: int,
            tls: object,
            message_max_bytes: int,
            connections_max: int,
            user_timeout_s: float,
        ) -> AsyncIterator[int]:
            async with self.network.serve(
                self._tapped(methods, life),
                host=host if is_node else life,
                port=port,
                message_max_bytes=message_max_bytes,
                connections_max=connections_max,
            ) as bound:
                yield bound

        return Outside(
            now_us=host.clock,
            new_id=self._new_id,
            chance=Random(f"service {self.plan.seed} {life}"),
            open_journal=open_journal,
            dial=dial,
            serve_grpc=serve_grpc,
            serve_http=_serve_no_http,
        )

    def _new_id(self) -> str:
        return f"{next(self._ids):08d}-id"

    def _tapped(self, methods: Methods, life: str) -> Methods:
        """The methods with ears on the push streams, in the log's context of the node that serves them."""
        tapped: dict[str, StreamMethod | UnaryMethod] = dict(methods)
        push = methods.get(PUSH_PATH)
        if isinstance(push, StreamMethod):
            handler = push.handler

            async def listen(stream: MessageStream) -> None:
                disk = self._dialling[stream.peer.address]
                with structlog.contextvars.bound_contextvars(service=life):
                    await handler(TappedStream(stream, *self._referee.served_ears(disk)))

            tapped[PUSH_PATH] = StreamMethod(listen)
        return tapped

    # -- lines -----------------------------------------------------------------------------------------------------
    def lines_of(self, name: str) -> list[MemoryConnection]:
        """The open connections of a machine, dialled or served."""
        return [
            connection
            for connection in self.network.connections
            if connection.address == f"{name}:{_PORT}" or connection.dialler.address.partition(".")[0] == name
        ]

    def heal(self) -> None:
        """The faults are over: lines are as good as new, but for those that stay held."""
        self.calm.set()
        for connection in self.network.connections:
            connection.delay_s, connection.bytes_per_s = 0.0, math.inf
            connection.cut_after("up")
            connection.cut_after("down")
            if not self.plan.held_for_ever:
                connection.let_go()

    def _connected(self, connection: MemoryConnection) -> None:
        if self.calm.is_set():
            return
        lines, chance = self.plan.lines, self._chance
        connection.delay_s = chance.uniform(0, lines.delay_max_s)
        if chance.random() < lines.slow:
            connection.bytes_per_s = lines.slow_bytes_per_s
        if chance.random() < lines.cut:
            connection.cut_after(
                "up" if chance.random() < 0.5 else "down", messages=chance.randint(0, lines.cut_messages_max)
            )


@asynccontextmanager
async def _serve_no_http(app: ASGIApp, host: str, port: int, *, connections_max: int) -> AsyncIterator[int]:
    """HTTP is not simulated: applications go through the intake's own door."""
    yield port
