"""Both services in one process: memory journals, lines in memory, one clock. What `serve` runs is what runs in the field.

    async with open_world(edge_app=app, cloud_app=app, edges=("site-7",)) as world:
        edge = world.edges["site-7"]
        await edge.entities.ask("Drone", "d1", Report(59.9, 10.7))
        await world.settled()
        rows = await world.cloud.query("SELECT …")

Use it under a mock clock (pytest-trio's ``autojump_clock``, or ``run``): hours of an outage then cost nothing. A service can be
stopped and started again on its journal, and an edge's line be cut and mended.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import count
from random import Random
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol, TypeVar, overload

import structlog
import trio
import trio.testing
from starlette.types import ASGIApp
from structlog.typing import EventDict, WrappedLogger

import cloud_service.service
import edge_service.service
from cloud_service.settings import CloudSettings
from common.core.addresses import Address, PeerAddress
from common.core.errors import BackhaulError, ConfigurationError
from common.core.journal.statement import check_portable
from common.core.journal.url import JournalUrl
from common.entity.definition import EventSourced
from common.entity.durable_state import DurableState
from common.entity.runtime import Entities
from common.entity.states import States
from common.entity.typed import EntitiesOf, StatesOf
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.projection.handler_executor import call_inline
from common.runtime.app.application import NO_APPLICATION, App, Application, check_application
from common.runtime.app.running import RunningApplication
from common.runtime.environment import Environment
from common.runtime.settings.loading import with_values
from common.testing.faults import why
from common.testing.http_in_memory import HttpAnswer, http_request
from common.transport.memory.line import MemoryConnection
from common.transport.memory.network import MemoryNetwork
from common.transport.stream import Channel, Methods, PeerGone, PeerInfo
from common.transport.subscription.state import SubscriptionState
from edge_service.settings import EdgeSettings

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
V = TypeVar("V")

T = TypeVar("T")

NO_SETTINGS: Final[Mapping[str, object]] = MappingProxyType({})
_KITS_OWN: Final = frozenset(
    {"id", "cloud", "node", "app", "journal", "grpc_host", "grpc_port", "http_host", "http_port", "insecure"}
)
_CLOUD: Final = "cloud"
_PORT: Final = 7443
START_US: Final = 1_767_225_600_000_000  # the first of January 2026


class Serve(Protocol):
    """A composition root with its settings and application."""

    async def __call__(
        self, environment: Environment, stop: trio.Event, *, task_status: trio.TaskStatus[Any]
    ) -> None: ...


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test under a clock that jumps over every wait, where no pytest plugin does.

    What the services log goes to standard error, warnings and worse, unless structlog is configured to do otherwise.
    """
    with _quiet_logs():
        trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def _quiet_logs() -> Iterator[None]:
    if structlog.is_configured():
        yield
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _without_instructions,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


