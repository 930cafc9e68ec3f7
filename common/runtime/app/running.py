"""An application while its service runs: its tables are made, its entities take commands, its routes answer.

Both composition roots open it around their doors. Without an application everything here is empty.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, TypeVar, overload

import structlog
from starlette.routing import BaseRoute

from common.core.errors import FOREIGN, BackhaulError, ConfigurationError
from common.core.events.batch import Envelope
from common.entity.definition import AnyEntity, EventSourced
from common.entity.durable_state import AnyState, DurableState
from common.entity.runtime import Entities, open_entities
from common.entity.settings import EntitySettings
from common.entity.states import States
from common.entity.typed import EntitiesOf, StatesOf
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.journal.tables import SqlValue
from common.projection.handler_executor import HandlerExecutor, name_of, place_of, place_of_traceback
from common.projection.handler_invoker import Decode, HandlerInvoker, undecoded
from common.projection.handlers import Handler
from common.projection.progress import ProjectionProgress
from common.runtime.app.application import BUILT_IN, NO_APPLICATION, App, Application
from common.runtime.app.handler_sink import HandlerSink
from common.runtime.app.tasks import TaskProgress
from common.runtime.http.entities import entity_routes, state_routes
from common.runtime.http.entity_mends import mend_routes
from common.runtime.http.hidden import check_not_hidden
from common.runtime.intake import Intake
from common.transport.subscription.sinks import Sink
from common.watchdog import Watchdog

_log = structlog.get_logger()

TABLES = "application tables"

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class RunningApplication:
    """What an application's own routes may use."""

    application: Application
    journal: Journal
    intake: Intake
    entities: Entities
    states: States
    now_us: Callable[[], int]
    watchdog: Watchdog
    progress: list[ProjectionProgress] = field(default_factory=list)
    """The ranges of projections as this node runs them."""
    tasks: list[TaskProgress] = field(default_factory=list)
    """The application's tasks as this node runs them."""
    faults: dict[str, BackhaulError] = field(default_factory=dict)
    """What the handler of a followed stream last failed with, by subscription."""
    raises_rejections: bool = False
    """As ``act`` is given it: a rejected ``ask`` raises unless asked otherwise."""

    @overload
    def of(self, what: type[EventSourced[S, C, E]]) -> EntitiesOf[S, C]: ...

    @overload
    def of(self, what: type[DurableState[V]]) -> StatesOf[V]: ...

    def of(self, what: type[AnyEntity] | type[AnyState]) -> EntitiesOf[Any, Any] | StatesOf[Any]:
        """Entities or durable state of one type, typed; a type that the application has not is refused when it is used."""
        if issubclass(what, EventSourced):
            entity_type = getattr(what, "entity_type", what.__name__)
            return EntitiesOf(self.entities, entity_type, raises=self.raises_rejections)
        return StatesOf(self.states, getattr(what, "entity_type", what.__name__))

    async def query(self, sql: str, *args: SqlValue) -> list[tuple[Any, ...]]:
        """Rows of the application's tables."""
        return await self.journal.projections.query(sql, args)

    @property
    def acting(self) -> RunningApplication:
        """As acting handlers and tasks are given it."""
        return replace(self, raises_rejections=True)

    @property
    def decode(self) -> Decode:
        """What handlers of single events are given as an event's value."""
        return self._decode if self.application.decodes else undecoded

    def _decode(self, envelope: Envelope) -> object:
        return self.application.registry.decode_event(envelope)

    @property
    def handlers(self) -> Sequence[Handler]:
        """The application's projections over the own log."""
        return [handler.bound(self.acting) for handler in self.application.app.projections]

    def handler_sinks(self, plain_calls: Callable[[], HandlerExecutor]) -> dict[str, Sink]:
        """What takes the streams that the application follows, by subscription."""
        return {
            one.subscription: HandlerSink(
                HandlerInvoker(one.handler.bound(self.acting), self.decode, plain_calls(), self.watchdog),
                self.journal,
                partial(self.faults.__setitem__, one.subscription),
            )
            for one in self.application.app.follows
        }

    def _own_routes(self) -> Sequence[BaseRoute]:
        maker = self.application.app.routes
        try:
            made: object = maker(self)
        except FOREIGN as error:
            raise ConfigurationError(
                "application.routes_failed",
                f"{name_of(maker)} raised {type(error).__name__} at {place_of_traceback(error.__traceback__, maker)}",
                "mend the function that is the App's routes",
            ) from error
        if isinstance(made, Sequence) and all(isinstance(one, BaseRoute) for one in made):
            return made
        if isinstance(made, Coroutine):
            made.close()
        raise ConfigurationError(
            "application.routes_failed",
            f"{name_of(maker)} at {place_of(maker)} returned {type(made).__name__}, which is no list of routes",
            "write a plain function that returns [Route(…), …], with Route of starlette.routing",
        )

    def routes(self, before: Sequence[BaseRoute]) -> list[BaseRoute]:
        """`before`, the service's own; then commands to the application's entities, its durable state, its own routes.

        Raises:
            ConfigurationError: ``application.routes_failed``, ``application.route_hidden``.
        """
        ours = [
            *before,
            *(entity_routes(self.entities) if self.application.entities else ()),
            *(mend_routes(self.journal, self.entities) if self.application.entities else ()),
            *(state_routes(self.states) if self.application.states else ()),
        ]
        own = self._own_routes()
        check_not_hidden(own, ours)
        return [*ours, *own]


