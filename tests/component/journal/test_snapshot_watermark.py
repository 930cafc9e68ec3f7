"""The remembered marks up to which snapshots cover a log, when it turns out to be another one."""

from __future__ import annotations

from common.journal.snapshot_watermark import SnapshotWatermark

EVERY: frozenset[str] = frozenset()


async def test_a_search_in_which_the_log_became_another_one_begins_anew() -> None:
    """The look that goes on behind the mark opens the session by which the failover is found."""
    marks = SnapshotWatermark()
    uncovered: int | None = None
    is_failed_over = False
    asked: list[int] = []

    async def look(after: int, through: int) -> tuple[int | None, int]:
        nonlocal is_failed_over
        asked.append(after)
        if is_failed_over:
            is_failed_over = False
            marks.clear()
        return (uncovered if uncovered is not None and after < uncovered <= through else None), through

    assert await marks.find(look, 100, EVERY) == 100
    uncovered, is_failed_over = 90, True
    assert await marks.find(look, 120, EVERY) == 89
    assert await marks.find(look, 120, EVERY) == 89
    assert asked == [0, 100, 0, 89]
