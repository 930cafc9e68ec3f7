"""JSON as text: read once, with the members that must be kept byte for byte cut out of it.

orjson decides alone whether a text is JSON; numbers that it rounds, keys that it merges and the order of keys survive only in
the text. So a payload is stored as the slice of the request that it came in. The scanner below runs over text that orjson
has read already: it finds where values begin and end and checks nothing.

A text nests at most ``BODY_LEVELS_MAX`` levels, a payload in it ``PAYLOAD_LEVELS_MAX``: orjson reads 1,024 levels and writes 254,
other languages' readers stop between 100 and 1,000. Within the bound, what was read can be written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Final

import orjson

PAYLOAD_LEVELS_MAX: Final = 128
# A request, its list of events and an event stand around a payload.
BODY_LEVELS_MAX: Final = PAYLOAD_LEVELS_MAX + 3

_SHALLOW_LEVELS: Final = 8
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _container(levels: int) -> bytes:
    """A pattern of an object or list of at most so many levels: one match in C for what would be a loop of tokens."""
    inner = b"|" + _container(levels - 1) if levels > 1 else b""
    return rb'[\[{](?:[^"\[\]{}]++|' + _STRING + inner + rb")*+[\]}]"


_ATOM: Final = rb'[^\[\]{}",\s]++'
# Nearly every value has at most so many levels; what nests deeper takes a loop of tokens.
_VALUE: Final = re.compile(_STRING + b"|" + _ATOM + b"|" + _container(5))
_SHALLOW: Final = re.compile(rb"\s*+" + _container(_SHALLOW_LEVELS))
# An escaped letter, digit or punctuation mark of ASCII: what the name of a member could be hidden by.
_ESCAPED_ASCII: Final = re.compile(rb"\\u00[2-7]")
_CONTAINERS: Final = frozenset({dict, list})
_KEY: Final = re.compile(rb"[,{\s]*+(" + _STRING + rb")\s*+:\s*+")
_TOKEN: Final = re.compile(_STRING + rb"|[\[\]{}]")
_SEPARATOR: Final = re.compile(rb"[,\s]*+")
_LINE_SPACE: Final = bytes.maketrans(b"\t\r\n", b"   ")
_PLACE_STEPS: Final = 6


class RawJson(bytes):
    """A JSON value as the text that it came as."""

    __slots__ = ()

    def on_one_line(self) -> bytes:
        """The text without line breaks: in JSON they stand only between values."""
        return self.translate(_LINE_SPACE)


class UnfitJson(ValueError):
    """A text that is refused: ``what`` is wrong with it; ``place`` is the path to the value, '' for the whole text."""

    def __init__(self, what: str, place: str = "", *, too_deep: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.place = place
        self.too_deep = too_deep


def read(text: bytes, levels_max: int = BODY_LEVELS_MAX) -> Any:  # noqa: ANN401  JSON's values
    """The value of a JSON text.

    Raises:
        UnfitJson: it is not JSON, or nests too deep.
    """
    value = _parsed(text, levels_max)
    check_levels(text, levels_max)
    return value


def _parsed(text: bytes, levels_max: int) -> Any:  # noqa: ANN401  JSON's values
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        check_levels(text, levels_max)  # orjson has a bound of its own, and says so in words only
        raise UnfitJson(f"is not JSON: {error}") from None


def is_readable(text: bytes, levels_max: int = PAYLOAD_LEVELS_MAX) -> bool:
    """Whether a text is JSON that fits into an answer."""
    try:
        read(text, levels_max)
    except UnfitJson:
        return False
    return True


def check_levels(text: bytes, levels_max: int) -> None:
    """Refuse a text that nests more levels. Raises UnfitJson with the path to the value that is one too many."""
    if text.count(b"[") + text.count(b"{") <= levels_max or (levels_max >= _SHALLOW_LEVELS and _SHALLOW.match(text)):
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case 0x5B | 0x7B:
                depth += 1
                if depth > levels_max:
                    place = _path_to(text, token.start())
                    raise UnfitJson(f"is nested more than {levels_max} levels deep", place, too_deep=True)
            case 0x5D | 0x7D:
                depth -= 1


@dataclass(frozen=True, slots=True)
class Visits:
    """Which parts of a value are looked into: ``raw`` is the member that is kept as text, in the value and below members
    ``within``; those below ``unique`` are objects in which only repeated members are looked for."""

    raw: str | None = None
    within: frozenset[str] = frozenset()
    unique: frozenset[str] = frozenset()


TOP_ONLY: Final = Visits()


def read_keeping(text: bytes, visits: Visits, levels_max: int = BODY_LEVELS_MAX) -> object:
    """As ``read``, with the raw members as RawJson; a member that is given twice would be dropped, so it is refused.

    Raises:
        UnfitJson: as ``read``; an object that is looked into has a member twice.
    """
    value = _parsed(text, levels_max)
    if not _keep_flat(text, value, visits):
        check_levels(text, levels_max)
        _visit(text, len(text) - len(text.lstrip()), value, visits, "")
    return value


def _keep_flat(text: bytes, value: object, visits: Visits) -> bool:
    """Keep the raw members of one object, or of the objects of one list, if a few searches over all the text prove where
    they are; False leaves ``value`` as it is, for the walk along the text.

    The raw member's name in quotes stands in the text at least once for every object that has it, and oftener where it is
    given twice, or is a text or a name elsewhere. So a name found exactly as often as objects have it is theirs alone, if
    no letter of it is escaped. And of a member that is given twice one is not in what was read: the text has more strings.
    """
    if visits.raw is None or not isinstance(value, dict) or _ESCAPED_ASCII.search(text):
        return False
    rows = objects = [value]
    for name in visits.within & value.keys():
        rows = value[name]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return False
        objects = [{key: member for key, member in value.items() if key != name}, *rows]
    holders = [row for row in rows if visits.raw in row]
    found = _members_named(visits.raw).findall(text)
    if not len(found) == len(holders) == text.count(b'"%b"' % visits.raw.encode()):
        return False
    for row, raw in zip(holders, found, strict=True):
        row[visits.raw] = RawJson(raw)
    strings, quotes = sum(map(len, objects)) + (rows is not objects), 0
    for member in chain.from_iterable(each.values() for each in objects):
        kind = type(member)
        if kind is str:
            strings += 1
        elif kind is RawJson:
            quotes += _quotes(member)
        elif kind in _CONTAINERS:
            kinds = [type(one) for one in (member.values() if kind is dict else member)]
            if not _CONTAINERS.isdisjoint(kinds):
                return False
            strings += kinds.count(str) + (len(member) if kind is dict else 0)
    return _quotes(text) == 2 * strings + quotes


def _quotes(text: bytes) -> int:
    """How often strings begin or end in a text that is JSON."""
    escaped = text.replace(b"\\\\", b"").count(b'\\"') if b"\\" in text else 0
    return text.count(b'"') - escaped


@cache
def _members_named(name: str) -> re.Pattern[bytes]:
    """Finds the values of members of this name."""
    return re.compile(re.escape(b'"%b"' % name.encode()) + rb"\s*+:\s*+(" + _VALUE.pattern + b")")


def _visit(text: bytes, start: int, value: object, visits: Visits, place: str) -> int:
    """Visit the object or list at ``start``; where it ends."""
    if isinstance(value, list):
        position = start + 1
        for index, item in enumerate(value):
            found = _SEPARATOR.match(text, position)
            position = _visit(text, found.end() if found else position, item, visits, f"{place}[{index}]")
        return text.index(b"]", position) + 1
    if not isinstance(value, dict):
        return _end(text, start)
    begins: dict[str, int] = {}
    position = start + 1
    while key_found := _KEY.match(text, position):
        key, begin = key_found[1], key_found.end()
        name: str = orjson.loads(key) if b"\\" in key else key[1:-1].decode()
        if name in begins:
            raise UnfitJson("is given twice", _member_of(place, name))
        begins[name], position = begin, _end(text, begin)
        if name == visits.raw:
            value[name] = RawJson(text[begin:position])
    # Not before it is known that each is given once: ``value`` has the last one, the text may begin with another.
    for name, begin in begins.items():
        if name in visits.within:
            _visit(text, begin, value[name], visits, _member_of(place, name))
        elif name in visits.unique:
            _visit(text, begin, value[name], TOP_ONLY, _member_of(place, name))
    return text.index(b"}", position) + 1


def _member_of(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _end(text: bytes, start: int) -> int:
    """Where the value at ``start`` ends."""
    found = _VALUE.match(text, start)
    if found:
        return found.end()
    depth = 0
    for token in _TOKEN.finditer(text, start):
        match text[token.start()]:
            case 0x5B | 0x7B:
                depth += 1
            case 0x5D | 0x7D:
                depth -= 1
                if not depth:
                    return token.end()
    raise AssertionError("the text was not read before")


def _path_to(text: bytes, end: int) -> str:
    """The first steps of the path to the value that begins at ``end``."""
    return "".join(_steps_to(text, end)).removeprefix(".")


def _steps_to(text: bytes, end: int) -> Iterator[str]:
    """An object's member as ``.name``, an item of a list as ``[index]``, outermost first."""
    stack: list[list[object]] = []  # of the open containers: the key, or the index of the present item
    for token in re.compile(_TOKEN.pattern + rb"|[:,]").finditer(text, 0, end):
        match text[token.start()]:
            case 0x5B:
                stack.append([0])
            case 0x7B:
                stack.append(["", None])
            case 0x5D | 0x7D:
                del stack[-1:]
            case 0x2C if stack and len(stack[-1]) == 1:
                stack[-1][0] += 1  # type: ignore[operator]
            case 0x3A if stack and len(stack[-1]) == 2:
                stack[-1][0] = stack[-1][1] or ""
            case 0x22 if stack and len(stack[-1]) == 2:
                stack[-1][1] = token[0][1:-1].decode(errors="replace")[:80]
    for level in stack[:_PLACE_STEPS]:
        yield f"[{level[0]}]" if len(level) == 1 else f".{level[0]}"
