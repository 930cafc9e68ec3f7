"""The proof of the way down notices every fault it is there for: each is planted in an inbox that holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.crash.consumer import Row
from tests.crash.down.proof import examine_inbox
from tests.crash.orders import Order

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
]
WANTED = [frozenset({"home", "site/2"}), frozenset({"home", "site/1"})]
ROWS = [LOG[1], LOG[2], LOG[4], LOG[6], LOG[0], LOG[3], LOG[7]]  # the site that was added comes later


def rows(orders: Sequence[Order] = ROWS) -> list[Row]:
    return [
        Row(number, o.entity_id, o.seq_nr, o.position, (f"t:{o.topic}",), o.payload, o.topic == "away", False)
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
    "back": (lambda: [*rows()[:4], *reversed(rows()[4:])], "not in their entity's order"),
    "a leaving one is missing": (lambda: without(5), "of movers did not come: mover0:2"),
    "one at home is missing": (lambda: without(2), "of movers did not come: mover0:1"),
    "one that is away": (lambda: rows([*ROWS[:3], LOG[5], *ROWS[3:]]), "were never wanted: mover0:3"),
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
    assert examine_inbox(LOG, without(2, 5), WANTED, {"mover0": 2}) == []
    assert examine_inbox(LOG, without(2, 5), WANTED, {"mover0": 1}) != []
    assert examine_inbox(LOG, without(2, 5), WANTED, {}, from_snapshots=True) == []


def test_a_row_for_what_was_deleted_must_be_true() -> None:
    def found(first: int, last: int, deleted_to: int, came: list[Row]) -> list[str]:
        mark = Row(9, "mover0", last, 0, (), {"from_seq_nr": first, "to_seq_nr": last}, False, False, deleted=True)
        return examine_inbox(LOG, [*came, mark], WANTED, {"mover0": deleted_to})

    assert found(1, 2, 2, without(2, 5)) == []
    assert "were said to be deleted and are not: mover0:1-2" in found(1, 2, 1, without(2, 5))[0]
    assert "were said to be deleted and are not: mover0:1-2" in found(1, 2, 2, rows())[0]
