"""Types by stable names: what an application's events, states and commands are called once they are stored or sent.

A dataclass is stored as JSON (codec ``json``), a protobuf message as protobuf (codec ``protobuf``). The name is that of
the class unless ``named`` gives another; it is what a journal keeps, so it must not change with the code. A stored version
above 1 travels in the event's metadata; *upcasters* lead from each older one to the next. Who meets a type that is not
registered gets it as ``Unknown`` and hands it on untouched.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from common.core.errors import FOREIGN, BackhaulError, ConfigurationError, ErrorKind
from common.core.events.batch import UNIT_SEPARATOR, Envelope, EventBatch, join_metadata
from common.core.events.ids import NAME_MAX_BYTES, text_problem
from common.core.events.typed_json import Misfit, NoShape, reader_of, write_json

JSON: Final = "json"
PROTOBUF: Final = "protobuf"
VERSION_KEY: Final = "version"
_VERSION_MARK: Final = f"{VERSION_KEY}{UNIT_SEPARATOR}"

T = TypeVar("T")
Upcaster = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class StoredAs:
    """How a class is stored. ``upcasters`` maps an old version to the function that makes the next one of it.

    For a dataclass an upcaster gets and returns what JSON holds (a dict), for a message its bytes. ``formerly`` are
    names under which old events were stored.
    """

    cls: type
    name: str
    version: int = 1
    formerly: tuple[str, ...] = ()
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict)


def named(
    name: str,
    *,
    version: int = 1,
    formerly: Iterable[str] = (),
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Callable[[type[T]], type[T]]:
    """A class decorator: the stable name, and how older versions become this one."""

    def remember(cls: type[T]) -> type[T]:
        cls.__stored_as__ = StoredAs(cls, name, version, tuple(formerly), upcasters or {})  # type: ignore[attr-defined]
        return cls

    return remember


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event of a type that is not registered: as it was stored, and stored as it is."""

    event_type: str
    codec: str
    payload: bytes
    metadata: str = ""


Encoded = tuple[str, str, bytes, str]
"""Event type, codec, payload and metadata: what the columns of a batch hold."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A registered class with its functions, made once."""

    stored: StoredAs
    codec: str
    metadata: str
    write: Callable[[Any], bytes]
    read: Callable[[Any], Any]


