"""Which server a new session may be on, and which open ones must not stay."""

from dataclasses import replace

import pytest

from common.core.journal.server_choice import (
    FoundServer,
    ServerIdentity,
    ServerVerdict,
    are_siblings_closed,
    is_behind,
    judge_server,
    newest_of,
)
from tests.support.builders import history

FIRST = ServerIdentity(7, 1, 5, 1_000)
PROMOTED = ServerIdentity(7, 2, 5, 2_000)
PRIMARY = FoundServer(FIRST, is_in_recovery=False, is_read_only=False, journal_id="j")


@pytest.mark.parametrize(
    ("known", "found", "verdict"),
    [
        (None, PRIMARY, ServerVerdict.SAME),
        (FIRST, PRIMARY, ServerVerdict.SAME),
        (None, replace(PRIMARY, is_in_recovery=True), ServerVerdict.IN_RECOVERY),
        (FIRST, replace(PRIMARY, is_in_recovery=True, is_read_only=True), ServerVerdict.IN_RECOVERY),
        (FIRST, replace(PRIMARY, is_read_only=True), ServerVerdict.READ_ONLY),
        (FIRST, replace(PRIMARY, journal_id="k"), ServerVerdict.ANOTHER_JOURNAL),
        (FIRST, replace(PRIMARY, journal_id=""), ServerVerdict.ANOTHER_JOURNAL),
        (FIRST, replace(PRIMARY, identity=PROMOTED), ServerVerdict.MOVED),
        (PROMOTED, PRIMARY, ServerVerdict.LEFT_BEHIND),
        (FIRST, replace(PRIMARY, identity=replace(FIRST, started_us=1_001)), ServerVerdict.MOVED),
        (PROMOTED, replace(PRIMARY, identity=replace(FIRST, system_identifier=8)), ServerVerdict.MOVED),
        (FIRST, replace(PRIMARY, identity=replace(FIRST, database_oid=6)), ServerVerdict.MOVED),
        # A role that may not know them: nothing is said about what came before.
        (
            ServerIdentity(0, 0, 5, 1),
            replace(PRIMARY, identity=ServerIdentity(0, 0, 5, 2)),
            ServerVerdict.MOVED,
        ),
    ],
)
def test_a_session_is_judged_by_its_server(
    known: ServerIdentity | None, found: FoundServer, verdict: ServerVerdict
) -> None:
    assert judge_server(known, "j" if known else "", found) is verdict
    assert verdict.is_refusal == (verdict not in (ServerVerdict.SAME, ServerVerdict.MOVED))


def test_the_sessions_of_a_node_are_on_one_server() -> None:
    assert are_siblings_closed(ServerVerdict.MOVED, FIRST, PROMOTED)
    assert not are_siblings_closed(ServerVerdict.SAME, FIRST, FIRST)
    # The server that all stand on takes no writes any more: nobody stays.
    assert are_siblings_closed(ServerVerdict.READ_ONLY, FIRST, FIRST)
    # An address that is early, or flaps, says nothing against the server that all stand on.
    assert not are_siblings_closed(ServerVerdict.IN_RECOVERY, FIRST, replace(FIRST, started_us=9))
    assert not are_siblings_closed(ServerVerdict.LEFT_BEHIND, PROMOTED, FIRST)


def test_an_answer_is_behind_when_it_is_behind_both_what_was_known_and_what_is() -> None:
    assert is_behind(history(("g", 1), head=5), history(("g", 1), head=6), 4)
    assert not is_behind(history(("g", 1), head=5), history(("g", 1), head=6), 5)
    # Meanwhile another session has found that the log went back.
    assert not is_behind(history(("g", 1), head=5), history(("g", 1), ("h", 3), head=2), 2)


def test_a_node_that_has_seen_nothing_judges_by_the_newest_timeline_of_one_system() -> None:
    old, new = ServerIdentity(7, 1, 5, 10), ServerIdentity(7, 2, 5, 20)
    assert newest_of([]) is None
    assert newest_of([old, new, old]) == new
    assert newest_of([old, new, ServerIdentity(8, 9, 5, 30)]) is None
    assert judge_server(newest_of([old, new]), "", FoundServer(old, False, False)) is ServerVerdict.LEFT_BEHIND
    assert not judge_server(newest_of([old, new]), "", FoundServer(new, False, False)).is_refusal
