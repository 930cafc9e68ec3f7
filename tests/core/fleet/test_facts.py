"""How facts of an edge go on from look to look, and when they are written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.fleet.facts import (
    CONNECTED,
    OFFLINE,
    QUIET_US,
    EdgeFacts,
    StreamLook,
    connected,
    ended,
    from_json,
    full_in_s,
    is_worth_writing,
    looked_at,
    summary_due,
    to_json,
)
from common.core.fleet.view import SeenEdge, shown
from common.core.flow.messages import EdgeHealth

SECOND = 1_000_000
HOUR = 3600 * SECOND
LOOK = StreamLook(
    7, 5 * SECOND, "resume", "j1", head=10, received=8, stored=4, parked=1, clock_skew_s=0.04, health=None
)


@given(st.builds(EdgeFacts, gone=st.lists(st.tuples(st.text(), st.integers(0, 9), st.integers(0, 9))).map(tuple)))
def test_facts_survive_their_row(facts: EdgeFacts) -> None:
    assert from_json(to_json(facts)) == replace(facts, clock_skew_s=from_json(to_json(facts)).clock_skew_s)


def test_a_row_of_another_version_is_read_as_far_as_it_fits() -> None:
    assert from_json('{"head":5,"stored":"x","of_tomorrow":1}') == EdgeFacts(head=5)


def test_a_connection_counts_and_keeps_what_was_known() -> None:
    facts = connected(EdgeFacts(connects=2, version="1", end_code="link.lost", journal_id="j1"), LOOK)
    assert (facts.state, facts.since_us, facts.connects, facts.lag) == (CONNECTED, LOOK.since_us, 3, 6)
    assert (facts.version, facts.end_code) == ("1", "link.lost")
    over = ended(facts, "link.stalled", "x" * 1000, 9 * SECOND)
    assert (over.state, over.since_us, over.end_code, len(over.end_reason)) == (
        OFFLINE,
        9 * SECOND,
        "link.stalled",
        200,
    )


def test_a_replaced_journal_leaves_behind_what_was_not_stored_of_it() -> None:
    known = EdgeFacts(journal_id="j1", head=10, stored=7)
    new = replace(LOOK, resume="new_journal", journal_id="j2", head=2, stored=0)
    facts = connected(known, new)
    assert facts.gone == (("j1", 8, 10),)
    assert facts.past == 7
    assert connected(replace(known, stored=10), new).gone == ()
    assert connected(known, replace(LOOK, resume="resume")).gone == ()


def test_a_rewound_journal_keeps_what_its_old_branch_has_stored() -> None:
    facts = connected(EdgeFacts(journal_id="j1", head=10, stored=9), replace(LOOK, resume="rewound", stored=6))
    assert (facts.past, facts.gone) == (3, ())


def test_progress_is_when_the_stored_position_has_moved() -> None:
    facts = connected(EdgeFacts(), LOOK)
    assert looked_at(facts, LOOK, 50 * SECOND).progress_us == facts.progress_us
    assert looked_at(facts, replace(LOOK, stored=5), 50 * SECOND).progress_us == 50 * SECOND


def test_a_journal_that_grows_is_full_at_the_rate_of_its_growth() -> None:
    def at(seconds: int, used: int, known: EdgeFacts, cap: int = 10_000, free: int = 100_000) -> EdgeFacts:
        health = EdgeHealth(used_bytes=used, cap_bytes=cap, free_bytes=free, version="1")
        return looked_at(known, replace(LOOK, health=health), seconds * SECOND)

    first = at(1_000, 1_000, EdgeFacts())
    assert full_in_s(first, 1_000 * SECOND) is None
    later = at(1_100, 2_000, first)
    assert full_in_s(later, 1_100 * SECOND) == pytest.approx(800)
    assert full_in_s(at(1_100, 2_000, first, free=500), 1_100 * SECOND) == pytest.approx(50)
    assert full_in_s(at(1_100, 900, first), 1_200 * SECOND) is None, "it shrinks"


def test_what_an_edge_says_of_its_certificate_is_shown_in_days() -> None:
    health = EdgeHealth(version="1", certificate_expires_us=30 * 24 * HOUR)
    facts = looked_at(EdgeFacts(), replace(LOOK, health=health), 1)
    assert from_json(to_json(facts)).certificate_us == 30 * 24 * HOUR
    assert shown(SeenEdge("e1", "n1", 0, facts), {}, 12 * HOUR)["certificate_days"] == 29.5
    assert shown(SeenEdge("e1", "n1", 0, EdgeFacts()), {}, 12 * HOUR)["certificate_days"] is None


def test_a_lag_that_is_over_has_no_age() -> None:
    health = EdgeHealth(head_position=10, lag_us=9 * SECOND, lag_bytes=100, version="1")
    assert looked_at(EdgeFacts(), replace(LOOK, health=health), 1).lag_bytes == 100
    caught_up = looked_at(EdgeFacts(), replace(LOOK, stored=10, health=health), 1)
    assert (caught_up.lag, caught_up.lag_us, caught_up.lag_bytes) == (0, 0, 0)


def test_an_idle_edge_is_written_rarely_and_a_moving_one_at_once() -> None:
    facts = connected(EdgeFacts(), LOOK)
    assert is_worth_writing(EdgeFacts(), facts, 0, 1)
    assert not is_worth_writing(facts, facts, 0, 10 * QUIET_US)
    other = replace(facts, free_bytes=5, clock_skew_s=0.2)
    assert not is_worth_writing(facts, other, 0, QUIET_US - 1)
    assert is_worth_writing(facts, other, 0, QUIET_US)
    assert is_worth_writing(facts, replace(facts, stored=5), 0, 1)


def test_summaries_come_with_the_day_and_with_hours_that_moved() -> None:
    noted = 48 * HOUR
    assert summary_due(noted, EdgeFacts(progress_us=noted + HOUR), noted + HOUR) == "hour"
    assert summary_due(noted, EdgeFacts(progress_us=noted - 1), noted + HOUR) == ""
    assert summary_due(noted, EdgeFacts(), noted + 24 * HOUR) == "day"
    assert summary_due(noted, EdgeFacts(progress_us=noted + 1), noted + HOUR // 2) == ""
