"""The newest stretch of a log in memory: it gives what is next, in order, or nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch, new_events
from common.core.journal.recent_commits import RecentCommits


def stored(first: int, count: int, size: int = 10) -> EventBatch:
    batch = new_events(
        [f"Sensor|{p % 3}" for p in range(first, first + count)], ["Read"] * count, [b"x" * size] * count
    )
    batch.position = list(range(first, first + count))
    return batch


def positions(page: EventBatch | None) -> list[int] | None:
    return page.position if page is not None else None


def test_what_is_next_is_given_as_it_was_added() -> None:
    tail = RecentCommits(100, 100_000)
    batch = stored(5, 3)
    tail.add(batch)
    assert tail.after(4, 10, 10_000) is batch


def test_commits_that_follow_each_other_are_one_page_and_a_bound_cuts_it() -> None:
    tail = RecentCommits(100, 100_000)
    for first in (1, 3, 5):
        tail.add(stored(first, 2))
    assert positions(tail.after(0, 10, 10_000)) == [1, 2, 3, 4, 5, 6]
    assert positions(tail.after(1, 3, 10_000)) == [2, 3, 4]
    assert positions(tail.after(2, 10, 2 * (10 + EVENT_OVERHEAD_BYTES))) == [3, 4]
    assert positions(tail.after(4, 10, 1)) == [5], "one always fits"


def test_behind_or_after_a_hole_there_is_nothing() -> None:
    tail = RecentCommits(100, 100_000)
    tail.add(stored(5, 2))
    assert tail.after(3, 10, 10_000) is None
    tail.add(stored(9, 2))
    assert positions(tail.after(4, 10, 10_000)) == [5, 6]
    assert tail.after(6, 10, 10_000) is None
    assert positions(tail.after(8, 10, 10_000)) == [9, 10]
    assert tail.after(10, 10, 10_000) is None


def test_it_forgets_rather_than_grow() -> None:
    tail = RecentCommits(4, 100_000)
    tail.add(stored(1, 3))
    tail.add(stored(4, 2))
    assert tail.after(0, 10, 10_000) is None
    assert positions(tail.after(3, 10, 10_000)) == [4, 5]
    tail.add(stored(6, 5))
    assert tail.after(5, 10, 10_000) is None


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 300)), max_size=20),
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 2_000)), min_size=1, max_size=30),
    st.integers(1, 30),
)
def test_a_follower_never_skips_repeats_or_turns_back(
    commits: list[tuple[int, int, int]], pages: list[tuple[int, int]], kept: int
) -> None:
    """``commits``: a hole before it, how many events, their size. What is not in the tail is read from the log."""
    tail, log, head, at = RecentCommits(kept, 5_000), [0], 0, 0
    seen: list[int] = []
    for number, (max_events, max_bytes) in enumerate(pages):
        if number < len(commits):
            hole, count, size = commits[number]
            log += range(head + 1, head + 1 + hole + count)
            tail.add(stored(head + 1 + hole, count, size))
            head += hole + count
        page = tail.after(at, max_events, max_bytes)
        given_now = page.position if page is not None else log[at + 1 : at + 1 + max_events]
        assert len(given_now) <= max_events
        assert page is None or page.byte_size() <= max_bytes or len(page) == 1
        seen += given_now
        at = seen[-1] if seen else 0
    assert seen == log[1 : len(seen) + 1]