def _without_instructions(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    fields.pop("repeat_key", None)
    return fields


def now_us() -> int:
    """The world's wall clock: it goes with trio's, so the two cannot part."""
    return START_US + round(trio.current_time() * 1e6)


class Service:
    """An edge or the cloud: its journal, which outlives it, and what runs now."""

    def __init__(self, name: str, serve: Serve, world: World) -> None:
        self.name = name
        self.database = MemoryDatabase()
        self._serve = serve
        self._world = world
        self._running: RunningApplication | None = None
        self.subscriptions: Mapping[str, SubscriptionState] = {}
        self._app: ASGIApp | None = None
        self._stop = trio.Event()
        self._wanted = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_running(self) -> bool:
        """Whether it is started."""
        return self._running is not None

    @property
    def running(self) -> RunningApplication:
        """The application as it runs now."""
        assert self._running is not None, f"{self.name} is stopped"
        return self._running

    @property
    def journal(self) -> Journal:
        """The journal of the running service."""
        return self.running.journal

    @property
    def entities(self) -> Entities:
        """Its event-sourced entities."""
        return self.running.entities

    @property
    def states(self) -> States:
        """Its durable state."""
        return self.running.states

    @overload
    def of(self, what: type[EventSourced[S, C, E]]) -> EntitiesOf[S, C]: ...

    @overload
    def of(self, what: type[DurableState[V]]) -> StatesOf[V]: ...

    def of(self, what: type[Any]) -> EntitiesOf[Any, Any] | StatesOf[Any]:
        """Entities or durable state of one type, typed."""
        found: EntitiesOf[Any, Any] | StatesOf[Any] = self.running.of(what)
        return found

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the application's tables."""
        return await self.journal.projections.query(sql, args)

    async def http(self, method: str, path: str, body: object = None, **headers: str) -> HttpAnswer:
        """A request to its HTTP port; ``body`` is sent as JSON."""
        assert self._app is not None, f"{self.name} is stopped"
        return await http_request(self._app, method, path, body, headers)

    async def start(self) -> None:
        """Start it on its journal; returns when it is ready."""
        self._wanted.set()
        while not self.is_running:
            await self._changed.park()

    async def stop(self) -> None:
        """Stop it as SIGTERM does; returns when it is gone."""
        self._wanted = trio.Event()
        self._stop.set()
        while self.is_running:
            await self._changed.park()

    async def run(self) -> NoReturn:
        """Run it whenever it is wanted; started by the world."""
        while True:
            await self._wanted.wait()
            self._stop = trio.Event()
            with structlog.contextvars.bound_contextvars(service=self.name):
                try:
                    async with trio.open_nursery() as nursery:
                        ports = await nursery.start(self._serve, self._world.environment(self), self._stop)
                        self._running, self.subscriptions = ports.running, ports.subscriptions
                        self._changed.unpark_all()
                finally:
                    self._running = self._app = None
                    self._changed.unpark_all()

    @asynccontextmanager
    async def serve_http(self, app: ASGIApp, host: str, port: int, *, connections_max: int) -> AsyncIterator[int]:
        """Its port in memory: a request calls the application."""
        self._app = app
        yield port


class World:
    """Made by ``open_world``."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.edges: Mapping[str, Service] = {}
        self.cloud: Service
        self._cut: set[str] = set()
        self._ids = count(1)

    # -- lines -----------------------------------------------------------------------------------------------------
    def cut(self, edge: str) -> None:
        """The edge's line is down: connections break, dialling finds nobody."""
        self._cut.add(edge)
        for connection in self._lines(edge):
            connection.cut("the line is down")

    def mend(self, edge: str) -> None:
        """The line is up again; the edge finds out when it dials next."""
        self._cut.discard(edge)

    def _lines(self, edge: str) -> list[MemoryConnection]:
        return [connection for connection in self.network.connections if connection.dialler.address == edge]

    # -- waiting ---------------------------------------------------------------------------------------------------
    async def settled(self, at_most_s: float = 600.0) -> None:
        """Wait until everybody has seen everything: the cloud what edges stored, edges what they follow of the cloud, and
        every projection its whole log. Edges whose line is cut or that are stopped are left out.

        Raises:
            AssertionError: naming what is behind, when that takes longer than ``at_most_s``; with the reason, and what a
                handler raised as its cause, where that is why.
        """
        until_s = trio.current_time() + at_most_s
        while behind := await self._behind():
            if trio.current_time() >= until_s:
                faults = self._faults()
                text = "".join(f"\n{where} fails: {why(fault)}" for where, fault in faults.items())
                raise AssertionError(f"after {at_most_s:g} s {behind}{text}") from next(iter(faults.values()), None)
            await trio.sleep(0.1)

    def _faults(self) -> dict[str, BackhaulError]:
        """What keeps projections, followed streams and tasks of running services from going on."""
        faults: dict[str, BackhaulError] = {}
        for service in (self.cloud, *self.edges.values()):
            if not service.is_running:
                continue
            running = service.running
            faults |= {f"{one.name} at {service.name}": one.fault for one in running.progress if one.fault is not None}
            for name, fault in running.faults.items():
                if service.subscriptions[name].state != "connected":
                    faults[f"{name} at {service.name}"] = fault
            faults |= {
                f"task {one.name} at {service.name}": one.error for one in running.tasks if one.error is not None
            }
        return faults

    async def _behind(self) -> str:
        return await self._behind_down() or await self._behind_up()

    async def _behind_down(self) -> str:
        if not self.cloud.is_running:
            return ""
        head = (await self.cloud.journal.log.stats()).head_position
        for name, edge in self.edges.items():
            if not edge.is_running or name in self._cut:
                continue
            for follow in edge.running.application.app.follows:
                state = edge.subscriptions[follow.subscription]
                if not follow.source and (state.position < head or state.awaiting or state.backfill_position >= 0):
                    return f"{name} is at {state.position} of {head} in {state.name}"
        return ""

    async def _behind_up(self) -> str:
        stored = {origin.origin_id: origin.stored.position for origin in await self.cloud.journal.origins.rows()}
        for name, edge in self.edges.items():
            if edge.is_running:
                head = (await edge.journal.log.stats()).head_position
                if stored.get(name, 0) < head and name not in self._cut:
                    return f"the cloud has {stored.get(name, 0)} of {head} events of {name}"
        for service in (self.cloud, *self.edges.values()):
            if not service.is_running:
                continue
            head = (await service.journal.log.stats()).head_position
            names = {handler.name for handler in service.running.handlers}
            for row in await service.journal.projections.rows():
                if row.position < head and row.name in names and not row.paused:
                    return f"{row.name} at {service.name} is at {row.position} of {head}"
        return ""

    # -- what a service gets of the world ----------------------------------------------------------------------------
    def environment(self, service: Service) -> Environment:
        """Clock, chance, storage and lines for one life of a service."""

        def open_journal(
            url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
        ) -> AbstractAsyncContextManager[Journal]:
            return open_memory_journal(service.database, now_us=now_us, new_id=self._new_id)

        @asynccontextmanager
        async def dial(
            address: Address, *, tls: object, connect_timeout_s: float, message_max_bytes: int, user_timeout_s: float
        ) -> AsyncIterator[Channel]:
            if service.name in self._cut:
                raise PeerGone("link.unreachable", f"{address} cannot be reached")
            async with self.network.open_channel(
                str(address),
                connect_timeout_s=connect_timeout_s,
                message_max_bytes=message_max_bytes,
                dialler=PeerInfo(service.name),
            ) as channel:
                yield channel

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
                methods,
                host=service.name,
                port=port,
                message_max_bytes=message_max_bytes,
                connections_max=connections_max,
            ) as bound:
                yield bound

        return Environment(
            now_us=now_us,
            new_id=self._new_id,
            chance=Random(service.name),
            open_journal=open_journal,
            dial=dial,
            serve_grpc=serve_grpc,
            serve_http=service.serve_http,
            plain_calls=lambda: call_inline,
        )

    def _new_id(self) -> str:
        return f"{next(self._ids):08d}-id"


