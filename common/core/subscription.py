"""Where a consumer is in another service's log, with all that must move together with its effect (DESIGN.md 6.1 to 6.5).

A consumer follows one stream of a source with two cursors. *Live* serves what the applied filter lets through. While a
filter changes there is a second one, *backfill*: it serves what only the next filter lets through, from the log's
beginning or from snapshots, until it meets live; then the next filter is the applied one. All of it is one value, stored
in the transaction that stores what was received, so a kill at any moment resumes both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FilterState:
    """A filter as canonical JSON of ``core.filters`` and its version; 0 and '' = none, everything passes."""

    version: int
    criteria: str


NO_FILTER = FilterState(0, "")


@dataclass(frozen=True, slots=True)
class SnapshotScan:
    """A cursor that begins with snapshots: ``head`` was fixed, they are paged by persistence id (those up to ``after``
    are done), then the log goes on after ``low``."""

    head: int
    low: int
    after: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the source's log; ``digest`` (``core.digest``) and order time are those of the event there."""

    position: int
    digest: str = ""
    timestamp_us: int = 0
    scan: SnapshotScan | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Both cursors and the filters they serve, in one generation of one source's journal.

    ``backfill`` is None when no change is under way. While one is, live serves what ``applied`` and ``next`` both let
    through since ``change_position``, and backfill what ``next`` lets through and ``applied`` does not.
    """

    journal_id: str
    generation_id: str
    live: Cursor
    applied: FilterState
    backfill: Cursor | None = None
    next: FilterState | None = None
    change_position: int = 0


NOWHERE_PLACE = Place("", "", Cursor(0), NO_FILTER)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer's state of one subscription as stored.

    ``desired`` is the filter an operator or a program last asked for; ``revision`` counts its commits and guards the
    next one; ``received`` counts the events that ever took effect.
    """

    name: str
    place: Place
    desired: FilterState
    revision: int
    received: int
    updated_us: int


def place_as_text(place: Place) -> str:
    """A place as it is stored."""
    return json.dumps(asdict(place), separators=(",", ":"), ensure_ascii=False)


def place_of_text(text: str) -> Place:
    """A stored place."""
    told: dict[str, Any] = json.loads(text)
    backfill, following = told["backfill"], told["next"]
    return Place(
        told["journal_id"],
        told["generation_id"],
        _cursor(told["live"]),
        FilterState(**told["applied"]),
        _cursor(backfill) if backfill else None,
        FilterState(**following) if following else None,
        told["change_position"],
    )


def _cursor(told: dict[str, Any]) -> Cursor:
    scan = told["scan"]
    return Cursor(told["position"], told["digest"], told["timestamp_us"], SnapshotScan(**scan) if scan else None)
