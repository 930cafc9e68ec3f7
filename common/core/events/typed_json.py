"""JSON of dataclasses, read back into the same types: each class is compiled once into a function that checks and builds.

A misfit is reported with its place in the value (``items.2.price``), so that a door can name the field. A shape is
strict or tolerant: a strict one refuses fields it does not know (commands from outside), a tolerant one leaves them out
(what a later version stored). Writing is orjson's; sets, bytes (base64) and decimals are written as it does not know them.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

import orjson

Read = Callable[[Any], Any]


class Misfit(Exception):
    """A value that does not have the shape; ``path`` leads to the place, outermost first."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []

    @property
    def field(self) -> str:
        """The place in words: ``items.2.price``; '' for the whole value."""
        return ".".join(self.path)

    def within(self, step: str | int) -> Misfit:
        """The same, seen from one level further out."""
        self.path.insert(0, str(step))
        return self


class NoShape(TypeError):
    """A class that cannot be read back from JSON, and why."""


def write_json(value: object) -> bytes:
    """The value as JSON. Raises TypeError for what has none."""
    return orjson.dumps(value, default=_as_json)


def _as_json(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


@lru_cache(4096)
def reader_of(cls: type, *, strict: bool = False) -> Read:
    """The function that makes a ``cls`` of what orjson has read. Raises NoShape; the function raises Misfit."""
    return _Compiler(strict).reader(cls)


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Turns a type into a function. ``known`` holds classes that are being compiled: they may contain themselves."""

    strict: bool
    known: dict[type, list[Read]] = dataclasses.field(default_factory=dict)

    def reader(self, shape: Any) -> Read:  # noqa: ANN401  a type in any of Python's spellings
        if isinstance(shape, NewType):
            return self.reader(shape.__supertype__)
        plain = _PLAIN.get(shape)
        if plain is not None:
            return plain
        origin = get_origin(shape)
        if origin is Annotated:
            return self.reader(get_args(shape)[0])
        if origin is Union or origin is types.UnionType:
            return self._union(get_args(shape))
        if origin is Literal:
            return _one_of(get_args(shape))
        if origin is not None:
            return self._container(shape, origin, get_args(shape))
        if isinstance(shape, type):
            if shape.__module__ == "uuid" and shape.__name__ == "UUID":  # not imported: it could also make ids
                return _parsed(shape, "a UUID")
            if issubclass(shape, Enum):
                return _enum(shape)
            if dataclasses.is_dataclass(shape):
                return self._dataclass(shape)
            if shape in {list, dict, tuple, set, frozenset}:
                raise NoShape(f"{shape.__name__} does not say what is in it: write {shape.__name__}[…]")
        raise NoShape(f"{getattr(shape, '__name__', shape)} has no JSON form here")

    def _union(self, members: Sequence[Any]) -> Read:
        readers = [self.reader(member) for member in members if member is not types.NoneType]
        takes_none = len(readers) < len(members)
        if len(readers) == 1:
            [only] = readers
            return lambda value: None if value is None else only(value)

        def read(value: Any) -> Any:  # noqa: ANN401
            if value is None and takes_none:
                return None
            misfits = []
            for reader in readers:
                try:
                    return reader(value)
                except Misfit as misfit:
                    misfits.append(misfit)
            # The one that came furthest is most likely the one that was meant.
            raise max(misfits, key=lambda misfit: len(misfit.path))

        return read

    def _container(self, shape: object, origin: object, args: Sequence[Any]) -> Read:
        if origin in {list, Sequence, Iterable}:
            return _sequence(self.reader(args[0]), list)
        if origin in {set, frozenset}:
            return _sequence(self.reader(args[0]), set if origin is set else frozenset)
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return _sequence(self.reader(args[0]), tuple)
            return _fixed([self.reader(member) for member in args])
        if origin in {dict, Mapping}:
            if args[0] is not str:
                raise NoShape(f"{shape}: the keys of a JSON object are texts")
            return _mapping(self.reader(args[1]))
        raise NoShape(f"{shape} has no JSON form here")

    def _dataclass(self, cls: type) -> Read:
        if cls in self.known:
            place = self.known[cls]
            return lambda value: place[0](value)  # noqa: PLW0108  it is not there yet
        place = self.known[cls] = []
        hints = get_type_hints(cls)
        readers: dict[str, Read] = {}
        required: set[str] = set()
        for one in dataclasses.fields(cls):
            if one.name.startswith("_"):
                raise NoShape(f"{cls.__qualname__}.{one.name}: a field that begins with _ is not written")
            if not one.init:
                continue
            try:
                readers[one.name] = self.reader(hints[one.name])
            except NoShape as problem:
                raise NoShape(f"{cls.__qualname__}.{one.name}: {problem}") from None
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                required.add(one.name)
        place.append(_object(cls, readers, frozenset(required), self.strict))
        return place[0]


def _object(cls: type, readers: Mapping[str, Read], required: frozenset[str], strict: bool) -> Read:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not dict:
            raise Misfit("must be an object")
        given = {}
        for name, inner in value.items():
            reader = readers.get(name)
            if reader is None:
                if strict:
                    known = f"known are {', '.join(readers)}" if readers else "there are no fields"
                    raise Misfit(f"is not known here; {known}").within(name[:80])
                continue
            try:
                given[name] = reader(inner)
            except Misfit as misfit:
                raise misfit.within(name) from None
        if not required <= given.keys():
            raise Misfit("is missing").within(min(required - given.keys()))
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:  # the class's own __post_init__
            raise Misfit(str(error) or type(error).__name__) from error

    return read


def _sequence(item: Read, make: Callable[[list[Any]], Any]) -> Read:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not list:
            raise Misfit("must be a list")
        found = []
        for index, inner in enumerate(value):
            try:
                found.append(item(inner))
            except Misfit as misfit:
                raise misfit.within(index) from None
        return found if make is list else make(found)

    return read


def _fixed(items: Sequence[Read]) -> Read:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not list or len(value) != len(items):
            raise Misfit(f"must be a list of {len(items)}")
        found = []
        for index, (reader, inner) in enumerate(zip(items, value, strict=True)):
            try:
                found.append(reader(inner))
            except Misfit as misfit:
                raise misfit.within(index) from None
        return tuple(found)

    return read


def _mapping(item: Read) -> Read:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not dict:
            raise Misfit("must be an object")
        found = {}
        for name, inner in value.items():
            try:
                found[name] = item(inner)
            except Misfit as misfit:
                raise misfit.within(name[:80]) from None
        return found

    return read


def _exactly(cls: type, what: str) -> Read:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is cls:
            return value
        raise Misfit(f"must be {what}")

    return read


def _float(value: Any) -> float:  # noqa: ANN401
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise Misfit("must be a number")


def _parsed(parse: Callable[[str], Any], what: str) -> Read:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is str:
            try:
                return parse(value)
            except (ValueError, InvalidOperation, binascii.Error):
                pass
        raise Misfit(f"must be {what}")

    return read


def _one_of(values: Sequence[Any]) -> Read:
    listed = ", ".join(map(repr, values))

    def read(value: Any) -> Any:  # noqa: ANN401
        for known in values:
            if type(known) is type(value) and known == value:
                return known
        raise Misfit(f"must be one of {listed}")

    return read


def _enum(cls: type[Enum]) -> Read:
    by_value = {member.value: member for member in cls}
    listed = ", ".join(repr(value) for value in by_value)

    def read(value: Any) -> Any:  # noqa: ANN401
        try:
            return by_value[value]
        except (KeyError, TypeError):
            raise Misfit(f"must be one of {listed}") from None

    return read


def _none(value: Any) -> None:  # noqa: ANN401
    if value is not None:
        raise Misfit("must be null")


_PLAIN: dict[Any, Read] = {
    str: _exactly(str, "a text"),
    int: _exactly(int, "a whole number"),
    bool: _exactly(bool, "true or false"),
    float: _float,
    bytes: _parsed(lambda text: base64.b64decode(text, validate=True), "bytes in base64"),
    datetime: _parsed(datetime.fromisoformat, "a time in ISO 8601"),
    date: _parsed(date.fromisoformat, "a date in ISO 8601"),
    time: _parsed(time.fromisoformat, "a time of day in ISO 8601"),
    Decimal: _parsed(Decimal, "a decimal number as text"),
    types.NoneType: _none,
    None: _none,
    Any: lambda value: value,
    object: lambda value: value,
}
