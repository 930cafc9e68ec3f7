"""The simulated world: disks, clocks, machines and the lines between them, made from a plan.

Everything a service gets comes from here through ``Environment``; nothing in a service knows that the world is not real.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from random import Random
from typing import Any

import structlog
import trio
from starlette.types import ASGIApp

import cloud_service.service
import edge_service.service
from cloud_service.settings import CloudSettings
from common.core.addresses import Address, PeerAddress
from common.core.journal.url import JournalUrl
from common.core.push.messages import PUSH_PATH
from common.core.subscription.messages import SUBSCRIBE_PATH
from common.journal.memory.journal import open_memory_journal
from common.journal.stores.journal import Journal
from common.projection.handler_executor import call_inline
from common.runtime.environment import Environment
from common.transport.memory.line import MemoryConnection
from common.transport.memory.network import MemoryNetwork
from common.transport.stream import Channel, Methods, PeerGone, PeerInfo, ServedStream, StreamMethod, UnaryMethod
from edge_service.settings import EdgeSettings
from tests.simulation.disks import Disk, Mount
from tests.simulation.down.orders_folded import application_at
from tests.simulation.down.plan import STREAM_TYPES, policy_file
from tests.simulation.facts import CLOUD
from tests.simulation.hosts import Clock, Host, Serve
from tests.simulation.plan import DATABASE, FaultPlan
from tests.simulation.referee import Referee
from tests.simulation.taps import TappedChannel, TappedServedStream, Told
from tests.simulation.trace import Trace
from tests.support.builders import START_US

PLAIN_TYPE = "Plain"
"""Entity type whose oldest events an edge may drop when its journal is full."""

_PORT = 7443
_EDGE_PORT = 7544


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
        sizes, down = self.plan.sizes, self.plan.down
        settings = EdgeSettings(
            id=edge_id,
            serve=Address(name, _EDGE_PORT) if down and name == edge_id else None,
            cloud=PeerAddress((Address(CLOUD, _PORT),)),
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

        if down is not None:
            settings = replace(
                settings,
                start_from=down.start_from,
                on_diverged="restart",
                snapshots_if_behind=down.snapshots_if_behind,
                inbox_max_bytes=down.inbox_max_bytes,
                lease_s=sizes.lease_s,
            )

        async def serve(environment: Environment, stop: trio.Event, task_status: trio.TaskStatus[object]) -> None:
            now = replace(settings, **self._subscriptions(edge_id))
            await edge_service.service.serve(now, environment, stop, task_status=task_status)

        return self._host(name, edge_id, disk, self.clocks[edge_id], serve)

    def _subscriptions(self, edge: str) -> dict[str, Any]:
        """The settings of those that have begun by now."""
        begun = [
            one
            for one in (self.plan.down.subscriptions if self.plan.down else ())
            if one.edge == edge and one.from_s <= trio.current_time()
        ]
        addresses = {one.name: f"{one.source}:{_PORT if one.source == CLOUD else _EDGE_PORT}" for one in begun}
        return {
            "subscriptions": tuple(f"{one.name}={one.stream}@{addresses[one.name]}" for one in begun),
            "subscription_filters": tuple(f"{one.name}={one.criteria}" for one in begun),
            "subscription_history": tuple(f"{one.name}={one.past}" for one in begun),
        }

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

        down = self.plan.down
        if down is not None:
            settings = replace(
                settings,
                streams=tuple(f"{name}={'+'.join(sorted(types))}" for name, types in STREAM_TYPES.items()),
                policy=policy_file(),
                snapshot_every=(f"Order={down.snapshot_every}",) if down.snapshot_every else (),
                retention_age_s=down.retention_age_s,
                retention_least_age_s=0.0,
                retention_interval_s=1.0,
            )

        async def serve(environment: Environment, stop: trio.Event, task_status: trio.TaskStatus[object]) -> None:
            application = application_at(down.fold if down else None)
            await cloud_service.service.serve(
                settings, environment, stop, application=application, task_status=task_status
            )

        return self._host(name, name, self._referee.facts.cloud_disk, self.clocks[name], serve)

    def _host(self, name: str, edge_id: str, disk: Disk, clock: Clock, serve: Serve) -> Host:
        return Host(
            name,
            edge_id,
            disk,
            clock,
            serve,
            environment=self._environment,
            lines=self.lines_of,
            referee=self._referee,
            trace=self._trace,
            notified=not self.plan.sizes.poll_only,
        )

    def _environment(self, host: Host, mount: Mount, life: str) -> Environment:
        is_node, machine = mount.disk.name == CLOUD, host
        self._dialling[life] = mount.disk
        # A node's journal keeps its database's time, the node itself its own.
        stored_us = self.clocks[DATABASE] if is_node else host.clock
        commit_s = self.plan.sizes.cloud_commit_s if is_node else self.plan.sizes.edge_commit_s

        def open_journal(
            url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
        ) -> AbstractAsyncContextManager[Journal]:
            return open_memory_journal(mount, now_us=stored_us, new_id=self._new_id, commit_delay_s=commit_s)

        @asynccontextmanager
        async def dial(
            address: Address, *, tls: object, connect_timeout_s: float, message_max_bytes: int, user_timeout_s: float
        ) -> AsyncIterator[Channel]:
            source, place = address.host, str(address)
            if source == CLOUD:
                node = self.plan.nodes[next(self._dials) % len(self.plan.nodes)]
                place, disk = f"{node}:{_PORT}", self._referee.facts.cloud_disk
            else:
                disk = self.edges[source].disk
            if host.name in self.swallowed:
                await trio.sleep(connect_timeout_s)
                raise PeerGone("link.timeout", f"{place} did not answer within {connect_timeout_s} s")
            if host.name in self.refused:
                raise PeerGone("link.refused", f"{place} refuses")
            async with self.network.open_channel(
                place,
                connect_timeout_s=connect_timeout_s,
                message_max_bytes=message_max_bytes,
                dialler=PeerInfo(life),
            ) as channel:
                yield TappedChannel(channel, partial(self._dialled_ears, mount.disk, disk, host.edge_id))

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
                self._tapped(methods, life, mount.disk),
                host=host if is_node or port == _EDGE_PORT else life,
                port=port,
                message_max_bytes=message_max_bytes,
                connections_max=connections_max,
            ) as bound:
                yield bound

        @asynccontextmanager
        async def serve_http(app: ASGIApp, host: str, port: int, *, connections_max: int) -> AsyncIterator[int]:
            machine.app = app
            try:
                yield port
            finally:
                if machine.app is app:
                    machine.app = None

        return Environment(
            now_us=host.clock,
            new_id=self._new_id,
            chance=Random(f"service {self.plan.seed} {life}"),
            open_journal=open_journal,
            dial=dial,
            serve_grpc=serve_grpc,
            serve_http=serve_http,
            plain_calls=lambda: call_inline,
            volume_free_bytes=lambda _url: 2**30,
        )

    def _dialled_ears(self, disk: Disk, source: Disk, edge: str, path: str) -> tuple[Told, Told]:
        if path == SUBSCRIBE_PATH:
            return self._referee.down.consumer_ears(disk, source, edge)
        return self._referee.dialled_ears(disk)

    def _new_id(self) -> str:
        return f"{next(self._ids):08d}-id"

    def _tapped(self, methods: Methods, life: str, disk: Disk) -> Methods:
        """The methods with ears on their streams, in the log's context of the service that serves them from ``disk``."""
        tapped: dict[str, StreamMethod | UnaryMethod] = dict(methods)
        push = methods.get(PUSH_PATH)
        if isinstance(push, StreamMethod):
            handler = push.handler

            async def listen(stream: ServedStream) -> None:
                edge = self._dialling[stream.peer.address]
                with structlog.contextvars.bound_contextvars(service=life):
                    await handler(TappedServedStream(stream, *self._referee.served_ears(edge)))

            tapped[PUSH_PATH] = StreamMethod(listen)
        subscribe = methods.get(SUBSCRIBE_PATH)
        if isinstance(subscribe, StreamMethod):
            serve_stream = subscribe.handler

            async def listen_down(stream: ServedStream) -> None:
                with structlog.contextvars.bound_contextvars(service=life):
                    await serve_stream(TappedServedStream(stream, *self._referee.down.source_ears(disk)))

            tapped[SUBSCRIBE_PATH] = StreamMethod(listen_down)
        return tapped

    # -- lines -----------------------------------------------------------------------------------------------------
    def lines_of(self, name: str) -> list[MemoryConnection]:
        """The open connections of a machine, dialled or served."""
        return [
            connection
            for connection in self.network.connections
            if connection.address in {f"{name}:{_PORT}", f"{name}:{_EDGE_PORT}"}
            or connection.dialler.address.partition(".")[0] == name
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
