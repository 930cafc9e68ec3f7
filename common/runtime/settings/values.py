"""What a setting's text means, and how its value is shown again.

Operators write sizes as `64MiB`, durations as `10s`, addresses as `host:port`; a wrong value is refused with
the sentence that says what is expected. Secrets never come back out: `shown` redacts them, and the password
inside a URL. Pure: where a text came from (file, environment, flag) is `common.runtime.settings.loading`' business.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, Union, get_args, get_origin

from common.core.addresses import Address, PeerAddress, parse_address, parse_peer
from common.core.journal.url import REDACTED, JournalUrl, parse_journal_url, redact

Secrecy = Literal["open", "secret", "url"]
Kind = Literal["text", "integer", "number", "boolean", "path", "list", "size", "duration", "address", "peer", "journal"]

_SIZE_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_BYTE_ORDER_MARK: Final = "\ufeff"
_BLANKS: Final = " \t\r\n\v\f\xa0" + _BYTE_ORDER_MARK
# Kinds whose values mean the same with blanks around them; of all others blanks would become a part.
_STRIPPED: Final = frozenset({"integer", "number", "size", "duration", "boolean", "list"})
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What values a setting takes. `minimum` and `maximum` bound numbers, sizes and durations, inclusive."""

    kind: Kind
    optional: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    may_be_empty: bool = False
    default_port: int | None = None

    @property
    def expectation(self) -> str:
        """The end of the sentence "expected …"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        expectation = "a text" if self.kind == "text" and self.may_be_empty else _EXPECTATIONS[self.kind]
        if self.kind in ("address", "peer") and self.default_port is not None:
            expectation += f" (port {self.default_port} if left out)"
        if self.pattern is not None:
            expectation += f" matching {self.pattern}"
        if self.minimum is not None and self.maximum is not None:
            expectation += f" from {self._bound(self.minimum)} to {self._bound(self.maximum)}"
        elif self.minimum is not None:
            expectation += f" of at least {self._bound(self.minimum)}"
        elif self.maximum is not None:
            expectation += f" of at most {self._bound(self.maximum)}"
        return expectation

    def _bound(self, number: float) -> str:
        return shown(self, number if self.kind in ("number", "duration") else int(number))


_EXPECTATIONS: Final[dict[Kind, str]] = {
    "text": "a text that is not empty",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "path": "a file path",
    "list": "a list (comma separated in an environment variable or flag)",
    "size": "a size in bytes such as 512KiB or 64MiB",
    "duration": "a duration in seconds such as 0.5, 10s, 5min or 24h",
    "address": "host:port",
    "peer": "host:port, or several with commas between them",
    "journal": "the path of a SQLite file, or a postgresql:// URL",
}


def shape_of(key: str, annotation: object) -> Shape:
    """The shape a dataclass field's resolved annotation and name stand for.

    `…_bytes` of int is a size, `…_s` of float a duration. Raises `TypeError` for a type no setting has.
    """
    optional = False
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        optional = True
        if len(inner) != 1:
            raise TypeError(f"setting {key}: only `T | None` unions are settings")
        annotation = inner[0]
    if get_origin(annotation) is Literal:
        return Shape("text", optional, tuple(str(choice) for choice in get_args(annotation)))
    if annotation is int and key.endswith("_bytes"):
        return Shape("size", optional)
    if annotation is float and key.endswith("_s"):
        return Shape("duration", optional)
    for known, kind in _KINDS:
        if annotation == known:
            return Shape(kind, optional)
    raise TypeError(f"setting {key}: {annotation!r} is not a type settings have")


_KINDS: Final[tuple[tuple[object, Kind], ...]] = (
    (str, "text"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (Path, "path"),
    (Address, "address"),
    (PeerAddress, "peer"),
    (JournalUrl, "journal"),
    (tuple[str, ...], "list"),
)


def parse(shape: Shape, raw: object) -> object:
    """The value that `raw` (a text, or what a TOML file holds) stands for.

    Raises `ValueError` with the expectation when it stands for none.
    """
    if raw == "" and shape.optional:
        return None
    if isinstance(raw, str) and shape.kind not in _STRIPPED and raw != raw.strip(_BLANKS):
        end = raw[0] if raw[0] in _BLANKS else raw[-1]
        what = "a byte order mark" if end == _BYTE_ORDER_MARK else f"the blank {end!r}"
        raise ValueError(f"{shape.expectation}, without {what} at its beginning or end")
    value = _parse_kind(shape, raw)
    if value is _WRONG:
        raise ValueError(shape.expectation)
    if shape.kind in ("integer", "number", "size", "duration"):
        assert isinstance(value, int | float)
        if shape.minimum is not None and value < shape.minimum:
            raise ValueError(shape.expectation)
        if shape.maximum is not None and value > shape.maximum:
            raise ValueError(shape.expectation)
    return value


_WRONG: Final = object()


def _parse_kind(shape: Shape, raw: object) -> object:
    match shape.kind:
        case "text":
            return _text(shape, raw)
        case "integer":
            return _integer(raw)
        case "number" | "duration":
            return _with_unit(raw, _SECONDS if shape.kind == "duration" else {"": 1.0})
        case "size":
            size = _with_unit(raw, _SIZE_UNITS)
            return int(size) if isinstance(size, float) else _WRONG
        case "boolean":
            return _boolean(raw)
        case "path":
            return Path(raw) if isinstance(raw, str) and raw and "\0" not in raw else _WRONG
        case "list":
            return _list(raw)
        case "address":
            return _read(raw, partial(parse_address, default_port=shape.default_port), shape.expectation)
        case "peer":
            return _read(raw, partial(parse_peer, default_port=shape.default_port), shape.expectation)
        case "journal":
            return _read(raw, parse_journal_url, shape.expectation)


def _text(shape: Shape, raw: object) -> object:
    if not isinstance(raw, str) or not raw.isprintable() or not (raw or shape.may_be_empty):
        return _WRONG
    if shape.choices and raw not in shape.choices:
        return _WRONG
    if shape.pattern is not None and re.fullmatch(shape.pattern, raw) is None:
        return _WRONG
    return raw


def _integer(raw: object) -> object:
    if isinstance(raw, bool):
        return _WRONG
    if isinstance(raw, int):
        return raw
    if isinstance(raw, str) and _INTEGER.fullmatch(raw.strip()):
        return int(raw)
    return _WRONG


def _boolean(raw: object) -> object:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _TRUE | _FALSE:
        return raw.strip().lower() in _TRUE
    return _WRONG


def _list(raw: object) -> object:
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",")] if raw.strip() else []
    if isinstance(raw, dict):  # a TOML table: key = value, as a list has it in a variable
        raw = [f"{key}={value}" for key, value in raw.items() if isinstance(value, str | int)]
    if not isinstance(raw, list):
        return _WRONG
    if not all(isinstance(part, str) and part and part.isprintable() and part == part.strip() for part in raw):
        return _WRONG
    return tuple(raw)


def _with_unit(raw: object, units: dict[str, float] | dict[str, int]) -> object:
    if isinstance(raw, bool):
        return _WRONG
    if isinstance(raw, int | float):
        number = float(raw)
        return number if 0 <= number < 1e18 else _WRONG
    if not isinstance(raw, str):
        return _WRONG
    found = _NUMBER_AND_UNIT.fullmatch(raw.strip().lower())
    if found is None or found[2] not in units:
        return _WRONG
    number = float(found[1]) * units[found[2]]
    return number if number < 1e18 else _WRONG


def _read(raw: object, read: Callable[[str], object], expectation: str) -> object:
    """What a parser of `core` makes of a text; its ValueError says what is wrong with this one."""
    if not isinstance(raw, str):
        return _WRONG
    try:
        return read(raw)
    except ValueError as error:
        raise ValueError(f"{expectation}: {error}") from None


def shown(shape: Shape, value: object, secrecy: Secrecy = "open") -> str:
    """The value as an operator may read it, in a form that `parse` reads back (unless redacted)."""
    if value is None:
        return "(none)"
    if secrecy == "secret":
        return REDACTED
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if shape.kind == "size" and isinstance(value, int):
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            factor = _SIZE_UNITS[unit.lower()]
            if value >= factor and value % factor == 0:
                return f"{value // factor}{unit}"
        return str(value)
    if shape.kind == "duration":
        return f"{value:.6f}".rstrip("0").rstrip(".") + "s"
    return redact(str(value)) if secrecy == "url" and isinstance(value, str) else str(value)
