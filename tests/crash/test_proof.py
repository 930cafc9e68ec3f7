"""The proof notices every fault it is there for: each test plants one in stores that hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from common.core.events.batch import EventBatch
from common.projection.tally import Tally, fold
from tests.crash.ledger import Request, Wanted
from tests.crash.proof import CloudContent, JournalContent, Latest, Row, examine

A, B = "Meter|e1/a", "Meter|e1/b"
# What was sent: two acknowledged appends and one that was given up but stored.
SENT = [(A, b"1"), (B, b"2"), (A, b"3"), (A, b"4"), (B, b"5")]
ROWS = [
    Row(1, 101, A, 1, 1, b"1"),
    Row(2, 102, B, 1, 1, b"2"),
    Row(3, 103, A, 2, 2, b"3"),
    Row(4, 104, A, 3, 3, b"4"),
    Row(5, 105, B, 2, 2, b"5"),
]


def requests() -> list[Request]:
    wanted = [Wanted(*event) for event in SENT]
    return [
        Request("one", tuple(wanted[:2]), first_position=1, seq_nr=(1, 1)),
        Request("two", tuple(wanted[2:3]), first_position=3, seq_nr=(2,)),
        Request("three", tuple(wanted[3:]), was_abandoned=True),
        Request("four", (Wanted(A, b"6"),), was_abandoned=True),
    ]


def journal(rows: list[Row], deleted_through: int = 0) -> JournalContent:
    return JournalContent(rows, 5, deleted_through, 0)


def cloud(rows: list[Row]) -> CloudContent:
    """The cloud with these rows, and projections that agree with them."""
    batch = EventBatch(*([] for _ in range(13)))
    batch.persistence_id += [row.entity for row in rows]
    batch.seq_nr += [row.seq_nr for row in rows]
    batch.payload += [row.payload for row in rows]
    folded = fold(batch)
    return CloudContent(
        JournalContent(rows, len(rows), 0, 0),
        folded,
        dict(folded),
        {row.entity: Latest(row.seq_nr, row.payload) for row in rows},
    )


def test_stores_that_hold_are_found_to() -> None:
    finding = examine(requests(), journal(ROWS[3:], deleted_through=3), cloud(ROWS))
    assert finding.problems == ()
    assert (finding.acknowledged, finding.given_up, finding.given_up_stored) == (3, 2, 1)
    assert (finding.missing, finding.duplicates, finding.out_of_order) == (0, 0, 0)


def numbered(rows: list[Row]) -> list[Row]:
    """Positions and times as a journal would give them."""
    return [row._replace(position=index, timestamp_us=100 + index) for index, row in enumerate(rows, 1)]


CLOUD_FAULTS: dict[str, tuple[list[Row], str]] = {
    "missing": (ROWS[:2] + ROWS[3:], "1 acknowledged events are not in the cloud"),
    "twice": ([*ROWS, ROWS[2]], "1 events are more than once"),
    "out of order": ([ROWS[2], ROWS[0], ROWS[1], *ROWS[3:]], "out of order"),
    "half of an append": (ROWS[:4], "three was not answered and is in the cloud in part"),
    "never sent": ([*ROWS, Row(6, 106, A, 4, 4, b"never")], "1 events that nobody sent"),
    "another entity's": ([*ROWS[:2], ROWS[2]._replace(entity=B, seq_nr=2), *ROWS[3:]], "not in the cloud as answered"),
    "another content": ([*ROWS[:2], ROWS[2]._replace(payload=b"x"), *ROWS[3:]], "not in the cloud as answered"),
    "renumbered": ([*ROWS[:4], ROWS[4]._replace(origin_seq_nr=7)], "otherwise than the edge"),
    "shuffled append": ([ROWS[1], ROWS[0], *ROWS[2:]], "the events of one are in another order"),
}


@pytest.mark.parametrize("fault", CLOUD_FAULTS)
def test_a_fault_of_the_cloud_is_found(fault: str) -> None:
    rows, answer = CLOUD_FAULTS[fault]
    finding = examine(requests(), journal(ROWS), cloud(numbered(rows)))
    assert any(answer in problem for problem in finding.problems), finding.problems


def test_a_hole_in_the_positions_is_found() -> None:
    content = cloud(ROWS)
    content = replace(content, journal=replace(content.journal, rows=[*ROWS[:4], ROWS[4]._replace(position=6)], head=6))
    assert any("positions 1 to 6" in problem for problem in examine(requests(), journal(ROWS), content).problems)


def test_time_that_stands_still_is_found() -> None:
    content = cloud([*ROWS[:4], ROWS[4]._replace(timestamp_us=104)])
    assert any("do not rise" in problem for problem in examine(requests(), journal(ROWS), content).problems)


def test_a_parked_event_is_found() -> None:
    content = cloud(ROWS)
    content = replace(content, journal=replace(content.journal, parked=1))
    assert any("1 parked" in problem for problem in examine(requests(), journal(ROWS), content).problems)


def test_an_acknowledged_event_that_left_the_edge_without_retention_is_found() -> None:
    edge = JournalContent([], 0, 0, 0)
    assert any(
        "in the edge's journal as answered" in problem for problem in examine(requests(), edge, cloud(ROWS)).problems
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tally: replace(tally, events=tally.events + 1),
        lambda tally: replace(tally, checksum=tally.checksum ^ 1),
        lambda tally: replace(tally, out_of_order=1),
    ],
)
def test_a_tally_that_differs_from_the_journal_is_found(spoil: Callable[[Tally], Tally]) -> None:
    content = cloud(ROWS)
    content = replace(content, tally={**content.tally, A: spoil(content.tally[A])})
    assert any(problem.startswith(f"tally of {A}") for problem in examine(requests(), journal(ROWS), content).problems)


def test_an_entity_whose_latest_is_not_its_last_is_found() -> None:
    content = cloud(ROWS)
    content = replace(content, latest={**content.latest, A: Latest(2, b"3")})
    assert any("latest is wrong for 1" in problem for problem in examine(requests(), journal(ROWS), content).problems)
