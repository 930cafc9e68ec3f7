"""Why a range does not move: when it is the same failure, and how often that is written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.journal.range_failure import (
    RangeFailure,
    failure_as_text,
    failure_of_text,
    is_worth_a_write,
    next_failure,
)


@given(st.integers(1, 3_000))
def test_a_failure_of_n_attempts_is_written_log_n_times(attempts: int) -> None:
    stored = found = None
    writes = 0
    for at_us in range(1, attempts + 1):
        found = next_failure(found, "a.code", f"reason {at_us}", 7, at_us)
        if is_worth_a_write(stored, found):
            stored, writes = found, writes + 1
    assert found is not None
    assert stored is not None
    assert (found.attempts, found.since_us) == (attempts, 1)
    assert writes == attempts.bit_length()
    assert stored.attempts <= attempts < 2 * stored.attempts
    assert stored.since_us == 1


def test_another_code_or_position_is_another_failure() -> None:
    first = next_failure(None, "a.code", "r", 7, 1)
    for other in (next_failure(first, "b.code", "r", 7, 2), next_failure(first, "a.code", "r", 8, 2)):
        assert (other.attempts, other.since_us) == (1, 2)
        assert is_worth_a_write(first, other)


@given(
    st.builds(
        RangeFailure, st.text(), st.text(), st.integers(0, 2**63 - 1), st.integers(1, 2**40), st.integers(0, 2**53)
    )
)
def test_a_failure_is_read_as_it_was_stored(failure: RangeFailure) -> None:
    text = failure_as_text(failure)
    assert failure_of_text(text) == failure
    assert "\0" not in text  # PostgreSQL has no such character


def test_none_is_stored_as_nothing_and_broken_texts_do_not_raise() -> None:
    assert failure_as_text(None) == ""
    assert failure_of_text("") is None
    broken = failure_of_text(failure_as_text(RangeFailure("c", "a\udc80b", 1, 1, 1)))
    assert broken is not None
    assert broken.reason == "a?b"
