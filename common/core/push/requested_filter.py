"""Which filter a cloud asks an edge for: set for an edge's id, or for all ids that fit a pattern.

``*`` in a pattern stands for any text. The id itself goes before patterns, of patterns the one that says most, and of
those that say as much the last that was set. What nobody asked a filter for is pushed whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.core.errors import BackhaulError
from common.core.events.ids import NAME_MAX_BYTES, text_problem
from common.core.filters.past import Past
from common.core.push.filter_transition import PushFilter

_ANY = "*"


@dataclass(frozen=True, slots=True)
class RequestedFilter:
    """Criteria (canonical JSON) for the origins that fit ``pattern``. Versions are never used twice in one journal.

    ``history`` is how much past an entity brings that enters.
    """

    pattern: str
    version: int
    criteria: str
    set_us: int
    history: Past = Past.SNAPSHOT


def check_pattern(pattern: str) -> None:
    """Refuse what fits no origin. Raises ``filter.bad_pattern``."""
    problem = text_problem(pattern, NAME_MAX_BYTES) if pattern else "is empty"
    if problem:
        raise BackhaulError(
            "filter.bad_pattern",
            f"the pattern {pattern[:80]!r} {problem}",
            f"name an edge, or several with {_ANY} for any text, at most {NAME_MAX_BYTES} bytes",
        )


def fits(pattern: str, origin_id: str) -> bool:
    """Whether a pattern stands for an origin: in time linear in both."""
    first, *rest = pattern.split(_ANY)
    if not rest:
        return first == origin_id
    last = rest.pop()
    if not origin_id.startswith(first) or len(origin_id) < len(first) + len(last) or not origin_id.endswith(last):
        return False
    at, end = len(first), len(origin_id) - len(last)
    for part in rest:
        found = origin_id.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def filter_for(origin_id: str, asked: Iterable[RequestedFilter]) -> PushFilter:
    """What is asked of an origin."""
    found = [one for one in asked if fits(one.pattern, origin_id)]
    if not found:
        return PushFilter(history=Past.SNAPSHOT)
    best = max(found, key=lambda one: (_ANY not in one.pattern, len(one.pattern.replace(_ANY, "")), one.version))
    return PushFilter(best.version, best.criteria, history=best.history)
