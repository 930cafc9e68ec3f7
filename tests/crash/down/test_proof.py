"""The proof of the way down notices every fault it is there for: each is planted in an inbox that holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.crash.consumer import Row, Wanted
from tests.crash.down.proof import examine_inbox
from tests.crash.orders import LATE, Order

S = "site/1/a"
LOG = [
    Order(1, S, 1, "site/1", "", 1),
    Order(2, "mover0", 1, "home", "", 2),
    Order(3, "site/2/a", 1, "site/2", "", 3),
    Order(4, S, 2, "site/1", "site/1", 4),
    Order(5, "mover0", 2, "away", "home", 5),
    Order(6, "mover0", 3, "away", "away", 6),
    Order(7, "mover0", 4, "home", "away", 7),
    Order(8, S, 3, "site/1", "site/1", 8),
    Order(9, "site/9/a", 1, "site/9", "", 9),
    Order(10, "mover0", 5, "away", "home", 10),
    Order(11, "mover0", 6, "away", "away", 11),
]
WANTED = [Wanted(frozenset({"home", "site/2"})), Wanted(frozenset({"home", "site/1"}))]
# What the mover did while it was away comes with its return; the site that was added comes later.
ROWS = [LOG[1], LOG[2], LOG[4], LOG[5], LOG[6], LOG[0], LOG[3], LOG[7], LOG[9]]


def rows(orders: Sequence[Order] = ROWS) -> list[Row]:
    return [
        Row(number, o.entity_id, o.seq_nr, o.position, (f"t:{o.topic}",), o.payload, o.before == "home", False)
        for number, o in enumerate(orders, 1)
    ]


def without(*positions: int) -> list[Row]:
    return [row for row in rows() if row.position not in positions]


def changed(position: int, /, **changes: object) -> list[Row]:
    return [row._replace(**changes) if row.position == position else row for row in rows()]  # type: ignore[arg-type]


def test_an_inbox_that_holds_is_found_to() -> None:
    assert examine_inbox(LOG, rows(), WANTED, {}) == []


FAULTS: dict[str, tuple[Callable[[], list[Row]], str]] = {
    "one is missing in the middle": (lambda: without(4), "came after a hole"),
    "the first is missing": (lambda: without(1), "came after a hole"),
    "the last is missing": (lambda: without(8), "did not come: site/1/a:3"),
    "all of an entity is missing": (lambda: without(1, 4, 8), "did not come: site/1/a:3"),
    "twice": (lambda: [*rows(), rows()[-1]], "not in their entity's order"),
    "back": (lambda: [*rows()[:5], *reversed(rows()[5:])], "not in their entity's order"),
    "a leaving one is missing": (lambda: without(5), "of movers did not come: mover0:2"),
    "one at home is missing": (lambda: without(2), "of movers did not come: mover0:1"),
    "one of a past is missing": (lambda: without(6), "of movers did not come: mover0:3"),
    "a past with a hole": (lambda: without(6), "came after a hole: mover0:4 after 2"),
    "a past behind the one that enters": (
        lambda: rows([*ROWS[:3], LOG[6], LOG[5], *ROWS[5:]]),
        "not in their entity's order: mover0",
    ),
    "one that is away, and nothing enters": (lambda: rows([*ROWS, LOG[10]]), "were never wanted: mover0:6"),
    "one of a past is marked as leaving": (
        lambda: changed(6, leaving=True),
        "wrongly marked as leaving or not: mover0:3",
    ),
    "of a site that nobody asked for": (lambda: rows([*ROWS, LOG[8]]), "were never wanted: site/9/a:1"),
    "another content": (lambda: changed(8, payload=0), "are not as in the log"),
    "another position": (lambda: changed(8, position=7), "are not as in the log"),
    "a number too high": (lambda: changed(8, seq_nr=4), "are not as in the log"),
    "not marked as leaving": (lambda: changed(5, leaving=False), "wrongly marked"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    plant, answer = FAULTS[fault]
    found = examine_inbox(LOG, plant(), WANTED, {})
    assert any(answer in problem for problem in found), found


def test_a_snapshot_stands_for_what_it_replaces_and_retention_excuses_what_it_removed() -> None:
    late = [row._replace(replaces=row.position == 8) for row in without(1, 4)]
    assert examine_inbox(LOG, late, WANTED, {}) == []
    past = [row._replace(replaces=row.position == 6) for row in without(2, 5)]
    assert examine_inbox(LOG, past, WANTED, {}) == []
    behind = [row._replace(replaces=row.position == 6) for row in without(2, 5, 7)]
    assert "came after a hole: mover0:5 after 3" in examine_inbox(LOG, behind, WANTED, {})[0]
    assert examine_inbox(LOG, without(2, 5, 6, 7, 10), WANTED, {"mover0": 5}) == []
    assert examine_inbox(LOG, without(2, 5, 6, 7, 10), WANTED, {"mover0": 4}) != []
    assert examine_inbox(LOG, without(2, 5, 6, 7, 10), WANTED, {}, from_snapshots=True) == []


def test_a_row_for_what_was_deleted_must_be_true() -> None:
    def found(first: int, last: int, deleted_to: int, came: list[Row]) -> list[str]:
        payload = {"from_seq_nr": first, "to_seq_nr": last}
        mark = Row(0, "mover0", last, 0, (), payload, False, False, deleted=True)
        return examine_inbox(LOG, [mark, *came], WANTED, {"mover0": deleted_to})

    assert found(1, 2, 2, without(2, 5)) == []
    assert "were said to be deleted and are not: mover0:1-2" in found(1, 2, 1, without(2, 5))[0]
    assert "were said to be deleted and are not: mover0:1-3" in found(1, 3, 2, without(2, 5, 6))[0]
    assert found(1, 1, 2, without(2, 5))[0].endswith("came after a hole: mover0:3 after 1")
    came = rows()
    late = Row(0, "mover0", 2, 0, (), {"from_seq_nr": 1, "to_seq_nr": 2}, False, False, deleted=True)
    problems = examine_inbox(LOG, [*came, late], WANTED, {"mover0": 2})
    assert any("were said to be deleted and are not: mover0:1-2" in problem for problem in problems)


LATE_LOG = [Order(number, LATE, number, LATE, LATE if number > 1 else "", number) for number in range(1, 7)]
LATE_TOPICS = frozenset({"home", LATE})
LATE_WANTED = [Wanted(frozenset({"home"})), *(Wanted(LATE_TOPICS, first) for first in (4, 5, 3, 3, 5))]


def began_again(*numbers: int, at: int = 1, wanted: Sequence[Wanted] = LATE_WANTED) -> list[str]:
    """What is found of `late` with these numbers; a negative one is the restart mark from that number on."""
    came = []
    for index, number in enumerate(numbers, 1):
        if number < 0:
            payload = {"from_seq_nr": -number}
            came.append(Row(index, LATE, -number - at, 0, (), payload, False, False, restarts=True))
        else:
            came.append(Row(index, LATE, number, number, (f"t:{LATE}",), number, False, False))
    return examine_inbox(LATE_LOG, came, wanted, {})


def test_behind_a_restart_mark_numbers_come_again() -> None:
    assert began_again(4, 5, -3, 3, 4, 5, 6) == []
    assert began_again(4, -4, 4, 5, 6, wanted=LATE_WANTED[:2] + LATE_WANTED[2:3] + LATE_WANTED[1:2]) == []
    assert began_again(4, 5, -4, 4, -3, 5, 6, wanted=[*LATE_WANTED[:3], *LATE_WANTED[1:]]) == [], "led over up to 5"
    assert began_again(5, 6, wanted=[LATE_WANTED[0], LATE_WANTED[2]]) == [], "a first filter begins nothing again"


RESTART_FAULTS: dict[str, tuple[Callable[[], list[str]], str]] = {
    "twice without a mark": (lambda: began_again(4, 5, 3, 4, 5, 6), "not in their entity's order"),
    "twice behind a mark": (lambda: began_again(4, 5, -3, 3, 4, 5, 5, 6), "not in their entity's order"),
    "back behind a mark": (lambda: began_again(4, 5, -3, 3, 4, 3, 5, 6), "not in their entity's order"),
    "below the mark": (lambda: began_again(4, 5, -4, 3, 4, 5, 6), "not in their entity's order"),
    "a hole behind a mark": (lambda: began_again(4, 5, -3, 3, 5, 6, wanted=LATE_WANTED[:4]), "a hole: late:5 after 3"),
    "begun in the middle": (lambda: began_again(4, 5, -3, 4, 5, 6, wanted=LATE_WANTED[:4]), "a hole: late:4 after 2"),
    "nothing behind a mark": (lambda: began_again(3, 4, 5, 6, -3), "did not come: late:6"),
    "not to the last": (lambda: began_again(3, 4, 5, 6, -3, 3, 4, 5), "did not come: late:6"),
    "no mark": (lambda: began_again(4, 5, 6, wanted=LATE_WANTED[:4]), "came after a hole: late:4 after 0"),
    "a number that no filter states": (lambda: began_again(4, 5, -2, 3, 4, 5, 6), "nobody asked for it: late from 2"),
    "twice for one filter": (lambda: began_again(4, -3, 3, -3, 3, 4, 5, 6), "nobody asked for it: late from 3"),
    "without one that stated more": (
        lambda: began_again(4, 5, -3, 3, 4, -3, 3, 4, 5, 6, wanted=LATE_WANTED[:5]),
        "nobody asked for it: late from 3",
    ),
    "what was not known": (
        lambda: began_again(-5, 5, 6, wanted=[LATE_WANTED[0], LATE_WANTED[2]]),
        "nobody asked for it: late from 5",
    ),
    "another number than it says": (
        lambda: began_again(4, 5, -3, 3, 4, 5, 6, at=0),
        "nobody asked for it: late from 3",
    ),
    "below every number that is stated": (lambda: began_again(2, 3, 4, 5, 6), "were never wanted: late:2"),
    "a hole that ends at no start": (lambda: began_again(6), "came after a hole: late:6 after 0"),
}


@pytest.mark.parametrize("fault", RESTART_FAULTS)
def test_a_fault_of_a_restart_is_found(fault: str) -> None:
    plant, answer = RESTART_FAULTS[fault]
    found = plant()
    assert any(answer in problem for problem in found), found


def test_an_entity_that_is_not_included_by_its_id_does_not_begin_again() -> None:
    mark = Row(9, S, 0, 0, (), {"from_seq_nr": 1}, False, False, restarts=True)
    found = examine_inbox(LOG, [*rows(), mark, *(row for row in rows() if row.entity_id == S)], WANTED, {})
    assert found == ["1 events begin again and nobody asked for it: site/1/a from 1"]


def test_what_was_deleted_before_an_entity_began_again_may_have_come() -> None:
    payload = {"from_seq_nr": 3, "to_seq_nr": 4}
    marks = [
        Row(3, LATE, 2, 0, (), {"from_seq_nr": 3}, False, False, restarts=True),
        Row(4, LATE, 4, 0, (), payload, False, False, deleted=True),
    ]
    came = [Row(n, LATE, n, n, (f"t:{LATE}",), n, False, False) for n in range(4, 7)]
    assert examine_inbox(LATE_LOG, [*came, *marks, *came[1:]], LATE_WANTED[:4], {LATE: 4}) == []
    assert examine_inbox(LATE_LOG, [*came, *marks, *came], LATE_WANTED[:4], {LATE: 4}) != []
