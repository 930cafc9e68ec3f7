"""The demo's proof of the wall: what it finds wrong."""

from __future__ import annotations

from examples.demo.wall import SECRET, WalledEvent, examine_wall

AT_EDGE = [WalledEvent(1, b"opened", False), WalledEvent(2, SECRET.encode(), False), WalledEvent(3, b"closed", False)]
IN_CLOUD = [AT_EDGE[0], WalledEvent(2, b"", True), AT_EDGE[2]]


def test_a_wall_holds_where_a_mark_without_content_stands_for_what_it_keeps_back() -> None:
    finding = examine_wall("edge-a", AT_EDGE, IN_CLOUD)
    assert (finding.at_edge, finding.in_cloud, finding.marks, finding.problems) == (3, 2, 1, ())


def test_what_leaks_is_missing_or_was_never_written_is_found() -> None:
    for at_edge, in_cloud in (
        (AT_EDGE, AT_EDGE),
        (AT_EDGE, [AT_EDGE[0], WalledEvent(2, SECRET.encode(), True), AT_EDGE[2]]),
        (AT_EDGE, IN_CLOUD[:2]),
        (AT_EDGE, []),
        ([], []),
    ):
        assert examine_wall("edge-a", at_edge, in_cloud).problems