class EventTypes:
    """The types of one application. Adding is for its start; afterwards it is only asked."""

    def __init__(self, types: Iterable[type | StoredAs] = ()) -> None:
        self._by_class: dict[type, _Known] = {}
        self._by_name: dict[str, _Known] = {}
        for one in types:
            self.add(one)

    def __contains__(self, cls: type) -> bool:
        return cls in self._by_class

    @property
    def names(self) -> list[str]:
        """All registered names, the present ones only."""
        return sorted(known.stored.name for known in self._by_class.values())

    def add(self, given: type | StoredAs) -> None:
        """Register a class; the same one twice is one.

        Raises:
            BackhaulError: ``types.registered_twice`` naming both classes, ``types.unfit``.
        """
        stored = given if isinstance(given, StoredAs) else _stored_as(given)
        known = _known(stored)
        for name in (stored.name, *stored.formerly):
            other = self._by_name.get(name)
            if other is not None and other.stored.cls is not stored.cls:
                raise BackhaulError(
                    "types.registered_twice",
                    f"{name!r} is the name of {place_of(other.stored.cls)} and of {place_of(stored.cls)}",
                    'give one of them another name: @named("…")',
                )
        self._by_class[stored.cls] = known
        self._by_name.update(dict.fromkeys((stored.name, *stored.formerly), known))

    def name_of(self, cls: type) -> str:
        """The stable name of a registered class."""
        return self._by_class[cls].stored.name

    def class_of(self, name: str) -> type | None:
        """The class with this stable name."""
        known = self._by_name.get(name)
        return known.stored.cls if known else None

    def encode(self, value: object) -> Encoded:
        """The value as the columns of a batch hold it.

        Raises:
            BackhaulError: ``types.unknown`` for a class that is not registered, ``types.unfit`` for a value without JSON.
        """
        known = self._by_class.get(type(value))
        if known is None:
            return _passed_through(value)
        try:
            return known.stored.name, known.codec, known.write(value), known.metadata
        except (TypeError, ValueError, OverflowError) as error:
            raise _unwritable(value, error) from error

    def encode_checked(self, value: object) -> tuple[Encoded, object]:
        """As ``encode``, with the value as it will be read: what cannot be read back must not be stored.

        A text in a field for numbers, or an infinity, would otherwise be found when it is too late.
        """
        known = self._by_class.get(type(value))
        if known is None:
            return _passed_through(value), value
        try:
            payload = known.write(value)
            read = known.read(payload if known.codec == PROTOBUF else orjson.loads(payload))
        except Misfit as misfit:
            raise _unwritable(value, f"field {misfit.field!r} {misfit.what}") from misfit
        except (TypeError, ValueError, OverflowError) as error:
            raise _unwritable(value, error) from error
        return (known.stored.name, known.codec, payload, known.metadata), read

    def decode(self, event_type: str, codec: str, payload: bytes, metadata: str = "") -> object:
        """The value, or ``Unknown`` when the type is not registered.

        Raises:
            BackhaulError: ``types.unreadable``, ``types.newer_version``.
        """
        known = self._by_name.get(event_type)
        if known is None:
            return Unknown(event_type, codec, payload, metadata)
        if codec != known.codec:
            raise _unreadable(known, f"its codec is {codec!r}, not {known.codec!r}")
        version = _version(metadata) if _VERSION_MARK in metadata else 1
        try:
            content = payload if codec == PROTOBUF else orjson.loads(payload)
            if version != known.stored.version:
                content = _upcast(known, content, version)
            return known.read(content)
        except Misfit as misfit:
            where = f"field {misfit.field!r} " if misfit.path else "it "
            raise _unreadable(known, f"{where}{misfit.what}") from misfit
        except BackhaulError:
            raise
        except FOREIGN as error:
            raise _unreadable(known, f"{type(error).__name__}: {error}") from error

    def decode_all(self, events: EventBatch) -> list[object]:
        """Every event of a batch, in order; raises as ``decode``."""
        columns = zip(events.event_type, events.codec, events.payload, events.metadata, strict=True)
        return [self.decode(*row) for row in columns]

    def decode_event(self, envelope: Envelope) -> object:
        """The content of one event; raises as ``decode``."""
        metadata = join_metadata(envelope.metadata)
        return self.decode(envelope.event_type, envelope.codec, envelope.payload, metadata)


def _stored_as(cls: type) -> StoredAs:
    stored: StoredAs | None = getattr(cls, "__dict__", {}).get("__stored_as__")
    if stored is not None:
        # `@dataclass(slots=True)` above `@named` makes a second class of the same name.
        return stored if stored.cls is cls else dataclasses.replace(stored, cls=cls)
    return StoredAs(cls, getattr(cls, "__name__", repr(cls)))


def _known(stored: StoredAs) -> _Known:
    cls = stored.cls
    problem = "is empty" if not stored.name else text_problem(stored.name, NAME_MAX_BYTES)
    if problem:
        raise _unfit(cls, f"its name {stored.name[:80]!r} {problem}")
    missing = [version for version in range(1, stored.version) if version not in stored.upcasters]
    if missing:
        raise _unfit(cls, f"it is at version {stored.version} and has no upcaster from {missing[0]}")
    metadata = "" if stored.version == 1 else join_metadata({VERSION_KEY: str(stored.version)})
    if is_message(cls):
        return _Known(stored, PROTOBUF, metadata, bytes, cls.FromString)  # type: ignore[attr-defined]
    if not dataclasses.is_dataclass(cls):
        raise _unfit(cls, "it is neither a dataclass nor a protobuf message")
    try:
        return _Known(stored, JSON, metadata, write_json, reader_of(cls))
    except (NoShape, NameError) as error:
        raise _unfit(cls, str(error)) from error