async def _make_tables(app: App, journal: Journal) -> None:
    """Make the tables of the application's handlers, so that its routes find them once the service is ready.

    One that cannot be made stops nothing else: its projection makes it again, and says what is wrong.
    """
    for handler in (*app.projections, *(follow.handler for follow in app.follows)):
        if handler.migrations:
            with suppress(BackhaulError):
                await journal.projections.migrate(handler.name, handler.migrations)


@asynccontextmanager
async def open_application(
    application: Application,
    journal: Journal,
    commit: GroupCommit,
    intake: Intake,
    *,
    node: str,
    now_us: Callable[[], int],
    chance: Random,
    id_prefix: str = "",
    event_max_bytes: int,
    snapshots_kept: int = 1,
) -> AsyncIterator[RunningApplication]:
    """Bring the application's tables up and run its entities while the block runs.

    ``node`` is unique among all that write to the journal, ``id_prefix`` an edge's own. Raises what migrations raise:
    ``journal.schema_newer``, ``projection.statement_failed``.
    """
    app = application.app
    if app.migrations:
        await journal.projections.migrate(TABLES, app.migrations)
    states = States(
        journal,
        commit,
        application.states,
        node=node,
        now_us=now_us,
        id_prefix=id_prefix,
        event_max_bytes=event_max_bytes,
    )
    await states.prepare()
    await _make_tables(app, journal)
    watchdog = Watchdog()
    async with open_entities(
        journal,
        commit,
        application.entities,
        EntitySettings(event_max_bytes=event_max_bytes, snapshots_kept=snapshots_kept),
        node=node,
        chance=chance,
        watchdog=watchdog,
        id_prefix=id_prefix,
    ) as entities:
        if application is NO_APPLICATION:
            yield RunningApplication(application, journal, intake, entities, states, now_us, watchdog)
            return
        with watchdog.watching():
            _log.info(
                "application.loaded",
                application=application.target,
                entity_types=[*application.entities, *application.states],
                projections=[handler.name for handler in app.projections],
                follows=[follow.subscription for follow in app.follows],
                tasks=[task.name for task in app.tasks],
            )
            yield RunningApplication(application, journal, intake, entities, states, now_us, watchdog)


def built_in_handler(name: str) -> Handler:
    """A built-in projection by name.

    Raises:
        ConfigurationError: ``settings.unknown_projection``.
    """
    if name not in BUILT_IN:
        raise ConfigurationError(
            "settings.unknown_projection",
            f"there is no projection {name!r}",
            f"built in are {', '.join(sorted(BUILT_IN))}",
        )
    return BUILT_IN[name]
