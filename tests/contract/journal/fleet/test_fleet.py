"""What every journal promises about the fleet's state: the newest session counts, history is bounded."""

from __future__ import annotations

from common.journal.stores.fleet import HOURS_KEPT_US, NODE_KEPT_US, NOTES_MAX, FleetNote, FleetRow, OriginTally
from common.journal.stores.journal import Journal
from tests.support.builders import Origin

DAY_US = 86_400_000_000


def row(name: str, session: int = 1, node: str = "n1", facts: str = "{}") -> FleetRow:
    return FleetRow(name, session, node, 5, facts)


async def test_rows_come_by_id_and_are_replaced(journal: Journal) -> None:
    await journal.fleet.record("n1", 10, [row("b"), row("a"), row("c")], [])
    await journal.fleet.record("n1", 20, [row("b", facts='{"head":1}')], [])
    assert await journal.fleet.rows() == [row("a"), row("b", facts='{"head":1}'), row("c")]
    assert await journal.fleet.rows(["c", "none", "a"]) == [row("a"), row("c")]
    assert await journal.fleet.rows([]) == []


async def test_a_node_with_an_older_session_changes_nothing(journal: Journal) -> None:
    await journal.fleet.record("n2", 10, [row("a", 2, "n2")], [])
    await journal.fleet.record("n1", 11, [row("a", 1, "n1")], [])
    assert await journal.fleet.rows() == [row("a", 2, "n2")]


async def test_nodes_are_known_by_when_they_wrote_last_and_forgotten_after_a_week(journal: Journal) -> None:
    await journal.fleet.record("n1", 10, [], [])
    await journal.fleet.record("n2", 20, [], [])
    await journal.fleet.record("n1", 30, [], [])
    assert await journal.fleet.nodes() == {"n1": 30, "n2": 20}
    await journal.fleet.record("n1", 21 + NODE_KEPT_US, [], [])
    assert await journal.fleet.nodes() == {"n1": 21 + NODE_KEPT_US}


async def test_an_edge_has_so_many_notes_at_most_and_the_oldest_go(journal: Journal) -> None:
    for start in range(0, 700, 100):
        notes = [FleetNote("a", at_us, "connected", "{}") for at_us in range(start, start + 100)]
        await journal.fleet.record("n1", 1_000, [], [*notes, FleetNote("b", start, "connected", "{}")])
    found = await journal.fleet.notes("a")
    assert [note.at_us for note in found] == list(range(700 - NOTES_MAX, 700))
    assert len(await journal.fleet.notes("b")) == 7
    assert await journal.fleet.notes("none") == []


async def test_summaries_of_hours_go_after_two_days_and_those_of_days_stay(journal: Journal) -> None:
    old = [FleetNote("a", 1, kind, "{}") for kind in ("connected", "day", "hour")]
    await journal.fleet.record("n1", 2, [], old)
    assert await journal.fleet.notes("a") == old
    now_us = HOURS_KEPT_US + DAY_US
    await journal.fleet.record("n1", now_us, [], [FleetNote("a", now_us, "hour", '{"x":1}')])
    assert [note.kind for note in await journal.fleet.notes("a")] == ["connected", "day", "hour"]
    assert (await journal.fleet.notes("a"))[-1].at_us == now_us


async def test_events_of_an_origin_are_tallied_by_where_they_are(journal: Journal) -> None:
    one, two = Origin("e1"), Origin("e2")
    await one.dial(journal)
    await two.dial(journal)
    await one.push(journal, ("Sensor|e1/a", 1), ("Sensor|e1/a", 2), ("Sensor|e1/b", 1))
    await one.push(journal, ("Sensor|e1/a", 5))  # a gap: parked
    await two.push(journal, ("Sensor|e2/a", 1))
    assert await journal.fleet.tallies() == [OriginTally("e1", 3, 1, {}), OriginTally("e2", 1, 0, {})]
    (row,) = await journal.parked.rows()
    assert await journal.parked.discard(row.id)
    assert await journal.fleet.tallies("e1") == [OriginTally("e1", 3, 0, {"discarded": 1})]
    (stated,) = await journal.fleet.stated("e1", 10)
    assert (stated.stated.persistence_id, stated.stated.from_seq_nr, stated.stated.reason) == (
        "Sensor|e1/a",
        5,
        "discarded",
    )
    assert await journal.fleet.stated("e1", 0) == await journal.fleet.stated("e2", 9) == []
    assert await journal.fleet.tallies("none") == []
