"""What an application plugs into a service, and how it is found: ``EDGE_APP=module:name``, as ASGI servers do.

The module defines one ``App``. It is imported and checked before anything is opened, also by ``check-config``, so that
a mistake in it is reported with its place and ends the start with status 2. The same ``App`` may serve an edge and a cloud.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, Literal

from starlette.routing import BaseRoute

import common
from common.core.addresses import PeerAddress
from common.core.errors import BackhaulError, ConfigurationError
from common.core.events.batch import EventBatch
from common.core.events.ids import check_name
from common.core.events.transformations import Transformation, Transformed, transform
from common.core.events.types import EventTypes, StoredAs, check_unique
from common.core.filters.past import Past
from common.core.policy.patterns import ID
from common.core.policy.walls import Wall
from common.entity.definition import AnyEntity, Definition, define
from common.entity.durable_state import AnyState, StateDefinition, define_states
from common.projection.handlers import Handler, steps_problem
from common.projection.latest import LATEST
from common.projection.tally import TALLY
from common.runtime.admitted import Admitted
from common.runtime.app.context import Running
from common.runtime.app.handler_sink import check_remote
from common.runtime.app.tasks import Task
from common.runtime.settings.streams import parse_source

_OURS: Final = Path(common.__file__).parent
_PACKAGES: Final = ("common", "edge_service", "cloud_service")
BUILT_IN: Final = MappingProxyType({handler.name: handler for handler in (LATEST, TALLY)})


def _no_routes(_running: Running) -> Sequence[BaseRoute]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Transformations:
    """What becomes of events on their way; each gets an event and returns it, another one, or None to withhold it.

    ``on_push``: at the edge, before they are sent. ``on_receive``: in the cloud, before they are stored; with ``maps_ids``
    it may name other entities, each of which must belong to one origin only. ``on_serve``: before they are served; the
    consumer's place moves over what is withheld.
    """

    on_push: Transformation | None = None
    on_receive: Transformation | None = None
    on_serve: Transformation | None = None
    maps_ids: bool = False

    def pushed(self, events: EventBatch) -> Transformed:
        """As they are sent. Raises ``transformation.failed``: the link waits for a mended function."""
        return transform(self.on_push, events).checked() if self.on_push else Transformed(events)

    def received(self, events: EventBatch) -> Transformed:
        """As they are stored; an event at fault is parked."""
        return transform(self.on_receive, events, maps_ids=self.maps_ids) if self.on_receive else Transformed(events)

    def served(self, events: EventBatch) -> EventBatch:
        """As they are served. What is missing is withheld. Raises ``transformation.failed``."""
        if not self.on_serve:
            return events
        return transform(self.on_serve, events).checked().events


@dataclass(frozen=True, kw_only=True)
class Follow:
    """A stream of another service that the application follows: ``handler`` runs over it as it would over the own log.

    ``criteria`` are the first filter; ``{consumer_id}`` in them stands for this service's id (``EDGE_ID``). Later changes
    are an operator's, and kept in the journal. Without ``source`` (host:port) an edge follows its cloud. What comes takes
    effect in the transaction of the subscription's place, or before it (``effect``, ``act``).
    """

    stream: str
    handler: Handler
    criteria: Sequence[Mapping[str, object]] = ()
    source: str = ""
    name: str = ""
    """The subscription's; that of the stream when not given."""
    history: Literal["snapshot", "full", "none"] = "snapshot"
    """What comes before an event with which an entity enters the filter: its latest snapshot and what came after it (all
    stored events without one), all stored events, or nothing.
    For a handler that takes no snapshots the first means the second."""

    @property
    def past(self) -> Past:
        """What the source is asked for."""
        past = Past(self.history)
        return Past.FULL if past is Past.SNAPSHOT and not self.handler.snapshots else past

    def address(self, default: PeerAddress | None) -> PeerAddress | None:
        """Where the stream is; raises ValueError."""
        return default if not self.source else parse_source(self.source)

    @property
    def subscription(self) -> str:
        """The name it is known by in the journal, in logs and to operators."""
        return self.name or self.stream

    def first_filter(self, consumer_id: str) -> str:
        """Canonical criteria. Raises what parsing does, and ``subscription.invalid_consumer``."""
        text = json.dumps(list(self.criteria)) if self.criteria else ""
        return Wall(text.replace("{consumer_id}", ID)).filter_for(consumer_id).criteria


