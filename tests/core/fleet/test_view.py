"""Which edges are shown in which order, and what is lost of them."""

from __future__ import annotations

import pytest

from common.core.fleet.facts import CONNECTED, OFFLINE, EdgeFacts
from common.core.fleet.losses import PARTS, parts_of, verdict
from common.core.fleet.view import NODE_LOST, NODE_SILENT_US, FleetQuery, SeenEdge, page, state_of, totals

NOW = 1_000 * NODE_SILENT_US


def edge(name: str, *, node: str = "n1", state: str = CONNECTED, lag: int = 0, used: int = 0) -> SeenEdge:
    facts = EdgeFacts(
        state=state, head=10 + lag, stored=10, used_bytes=used, cap_bytes=1_000, rate_since_us=1, progress_us=lag
    )
    return SeenEdge(name, node, NOW, facts)


EDGES = [edge("a", lag=5, used=10), edge("b", state=OFFLINE), edge("c", node="gone", lag=7), edge("d", used=900)]
NODES = {"n1": NOW - 1, "gone": NOW - NODE_SILENT_US - 1}


def test_an_edge_of_a_silent_node_is_not_called_connected() -> None:
    assert [state_of(one, NODES, NOW) for one in EDGES] == [CONNECTED, OFFLINE, NODE_LOST, CONNECTED]
    assert state_of(edge("x", node="never seen"), NODES, NOW) == NODE_LOST
    assert totals(EDGES, NODES, NOW) == {"edges": 4, "connected": 2, "node_lost": 1, "behind": 2, "lag_events": 12}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (FleetQuery(), "abcd"),
        (FleetQuery(behind=True), "ac"),
        (FleetQuery(offline=True), "bc"),
        (FleetQuery(behind=True, offline=True), "c"),
        (FleetQuery(sort="lag"), "cabd"),
        (FleetQuery(sort="full"), "dabc"),
        (FleetQuery(sort="progress"), "bdac"),
        (FleetQuery(after=1, most=2), "bc"),
        (FleetQuery(after=9), ""),
    ],
)
def test_pages_are_narrowed_and_sorted(query: FleetQuery, expected: str) -> None:
    rows, _ = page(EDGES, NODES, query, NOW)
    assert "".join(row["id"] for row in rows) == expected


def test_every_part_is_counted_once() -> None:
    facts = EdgeFacts(head=120, gone=(("j0", 4, 6),), past=3)
    stated = {"withheld": 4, "mapped": 1, "dropped": 5, "discarded": 2, "trimmed": 6, "snapshot": 7}
    stated |= {"accepted": 99, "transferred": 99}
    parts = parts_of(73, 3, stated, facts, position=100)
    assert parts == {
        "stored": 73,
        "underway": 20,
        "parked": 3,
        "withheld": 5 + 2,  # two positions were passed over and are not stated yet
        "replaced": 7,
        "dropped": 5,
        "trimmed": 6,
        "discarded": 2,
        "gone": 3,
    }
    assert sum(parts.values()) == 120 + 3 + 3


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("stored", "nothing"),
        ("underway", "nothing"),
        ("withheld", "nothing"),
        ("replaced", "nothing"),
        ("discarded", "nothing"),
        ("parked", "waits"),
        ("dropped", "lost"),
        ("trimmed", "lost"),
        ("gone", "lost"),
    ],
)
def test_the_answer_is_one_word(part: str, answer: str) -> None:
    assert verdict(dict.fromkeys(PARTS, 0) | {part: 1}) == answer
