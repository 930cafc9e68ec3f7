"""One line of a log, whatever tool has carried it: a `LogRecord`, or nothing.

Docker, Compose, kubectl and journald put a name or a time before each line; Docker's own files wrap it in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

LINE_MAX_CHARS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A line of a service's log. `at_us` is its timestamp; `fields` holds all of it, what is named here too."""

    at_us: int
    level: str
    event: str
    service: str
    instance: str
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A field as text; empty if it is not there."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else "" if value is None else str(value)

    def number(self, name: str) -> float | None:
        """A field as a number; None if it is none."""
        value = self.fields.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def count(self, name: str) -> int:
        """A field as a whole number; 0 if it is none."""
        return int(self.number(name) or 0)


def parse_line(text: str) -> LogRecord | None:
    """The record in a line of text; None for what no service of ours has written, or has written as coloured text."""
    start = text.find("{")
    if start < 0 or len(text) > LINE_MAX_CHARS:
        return None
    fields = _object(text[start:])
    if isinstance(wrapped := fields.get("log"), str):
        fields = _object(wrapped)
    event, at_us = fields.get("event"), _time_us(fields.get("timestamp"))
    if not isinstance(event, str) or at_us is None:
        return None
    level, service, instance = (str(fields.get(name, "")) for name in ("level", "service", "instance"))
    return LogRecord(at_us, level, event, service, instance, fields)


def _object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _time_us(value: object) -> int | None:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def parse_since(text: str, now_us: int) -> int | None:
    """The time in `--since`: `90s`, `15m`, `2h`, `3d` before now, or an ISO time (UTC unless it says otherwise)."""
    unit_s = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit_s and text[:-1].isascii() and text[:-1].isdecimal():
        return now_us - int(text[:-1]) * unit_s * 1_000_000
    return _time_us(text)