def is_message(cls: type) -> bool:
    """Whether a class is a protobuf message, betterproto's or another's: known by what it can do."""
    return hasattr(cls, "FromString") and hasattr(cls, "SerializeToString")


def _unfit(cls: type, why: str) -> BackhaulError:
    return BackhaulError(
        "types.unfit",
        f"{place_of(cls)} cannot be stored: {why}",
        "use a dataclass of texts, numbers, times, enums, lists, dicts and dataclasses, or a betterproto message",
    )


def _passed_through(value: object) -> Encoded:
    if isinstance(value, Unknown):
        return value.event_type, value.codec, value.payload, value.metadata
    raise BackhaulError(
        "types.unknown",
        f"{place_of(type(value))} is not a registered type",
        "name it among the events of its entity, or in the application's event_types",
        kind=ErrorKind.INTERNAL,
    )


def _unwritable(value: object, why: object) -> BackhaulError:
    return BackhaulError(
        "types.unfit",
        f"a {place_of(type(value))} cannot be written so that it can be read back: {why}",
        "give its fields values of their declared types",
        kind=ErrorKind.INTERNAL,
    )


def _unreadable(known: _Known, why: str) -> BackhaulError:
    return BackhaulError(
        "types.unreadable",
        f"a stored {known.stored.name!r} does not fit {place_of(known.stored.cls)}: {why}",
        "give new fields defaults, or raise its version and write an upcaster",
        kind=ErrorKind.INTERNAL,
    )


def _version(metadata: str) -> int:
    parts = metadata.split(UNIT_SEPARATOR)
    for key, value in zip(parts[::2], parts[1::2], strict=False):
        if key == VERSION_KEY and value.isdecimal():
            return int(value)
    return 1


def _upcast(known: _Known, content: Any, version: int) -> Any:  # noqa: ANN401  JSON's values, or bytes
    if version > known.stored.version:
        raise BackhaulError(
            "types.newer_version",
            f"a stored {known.stored.name!r} has version {version}, {place_of(known.stored.cls)} is at"
            f" {known.stored.version}",
            "run the application that wrote it, or a later one",
            kind=ErrorKind.INTERNAL,
        )
    for step in range(version, known.stored.version):
        content = known.stored.upcasters[step](content)
    return content


def place_of(what: object) -> str:
    """Where in the user's code a class or function stands: ``module.Name (file:line)``."""
    module, name = getattr(what, "__module__", ""), getattr(what, "__qualname__", repr(what))
    code = getattr(what, "__code__", None)
    if code is None and isinstance(what, type):
        file = getattr(sys.modules.get(module), "__file__", None)
        line = getattr(what, "__firstlineno__", None) or _first_line(what)
        return f"{module}.{name} ({file}{f':{line}' if line else ''})" if file else f"{module}.{name}"
    return f"{module}.{name} ({code.co_filename}:{code.co_firstlineno})" if code else f"{module}.{name}"


def check_unique(what: str, named: Iterable[tuple[str, object]]) -> None:
    """Refuse two of one name, before anything runs; ``named`` are names, each with what has it in the user's code.

    Raises:
        ConfigurationError: ``application.name_taken`` naming both places.
    """
    places: dict[str, str] = {}
    for name, written in named:
        if name in places:
            raise ConfigurationError(
                "application.name_taken",
                f"two have the name {name!r} as {what}: {places[name]} and {place_of(written)}",
                "give one of them another name",
                details={"name": name},
            )
        places[name] = place_of(written)


def _first_line(cls: type) -> int:
    """Only for a message about a fault: Python before 3.13 has to look for the class in its source."""
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return 0
