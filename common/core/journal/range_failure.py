"""Why a projection's range does not move: kept in its row, so that every node can say so, also after a takeover.

Retries go on for days, so not each is written: a failure's begin, a change of what fails, and attempts 2, 4, 8 … are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson

_REASON_MAX_CHARACTERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RangeFailure:
    """What fails, where, how often (at least: see above) and since when, UTC microseconds of the node that met it first.

    ``position`` is that of the first event of the page that fails, or the range's offset where no event is concerned.
    """

    code: str
    reason: str
    position: int
    attempts: int
    since_us: int


def next_failure(known: RangeFailure | None, code: str, reason: str, position: int, now_us: int) -> RangeFailure:
    """The failure after another attempt; it begins anew with another code or position."""
    reason = reason[:_REASON_MAX_CHARACTERS]
    if known is None or (known.code, known.position) != (code, position):
        return RangeFailure(code, reason, position, 1, now_us)
    return replace(known, reason=reason, attempts=known.attempts + 1)


def is_worth_a_write(stored: RangeFailure | None, found: RangeFailure) -> bool:
    """Whether the row is to say it; so a failure of n attempts is written ``log2(n) + 1`` times."""
    return stored is None or stored.since_us != found.since_us or found.attempts >= 2 * stored.attempts


def failure_as_text(failure: RangeFailure | None) -> str:
    """As one stored value: JSON, '' for none. A text with what UTF-8 does not have has it replaced."""
    if failure is None:
        return ""
    texts = {name: getattr(failure, name).encode("utf-8", "replace").decode() for name in ("code", "reason")}
    return orjson.dumps(asdict(failure) | texts).decode()


def failure_of_text(text: str) -> RangeFailure | None:
    """The reverse of ``failure_as_text``."""
    if not text:
        return None
    stored: Mapping[str, Any] = orjson.loads(text)
    return RangeFailure(**{name: stored[name] for name in RangeFailure.__slots__})
