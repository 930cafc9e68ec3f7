"""What commands print: tables and fields for people, one JSON object a line for programs.

Everything shown may come from elsewhere (an entity's name, a payload), so no control character reaches the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from common.core.errors import BackhaulError
from common.core.events.json_text import RawJson


def say(text: str) -> None:
    """One line, or several, on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(error: BackhaulError) -> None:
    """An error on standard error: `code: message`, and what to do about it in the next line."""
    lines = [f"{error.code}: {error.message}"]
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    sys.stderr.write("".join(printable(line) + "\n" for line in lines))


def complain_of(text: str) -> None:
    """A note on standard error, beside what is on standard output."""
    sys.stderr.write(printable(text) + "\n")


def json_line(value: object) -> str:
    """A value as one line of JSON."""
    return printable(orjson.dumps(value, default=_raw).decode())


def _raw(value: object) -> orjson.Fragment:
    if isinstance(value, RawJson):
        return orjson.Fragment(value.on_one_line())
    raise TypeError(f"a {type(value).__name__} is no JSON")


def on_one_line(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with lists and objects as JSON, as an operator writes criteria."""
    return {key: json_line(value) if isinstance(value, list | dict) else value for key, value in content.items()}


def printable(text: str) -> str:
    """The text with what a terminal would not show as text written as in JSON."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the keys of the first one as columns; numbers to the right."""
    if not rows:
        return "(none)"
    keys = list(rows[0])
    cells = [[_label(key) for key in keys], *([shown(key, row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    is_number = [isinstance(rows[0][key], int | float) and not key.endswith("_us") for key in keys]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def fields(content: Mapping[str, Any]) -> str:
    """An object as `key  value` lines; objects and lists of objects in it as sections of their own below."""
    sections = [_pairs({key: value for key, value in content.items() if not _is_section(value)})]
    for key, value in content.items():
        if not _is_section(value):
            continue
        body = _pairs(value) if isinstance(value, Mapping) else table(value)
        sections.append(f"{_label(key)}\n" + "\n".join("  " + line for line in body.splitlines()))
    return "\n\n".join(section for section in sections if section)


def _is_section(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping) and bool(value)


def _pairs(content: Mapping[str, Any]) -> str:
    width = max((len(_label(key)) for key in content), default=0)
    return "\n".join(f"{_label(key).ljust(width)}  {shown(key, value)}" for key, value in content.items())


def _label(key: str) -> str:
    return printable(key.removesuffix("_us").replace("_", " "))


def shown(key: str, value: object) -> str:
    """A value as a person reads it; a key that ends in `_us` holds a time."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("_us"):
        return _time(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return printable(", ".join(value))
    return printable(value) if isinstance(value, str) else json_line(value)


def _time(time_us: int) -> str:
    if not 0 < time_us < 253_402_300_800_000_000:
        return "-"
    seconds, fraction = divmod(time_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction // 1000:03d}Z"
