"""What an application says about its event-sourced entities: pure functions and a few names, testable without a runtime.

    class Counters(EventSourced[Count, Add | Reset, Added | WasReset]):
        entity_type = "Counter"
        empty = Count(0)

        def decide(self, state: Count, command: Add | Reset) -> Decision:
            ...
        def evolve(self, state: Count, event: Added | WasReset) -> Count:
            ...

Both functions must depend on nothing but their arguments: a decision is made again when another writer was first, and
states are made again from events. So states are values (frozen dataclasses or messages) and never changed in place.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from common.core.errors import FOREIGN, BackhaulError
from common.core.events.ids import check_name
from common.core.events.types import EventTypes, check_unique, is_message, place_of

S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C")
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Decision:
    """What an entity answers to a command: events that happen now, or the reason why not; and a reply.

    ``reply`` answers the caller; ``reply_from`` makes it of the state after the events.
    """

    events: tuple[object, ...] = ()
    reply: object = None
    reply_from: Callable[[Any], object] | None = None
    rejection: str = ""

    def then(self, reply_from: Callable[[Any], object]) -> Decision:
        """The same, with a reply made of the state after the events."""
        return dataclasses.replace(self, reply_from=reply_from)


def accept(*events: object, reply: object = None) -> Decision:
    """These events happen, all or none; without any the command changes nothing."""
    return Decision(events, reply)


def reject(reason: str) -> Decision:
    """Nothing happens; ``reason`` answers the caller."""
    return Decision(rejection=reason or "rejected")


class EventSourced(ABC, Generic[S, C, E]):
    """The definition of one entity type; the type arguments are its state, its commands and its events (unions)."""

    entity_type: str
    empty: S
    """The state before the first event."""
    snapshot_every: int = 0
    """Keep a snapshot after at least so many events; 0 = only when ``snapshot_when`` says so.

    Retention may delete the events at and below an entity's latest snapshot; without snapshots it deletes none.
    """
    snapshot_says_last_event: bool = False
    """A state says no more than the entity's last event does: then its snapshot may be seen by who may see that event.

    Else one may be seen only by who may see all events that it sums up (``docs/guide/subscriptions.md``).
    """
    ignored_events: Sequence[str] = ()
    """Stored event types that no longer matter to the state."""

    state_type: type
    command_types: tuple[type, ...]
    event_types: tuple[type, ...]

    def __init_subclass__(cls) -> None:
        for base in vars(cls).get("__orig_bases__", ()):
            if get_origin(base) is EventSourced:
                state, commands, events = get_args(base)
                cls.state_type, cls.command_types, cls.event_types = state, _members(commands), _members(events)

    @abstractmethod
    def decide(self, state: S, command: C) -> Decision:
        """What the command leads to in this state."""

    @abstractmethod
    def evolve(self, state: S, event: E) -> S:
        """The state after an event. It must take every event that was ever stored."""

    def tags(self, state: S, event: E) -> Iterable[str]:
        """Tags to store with a new event; ``state`` is the one after it."""
        return ()

    def snapshot_when(self, state: S, event: E) -> bool:
        """Whether this new event is a good moment for a snapshot; ``state`` is the one after it."""
        return False


def _members(argument: object) -> tuple[type, ...]:
    if get_origin(argument) in {Union, types.UnionType}:
        return get_args(argument)
    return (argument,)  # type: ignore[return-value]


AnyEntity = EventSourced[Any, Any, Any]


class Definition:
    """A checked definition with its codecs, as the runtime and the test kit use it."""

    def __init__(self, given: AnyEntity | type[AnyEntity], registry: EventTypes) -> None:
        """Adds the entity's events and state to ``registry``, which the application shares.

        Raises:
            BackhaulError: ``entity.bad_definition``, ``entity.invalid_name``, ``types.registered_twice``,
                ``types.unfit``.
        """
        entity = made(given, EventSourced, _bad)
        self.entity = entity
        self.registry = registry
        self.entity_type: str = getattr(entity, "entity_type", "")
        check_name("entity type", self.entity_type)
        _check(entity)
        self.commands = EventTypes(entity.command_types)
        for one in (*entity.event_types, entity.state_type):
            registry.add(one)
        self.decide_place, self.evolve_place = self.place("decide"), self.place("evolve")
        self.has_tags = type(entity).tags is not EventSourced.tags
        self.has_snapshots = entity.snapshot_every > 0 or type(entity).snapshot_when is not EventSourced.snapshot_when

    def place(self, function: str) -> str:
        """Where in the user's code one of the entity's functions stands."""
        return place_of(getattr(type(self.entity), function))


def made(given: T | type[T], base: type, bad: Callable[[type, str, str], BackhaulError]) -> T:
    """The object of a definition that is given as one, or as its class; ``bad`` makes the refusal of what is neither."""
    cls = given if isinstance(given, type) else type(given)
    if not issubclass(cls, base):
        raise bad(cls, f"is no {base.__name__}", f"write class {cls.__name__}({base.__name__}[…]) and name that class")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise bad(cls, f"has no {' and no '.join(missing)}", f"define {', '.join(missing)} in {cls.__name__}")
    if not isinstance(given, type):
        return given
    try:
        return given()
    except FOREIGN as error:
        raise bad(cls, f"cannot be made: {type(error).__name__}: {error}", "give an object of it in place of the class"
                  ) from error  # fmt: skip


def _check(entity: AnyEntity) -> None:
    cls = type(entity)
    for name in ("decide", "evolve", "tags", "snapshot_when"):
        if inspect.iscoroutinefunction(getattr(cls, name)):
            raise _bad(cls, f"has an async {name}", "write a plain function: it may be called again at any time")
    if not hasattr(cls, "state_type"):
        raise _bad(cls, "does not say its types", f"write class {cls.__name__}(EventSourced[State, Command, Event])")
    if not hasattr(entity, "empty"):
        raise _bad(cls, "has no empty state", "set empty = …, the state before the first event")
    if type(entity.empty) is not entity.state_type:
        raise _bad(cls, f"has an empty state that is no {entity.state_type.__name__}", "set empty to one")
    if not is_message(entity.state_type) and not is_frozen(entity.state_type):
        raise _bad(cls, f"has a state, {place_of(entity.state_type)}, that can be changed in place",
                   "make it a dataclass(frozen=True): a decision must be able to start again from it")  # fmt: skip


def listed(tags: Iterable[str]) -> Iterable[str]:
    """The tags, unless they are one text: that would be a tag for each of its letters."""
    if isinstance(tags, str):
        raise TypeError("it returned a text, not a list of texts")
    return tags


def is_frozen(cls: type) -> bool:
    """Whether a class is a frozen dataclass."""
    return bool(getattr(getattr(cls, "__dataclass_params__", None), "frozen", False))


def _bad(cls: type, what: str, hint: str) -> BackhaulError:
    return BackhaulError("entity.bad_definition", f"{place_of(cls)} {what}", hint)


def define(entities: Iterable[AnyEntity | type[AnyEntity]], registry: EventTypes) -> dict[str, Definition]:
    """Definitions by entity type.

    Raises:
        BackhaulError: as ``Definition``; ``application.name_taken`` when two have one entity type.
    """
    found = [Definition(given, registry) for given in entities]
    check_unique("entity type", [(one.entity_type, type(one.entity)) for one in found])
    return {one.entity_type: one for one in found}
