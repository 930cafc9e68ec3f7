"""What is known of one edge, and how it goes on: pure steps from one look to the next.

A node looks at its streams every few seconds. What has changed is written, in one batch; an edge that idles is written
only when what it says of itself has moved, at most once in five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Final

import orjson

from common.core.flow.messages import EdgeHealth

CONNECTED: Final = "connected"
OFFLINE: Final = "offline"
QUIET_US: Final = 300 * 1_000_000
_RATE_MIN_US: Final = 60 * 1_000_000
_RATE_WINDOW_US: Final = 3600 * 1_000_000
_HOUR_US: Final = 3600 * 1_000_000
_DAY_US: Final = 24 * _HOUR_US


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """An edge. Times in UTC microseconds, sizes in bytes, positions of its journal; 0 and "" for what is not known.

    ``gone`` counts positions of journals that were replaced before they were stored to their end, as
    ``[journal id, first, last]``; ``past`` counts what earlier journals and branches have in the cloud. ``rate_since_…``
    is from where the growth of ``used_bytes`` is measured, ``certificate_us`` when the edge's certificate runs out.
    """

    state: str = OFFLINE
    since_us: int = 0
    progress_us: int = 0
    head: int = 0
    received: int = 0
    stored: int = 0
    lag_us: int = 0
    lag_bytes: int = 0
    end_code: str = ""
    end_reason: str = ""
    connects: int = 0
    parked: int = 0
    journal_id: str = ""
    version: str = ""
    clock_skew_s: float = 0.0
    used_bytes: int = 0
    cap_bytes: int = 0
    free_bytes: int = 0
    certificate_us: int = 0
    rate_since_us: int = 0
    rate_since_bytes: int = 0
    gone: tuple[tuple[str, int, int], ...] = ()
    past: int = 0
    noted_us: int = 0

    @property
    def lag(self) -> int:
        """Events that the edge said it has and that are not stored."""
        return max(0, self.head - self.stored)


@dataclass(frozen=True, slots=True)
class StreamLook:
    """A stream as a look finds it."""

    session: int
    since_us: int
    resume: str
    journal_id: str
    head: int
    received: int
    stored: int
    parked: int
    clock_skew_s: float
    health: EdgeHealth | None


_NAMES: Final = tuple(field.name for field in fields(EdgeFacts))
_values_of: Final = attrgetter(*_NAMES)
_NOTHING: Final = _values_of(EdgeFacts())


def to_json(facts: EdgeFacts) -> str:
    """The facts that are known, as JSON."""
    values = zip(_NAMES, _values_of(facts), _NOTHING, strict=True)
    return orjson.dumps({name: value for name, value, nothing in values if value != nothing}).decode()


def from_json(text: str) -> EdgeFacts:
    """The facts of a row, also of one that another version has written: unknown names and wrong types are left out."""
    found: Any = orjson.loads(text)
    nothing = EdgeFacts()
    known: dict[str, Any] = {}
    for field in fields(EdgeFacts):
        value = found.get(field.name)
        default = getattr(nothing, field.name)
        if field.name == "gone" and isinstance(value, list):
            known["gone"] = tuple((str(name), int(first), int(last)) for name, first, last in value)
        elif isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int)):
            known[field.name] = value
    return EdgeFacts(**known)


def connected(known: EdgeFacts, look: StreamLook) -> EdgeFacts:
    """A stream has begun. A journal in place of one that was not stored to its end has left something behind."""
    gone, past = known.gone, known.past
    if look.resume == "new_journal":
        past += known.stored
    elif look.resume == "rewound":
        past += max(0, known.stored - look.stored)
    if look.resume == "new_journal" and known.journal_id not in ("", look.journal_id) and known.lag:
        gone = (*gone, (known.journal_id, known.stored + 1, known.head))[-100:]
    fresh = replace(
        known,
        state=CONNECTED,
        since_us=look.since_us,
        connects=known.connects + 1,
        journal_id=look.journal_id,
        head=look.head,
        stored=look.stored,
        received=look.received,
        gone=gone,
        past=past,
        progress_us=known.progress_us or look.since_us,
    )
    return looked_at(fresh, look, look.since_us)


def looked_at(known: EdgeFacts, look: StreamLook, now_us: int) -> EdgeFacts:
    """The facts after a look at a stream that goes on."""
    health = look.health or EdgeHealth(version=known.version)
    fresh = replace(
        known,
        head=look.head,
        received=look.received,
        stored=look.stored,
        parked=look.parked,
        clock_skew_s=round(look.clock_skew_s, 1),
        progress_us=now_us if look.stored != known.stored else known.progress_us,
    )
    if look.health is None:
        return fresh
    lag_is_over = look.stored >= look.head
    fresh = replace(
        fresh,
        lag_us=0 if lag_is_over else health.lag_us,
        lag_bytes=0 if lag_is_over else health.lag_bytes,
        version=health.version,
        used_bytes=health.used_bytes,
        cap_bytes=health.cap_bytes,
        free_bytes=health.free_bytes,
        certificate_us=health.certificate_expires_us,
    )
    age_us = now_us - known.rate_since_us
    if not known.rate_since_us or health.used_bytes < known.rate_since_bytes or age_us > 2 * _RATE_WINDOW_US:
        return replace(fresh, rate_since_us=now_us, rate_since_bytes=health.used_bytes)
    return fresh


def ended(known: EdgeFacts, code: str, reason: str, now_us: int) -> EdgeFacts:
    """The stream is over."""
    return replace(known, state=OFFLINE, since_us=now_us, end_code=code, end_reason=reason[:200])


def full_in_s(facts: EdgeFacts, at_us: int) -> float | None:
    """Seconds until journal or volume is full at the rate of the last hour or two; None when it does not grow."""
    took_us, grown = at_us - facts.rate_since_us, facts.used_bytes - facts.rate_since_bytes
    if not facts.rate_since_us or took_us < _RATE_MIN_US or grown <= 0:
        return None
    rooms = [facts.cap_bytes - facts.used_bytes] if facts.cap_bytes else []
    rooms += [facts.free_bytes] if facts.free_bytes else []
    return max(min(rooms), 0) / (grown / (took_us / 1e6)) if rooms else None


def is_worth_writing(written: EdgeFacts, facts: EdgeFacts, written_us: int, now_us: int) -> bool:
    """Whether a row is due: at once when the state or the log moves, else when something else has after a while."""

    def telling(one: EdgeFacts) -> tuple[object, ...]:
        return (one.state, one.since_us, one.head, one.stored, one.parked, one.journal_id, one.version, one.gone)

    if telling(written) != telling(facts):
        return True
    return written != facts and now_us - written_us >= QUIET_US


def summary_due(noted_us: int, facts: EdgeFacts, now_us: int) -> str:
    """The kind of summary that is due for an edge whose log moves: the first of a day, or of an hour; else ''."""
    if now_us // _DAY_US != noted_us // _DAY_US:
        return "day"
    return "hour" if now_us // _HOUR_US != noted_us // _HOUR_US and facts.progress_us > noted_us else ""