@dataclass(frozen=True, kw_only=True)
class App:
    """An application, as its module defines it; everything is optional.

    ``event_types`` are classes that no entity or state names already. ``migrations`` make tables of the application as
    a whole, a step each, before anything runs. ``tasks`` are made by ``every``, ``at`` and ``background``. ``routes`` makes
    HTTP routes of what runs, served beside the service's own.
    """

    event_types: Sequence[type | StoredAs] = ()
    entities: Sequence[AnyEntity | type[AnyEntity]] = ()
    states: Sequence[AnyState | type[AnyState]] = ()
    projections: Sequence[Handler] = ()
    follows: Sequence[Follow] = ()
    migrations: Sequence[Sequence[str]] = ()
    tasks: Sequence[Task] = ()
    routes: Callable[[Running], Sequence[BaseRoute]] = _no_routes
    transformations: Transformations = Transformations()


@dataclass(frozen=True)
class Application:
    """A checked ``App``: names are unique, types have their codecs."""

    app: App
    target: str = ""
    registry: EventTypes = field(default_factory=EventTypes)
    entities: Mapping[str, Definition] = field(default_factory=dict)
    states: Mapping[str, StateDefinition] = field(default_factory=dict)

    @property
    def decodes(self) -> bool:
        """Whether there is any type that a payload can be read as."""
        return bool(self.registry.names)

    @property
    def admitted(self) -> Admitted:
        """What may come in beside commands."""
        return Admitted(self.registry, frozenset({*self.entities, *self.states}))


NO_APPLICATION: Final = Application(App())


def load_application(target: str, *, data_folder: str = "") -> Application:
    """The application that ``module:name`` names; without a target there is none.

    The working directory is looked in first, as by an interpreter that is started there; the ``data_folder`` never is: who
    can write there would write the service's code.

    Raises:
        ConfigurationError: ``application.no_module``, ``application.import_failed``, ``application.no_such_name``,
            ``application.wrong_object``, ``application.name_shadows``, ``application.in_data_folder``, and what
            ``check_application`` raises.
    """
    if not target:
        return NO_APPLICATION
    module_name, _, path = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    _check_import_path(target, data_folder)
    found: Any = _import(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(
                "application.no_such_name",
                f"{_file_of(module_name)} has no {path}",
                "name the App it defines: app = App(…) and module:app",
                details={"application": target},
            )
        found = getattr(found, name)
    return check_application(found, target)


def _check_import_path(target: str, data_folder: str) -> None:
    """Refuse a folder of data to import from, and modules that are called as packages of ours: an import finds one of two."""
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry or ".").resolve()
        if data_folder and folder == Path(data_folder).resolve():
            raise ConfigurationError(
                "application.in_data_folder",
                f"the application would be imported from {folder}, where the journal is",
                "start in another folder, or keep the journal in one of its own",
                details={"application": target, "path": str(folder)},
            )
        if folder == _OURS.parent:
            continue
        for name in _PACKAGES:
            if (folder / f"{name}.py").is_file() or any((folder / name).glob("*.py")):
                raise ConfigurationError(
                    "application.name_shadows",
                    f"{folder / name} has the name of a package of Backhaul ({_OURS.parent / name})",
                    f"rename it, or move it into a package of your own: your_package/{name}",
                    details={"application": target, "path": str(folder / name)},
                )


