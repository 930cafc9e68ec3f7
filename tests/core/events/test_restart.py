"""Restart marks: rows of their own type, which no program and no peer can make."""

from __future__ import annotations

from common.core.events.restart import RESTART_TYPE, is_restart, restart_marks
from common.core.events.rules import problems


def test_a_mark_stands_behind_the_last_number_that_holds() -> None:
    marks = restart_marks({"Order|1": 4, "Order|2": 1})
    assert (marks.persistence_id, marks.seq_nr, marks.prev_seq_nr) == (["Order|1", "Order|2"], [3, 0], [3, 0])
    assert marks.payload == [b'{"from_seq_nr":4}', b'{"from_seq_nr":1}']
    assert is_restart(marks, 1)


def test_its_type_is_reserved() -> None:
    found = problems(restart_marks({"Order|1": 4}), 1_000, may_leave=True)
    assert found == {0: ("events.invalid", f"event_type {RESTART_TYPE!r} is reserved")}
