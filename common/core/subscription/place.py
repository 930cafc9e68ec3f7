"""Where a consumer is in another service's log, with all that must move together with its effect.

A consumer follows one stream of a source with two cursors. *Live* serves what the applied filter lets through. While a
filter changes there is a second one, *backfill*: it serves what only the next filter lets through, from the log's
beginning or from snapshots, until it meets live; then the next filter is the applied one. All of it is one value, stored
in the transaction that stores what was received, so a kill at any moment resumes both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from common.core.journal.history import History
from common.core.journal.place_digest import are_different


@dataclass(frozen=True, slots=True)
class FilterState:
    """A filter as canonical JSON of ``core.filters`` and its version; 0 and '' = none, everything passes.

    ``wall`` names what the source let the consumer see at most while it served the filter (``wall_version``); '' = all,
    and in what a consumer asks for.
    """

    version: int
    criteria: str
    wall: str = ""

    def is_asked_as(self, other: FilterState) -> bool:
        """Whether a consumer asked for both with the same words."""
        return (self.version, self.criteria) == (other.version, other.criteria)


NO_FILTER = FilterState(0, "")


@dataclass(frozen=True, slots=True)
class SnapshotScan:
    """A cursor that begins with snapshots: ``head`` was fixed, they are paged by persistence id (those up to ``after``
    are done), then the log goes on after ``low``."""

    head: int
    low: int
    after: str


@dataclass(frozen=True, slots=True)
class LogCursor:
    """A place in the source's log; ``digest`` (``core.journal.place_digest``) and order time are those of the event there."""

    position: int
    digest: str = ""
    timestamp_us: int = 0
    scan: SnapshotScan | None = None


@dataclass(frozen=True, slots=True)
class Unstated:
    """Positions ``after`` < p <= ``to`` of which some were passed that are deleted and not stated yet.

    An entity's deleted numbers are stated with the last of them. ``generation_id`` is the newest of the source's history
    at that time: in a later one those events may not be deleted (``gone_back``).
    """

    after: int
    to: int
    generation_id: str


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Both cursors and the filters they serve, in one generation of one source's journal.

    ``backfill`` is None when no change is under way. While one is, live serves what ``applied`` and ``next`` both let
    through since ``change_position``, and backfill what ``next`` lets through and ``applied`` does not. ``reached`` is above
    the live position while numbers that snapshots brought are from beyond it, up to there: a source that has lost what
    lies between would have new events taken for known ones. ``generation_id`` is of there. ``begin`` is where a consumer that
    began from now has begun: of positions up to there it is sent nothing, on no lane. ``unstated`` is
    None when everything that was passed was sent, withheld or stated.
    """

    journal_id: str
    generation_id: str
    live: LogCursor
    applied: FilterState
    backfill: LogCursor | None = None
    next: FilterState | None = None
    change_position: int = 0
    reached: int = 0
    begin: int = 0
    unstated: Unstated | None = None


NO_RESUME_POINT = ResumePoint("", "", LogCursor(0), NO_FILTER)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer's state of one subscription as stored.

    ``requested`` is the filter an operator or a program last asked for; ``revision`` counts its commits and guards the
    next one; ``received`` counts the events that ever took effect.
    """

    name: str
    place: ResumePoint
    requested: FilterState
    revision: int
    received: int
    updated_us: int


def place_as_text(place: ResumePoint) -> str:
    """A place as it is stored."""
    return json.dumps(asdict(place), separators=(",", ":"), ensure_ascii=False)


def place_of_text(text: str) -> ResumePoint:
    """A stored place."""
    stored: dict[str, Any] = json.loads(text)
    backfill, following = stored["backfill"], stored["next"]
    unstated = stored.get("unstated")
    return ResumePoint(
        stored["journal_id"],
        stored["generation_id"],
        _cursor(stored["live"]),
        FilterState(**stored["applied"]),
        _cursor(backfill) if backfill else None,
        FilterState(**following) if following else None,
        stored["change_position"],
        stored.get("reached", 0),  # places stored before there was one
        stored.get("begin", 0),
        Unstated(**unstated) if unstated else None,
    )


def _cursor(stored: dict[str, Any]) -> LogCursor:
    scan = stored["scan"]
    return LogCursor(
        stored["position"], stored["digest"], stored["timestamp_us"], SnapshotScan(**scan) if scan else None
    )


def reached_by(place: ResumePoint) -> int:
    """The highest position from which this place's consumer may know anything."""
    live = place.live
    return max(live.position, place.reached, live.scan.head if live.scan else 0)


def gone_back(place: ResumePoint, history: History) -> ResumePoint:
    """Where the lanes go on in this history, of which ``place`` is a part: before what was passed and not stated.

    A source that was put back in time may have those events again, and nothing would offer them to a consumer that is
    past them. What the consumer knows comes as repeats. While a lane is in its snapshots nothing is decided.
    """
    unstated, cursors = place.unstated, [place.live, *([place.backfill] if place.backfill else [])]
    if unstated is None or unstated.generation_id == history.generation_id or any(one.scan for one in cursors):
        return place
    after = unstated.after
    is_behind = after < place.live.position
    return replace(
        place,
        live=LogCursor(after) if is_behind else place.live,
        backfill=LogCursor(after) if place.backfill and after < place.backfill.position else place.backfill,
        change_position=min(place.change_position, after) if is_behind else place.change_position,
        reached=reached_by(place) if is_behind else place.reached,
        unstated=None,
    )


class PlaceVerdict(StrEnum):
    """What a source says of the place a consumer comes with."""

    FIRST = "first"
    """It was never here."""
    RESUME = "resume"
    TRIMMED = "trimmed"
    """Events after it may have been deleted."""
    DIVERGED = "diverged"
    """Histories part below it: the source has lost what the consumer has seen."""
    OTHER_JOURNAL = "other_journal"
    """It is a place in another journal."""
    BEYOND_HEAD = "beyond_head"
    """The log does not go so far."""


def decide_resume_point(
    place: ResumePoint, history: History, floor_position: int, digest_here: str = ""
) -> PlaceVerdict:
    """Compare a consumer's place with the source's own history.

    ``history`` has the head as it is now, ``floor_position`` is the highest position that retention ever removed, and
    ``digest_here`` the digest of the own event at the live position ('' when there is none to be seen).
    """
    live, reached = place.live, reached_by(place)
    if not place.journal_id:
        return PlaceVerdict.FIRST if not reached else PlaceVerdict.OTHER_JOURNAL
    if place.journal_id != history.journal_id:
        return PlaceVerdict.OTHER_JOURNAL
    if _parts_below(history, place.generation_id, reached):
        return PlaceVerdict.DIVERGED
    if reached > history.head_position:
        return PlaceVerdict.BEYOND_HEAD
    if are_different(digest_here, live.digest):
        return PlaceVerdict.DIVERGED
    # A consumer that is in its snapshots has been informed of the trimming before.
    if live.position < floor_position and live.scan is None:
        return PlaceVerdict.TRIMMED
    return PlaceVerdict.RESUME


def _parts_below(history: History, generation_id: str, position: int) -> bool:
    """Whether ``position`` of this generation is not a part of the history. A generation without events leaves no trace."""
    generations = history.generations
    ends = {one.id: following.first_position - 1 for one, following in pairwise(generations)}
    ends[generations[-1].id] = position
    if generation_id in ends:
        return position > ends[generation_id]
    was_forgotten = generations[0].first_position > max(position, 1)
    return position > 0 and not was_forgotten