def _with_settings(settings: T, given: Mapping[str, object]) -> T:
    for key in _KITS_OWN & given.keys():
        raise ConfigurationError(
            "testing.setting",
            f"{key} is the kit's own: it says who a service is and how others reach it",
            "leave it out; edges= names edges, edge_app= and cloud_app= give the applications",
        )
    return with_values(settings, given, "the test")


def _checked(app: App | None) -> Application:
    if app is None:
        return NO_APPLICATION
    application = check_application(app, "the application under test")
    check_portable(app.migrations)
    for handler in [*app.projections, *(follow.handler for follow in app.follows)]:
        check_portable([*handler.migrations, handler.reset])
    for definition in application.states.values():
        check_portable([*definition.migrations, *definition.state.migrations])
    return application


@asynccontextmanager
async def open_world(
    *,
    edge_app: App | None = None,
    cloud_app: App | None = None,
    edges: Sequence[str] = ("edge-1",),
    edge_settings: Mapping[str, object] = NO_SETTINGS,
    cloud_settings: Mapping[str, object] = NO_SETTINGS,
) -> AsyncIterator[World]:
    """A cloud and some edges, started. Entity ids at an edge have no prefix in ``ask`` and ``edge/`` in the journal.

    ``edge_settings`` and ``cloud_settings`` are settings by name, with values as a file or a variable has them; ``{edge_id}`` in
    an edge's texts is its id. Who they are and how they reach each other is the kit's.

    Raises:
        ConfigurationError: what a service would refuse to start with.
        BackhaulError: ``projection.not_portable``: an application has definitions that SQLite or PostgreSQL lacks.
    """
    edge_application, cloud_application = _checked(edge_app), _checked(cloud_app)

    def edge(name: str, world: World) -> Service:
        own = {
            key: value.replace("{edge_id}", name) if isinstance(value, str) else value
            for key, value in edge_settings.items()
        }
        settings = _with_settings(
            EdgeSettings(id=name, cloud=PeerAddress((Address(_CLOUD, _PORT),)), insecure=True, backoff_max_s=2.0), own
        )

        async def serve(environment: Environment, stop: trio.Event, *, task_status: trio.TaskStatus[Any]) -> None:
            await edge_service.service.serve(
                settings, environment, stop, application=edge_application, task_status=task_status
            )

        return Service(name, serve, world)

    async def serve_cloud(environment: Environment, stop: trio.Event, *, task_status: trio.TaskStatus[Any]) -> None:
        settings = _with_settings(
            CloudSettings(node="cloud", insecure=True, grpc_host=_CLOUD, grpc_port=_PORT, streams=("* readers=*",)),
            cloud_settings,
        )
        await cloud_service.service.serve(
            settings, environment, stop, application=cloud_application, task_status=task_status
        )

    try:
        async with trio.open_nursery() as nursery:
            world = World()
            world.cloud = Service(_CLOUD, serve_cloud, world)
            world.edges = {name: edge(name, world) for name in edges}
            for service in (world.cloud, *world.edges.values()):
                nursery.start_soon(service.run)
                await service.start()
            yield world
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nurseries are our affair: what the block raised, or the start, comes out as it was.
        alone: BaseException = group
        while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1:
            alone = alone.exceptions[0]
        raise alone from None