def check_application(app: object, target: str = "") -> Application:
    """Refuse what is no ``App``, and one whose parts do not fit together.

    Raises:
        ConfigurationError: ``application.wrong_object``, ``application.name_taken``, and what the parts are refused with.
    """
    if not isinstance(app, App):
        raise ConfigurationError(
            "application.wrong_object",
            f"{target or 'the application'} is {type(app).__name__}, not an App",
            "from common.app import App; app = App(…)",
        )
    for part in ("event_types", "entities", "states", "projections", "follows", "migrations", "tasks"):
        given = getattr(app, part)
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise ConfigurationError(
                "application.wrong_object",
                f"{target or 'the application'} has {type(given).__name__} as {part}, which is a list",
                f"write {part}=[…]",
            )
    if steps_problem(app.migrations):
        raise ConfigurationError(
            "application.wrong_object",
            f"{target or 'the application'} {steps_problem(app.migrations)}",
            "write the SQL of each step as a list of statements",
        )
    for handler in app.projections:
        if not isinstance(handler, Handler):
            raise _wrong_part(target, "projection", handler)
    for follow in app.follows:
        _check_follow(target, follow)
    for task in app.tasks:
        if not isinstance(task, Task):
            raise _wrong_part(target, "task, as every, at and background make them", task)
    if not isinstance(app.transformations, Transformations):
        raise _wrong_part(target, "set of transformations", app.transformations)
    for place in ("on_push", "on_receive", "on_serve"):
        function = getattr(app.transformations, place)
        if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
            raise _wrong_part(target, f"transformation {place}, which is a plain function", function)
    if not callable(app.routes):
        raise _wrong_part(target, "maker of routes", app.routes)
    registry = EventTypes()
    try:
        for event_type in app.event_types:
            registry.add(event_type)
        entities = define(app.entities, registry)
        states = define_states(app.states, registry)
    except BackhaulError as error:
        raise ConfigurationError(error.code, error.message, error.hint, details=error.details) from error
    written: list[tuple[str, object]] = [(name, type(one.entity)) for name, one in entities.items()]
    written += [(name, type(one.state)) for name, one in states.items()]
    check_unique("entity type", written)
    handlers = [*BUILT_IN.values(), *app.projections, *(follow.handler for follow in app.follows)]
    check_unique("projection", [(one.name, one.function) for one in handlers])
    check_unique("task", [(one.name, one.function) for one in app.tasks])
    check_unique("subscription", [(one.subscription, one.handler.function) for one in app.follows])
    return Application(app, target, registry, entities, states)


def _check_follow(target: str, follow: object) -> None:
    if not isinstance(follow, Follow) or not isinstance(follow.handler, Handler):
        raise _wrong_part(target, "stream to follow", follow)
    check_remote(follow.handler)
    try:
        follow.first_filter("checked")
        check_name("subscription", follow.subscription)
        check_name("stream", follow.stream)
    except BackhaulError as error:
        raise ConfigurationError(error.code, f"follow {follow.stream}: {error.message}", error.hint) from error
    try:
        follow.address(None)
    except ValueError as error:
        raise ConfigurationError(
            "application.wrong_object",
            f"{target or 'the application'} follows {follow.stream} at {follow.source!r}: {error}",
            "write host:port",
        ) from error


def _import(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                "application.no_module",
                f"there is no module {module_name!r}: {error.name!r} was not found",
                f"start in the directory it is in, or set PYTHONPATH; looked in {', '.join(sys.path[:3])} …",
            ) from error
        raise _import_failed(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(module_name, error) from error


def _import_failed(module_name: str, error: BaseException) -> ConfigurationError:
    """Names the deepest line that is the application's, neither the import machinery's nor ours."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
    own = [one for one in frames if not Path(one.filename).is_relative_to(_OURS) and one.filename[0] != "<"]
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    else:
        place = f"{own[-1].filename}:{own[-1].lineno}" if own else _file_of(module_name)
    cause = str(error) if isinstance(error, BackhaulError | ImportError | SyntaxError) else ""
    return ConfigurationError(
        "application.import_failed",
        f"importing {module_name} raised {type(error).__name__} at {place}{f': {cause}' if cause else ''}",
        f"mend the module: `python -c 'import {module_name}'` shows the whole traceback",
        details={"place": place},
    )


def _file_of(module_name: str) -> str:
    module = sys.modules.get(module_name)
    return str(getattr(module, "__file__", None) or module_name)


def _wrong_part(target: str, what: str, given: object) -> ConfigurationError:
    return ConfigurationError(
        "application.wrong_object",
        f"{target or 'the application'} has {type(given).__name__} as a {what}",
        "see docs/guide for what an App is made of",
    )
