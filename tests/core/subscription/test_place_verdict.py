"""What a source says of a consumer's place: every case of 3.5 distinguished."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.journal.history import Generation, History
from common.core.subscription.place import (
    NO_FILTER,
    NO_RESUME_POINT,
    LogCursor,
    PlaceVerdict,
    ResumePoint,
    SnapshotScan,
    decide_resume_point,
)

HISTORY = History("j", (Generation("g1", 1), Generation("g2", 51)), 100)


def at(position: int, generation: str = "g2", **cursor: object) -> ResumePoint:
    return ResumePoint("j", generation, LogCursor(position, **cursor), NO_FILTER)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "verdict"),
    [
        (NO_RESUME_POINT, PlaceVerdict.FIRST),
        (at(100), PlaceVerdict.RESUME),
        (at(50, "g1"), PlaceVerdict.RESUME),
        (at(20, "g1"), PlaceVerdict.RESUME),
        (at(19, "g1"), PlaceVerdict.TRIMMED),
        (at(19, scan=SnapshotScan(60, 30, "")), PlaceVerdict.RESUME),
        (at(19, "g1", scan=SnapshotScan(60, 30, "")), PlaceVerdict.DIVERGED),
        (at(0, ""), PlaceVerdict.TRIMMED),
        (at(51, "g1"), PlaceVerdict.DIVERGED),
        (at(60, "g0"), PlaceVerdict.DIVERGED),
        (at(60, digest="kx"), PlaceVerdict.DIVERGED),
        (at(60, digest="khere"), PlaceVerdict.RESUME),
        (at(101), PlaceVerdict.BEYOND_HEAD),
        # Snapshots have brought numbers: what it knows is from there, not only from its live lane's place.
        (replace(at(40), reached=100), PlaceVerdict.RESUME),
        (replace(at(40), reached=101), PlaceVerdict.BEYOND_HEAD),
        (replace(at(40, "g1"), reached=50), PlaceVerdict.RESUME),
        (replace(at(40, "g1"), reached=51), PlaceVerdict.DIVERGED),
        (replace(at(40, "g0"), reached=60), PlaceVerdict.DIVERGED),
        (at(60, scan=SnapshotScan(101, 30, "")), PlaceVerdict.BEYOND_HEAD),
        (replace(at(60), journal_id="other"), PlaceVerdict.OTHER_JOURNAL),
        (replace(NO_RESUME_POINT, live=LogCursor(7)), PlaceVerdict.OTHER_JOURNAL),
    ],
)
def test_each_case_has_its_verdict(place: ResumePoint, verdict: PlaceVerdict) -> None:
    assert decide_resume_point(place, HISTORY, 20, "khere") is verdict


def test_a_place_older_than_the_kept_generations_is_not_taken_for_another_history() -> None:
    pruned = History("j", HISTORY.generations[1:], 100)
    assert decide_resume_point(at(40, "g1"), pruned, 0) is PlaceVerdict.RESUME
    assert decide_resume_point(at(60, "g1"), pruned, 0) is PlaceVerdict.DIVERGED
