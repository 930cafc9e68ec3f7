"""What the demo says: log lines stand apart from the story, and its last sentence accounts for every reading."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.demo.outcome import Orders, Outcome, StoryLine
from examples.demo.proof import EdgeFinding
from examples.demo.series import Reading
from examples.demo.service_lines import answer
from examples.demo.show import EdgeProgress, PlainShow
from examples.demo.wall import WallFinding

WHOLE = EdgeFinding(
    edge_id="edge-a",
    given=1_200,
    appended=1_200,
    in_file=1_200,
    in_cloud=1_200,
    missing=(),
    lost_with_disk=(),
    unacked_at_loss=0,
    duplicates=0,
    out_of_order=0,
    strangers=0,
    problems=(),
)


def outcome(lost: int) -> Outcome:
    """Three edges, one of which lost so many readings with its disk."""
    gone = tuple(Reading("a.csv", row, "x,1") for row in range(1, lost + 1))
    return Outcome(
        edges=(WHOLE, WHOLE, replace(WHOLE, in_cloud=1_200 - lost, missing=gone, lost_with_disk=gone)),
        latencies={},
        latency_of_all=None,
        cut=None,
        killed_unacked=1,
        killed_in_flight={},
        acked_at_loss=1,
        tally=(),
        cloud_events=3_600 - lost,
        orders=Orders((), 0, 0, 0, 0, 0.0, None, None),
        wall=WallFinding("edge-a", 3, 2, 1, ()),
        nodes=None,
        seconds=1.0,
        story=(),
        problems=(),
    )


@pytest.mark.parametrize(
    ("lost", "account"),
    [
        (0, "Of 3,600 readings all are in the cloud, each once and in order."),
        (
            1,
            "Of 3,600 readings 3,599 are in the cloud, each once and in order; "
            "1 was only on the disk that we destroyed, named above.",
        ),
        (
            24,
            "Of 3,600 readings 3,576 are in the cloud, each once and in order; "
            "24 were only on the disk that we destroyed, named above.",
        ),
    ],
)
def test_the_last_sentence_accounts_for_every_reading(lost: int, account: str) -> None:
    assert outcome(lost).account == account


def test_an_outcome_that_does_not_hold_accounts_for_nothing() -> None:
    assert replace(outcome(24), problems=("something",)).as_json()["account"] == ""


def test_log_lines_stand_apart_from_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    show = PlainShow()
    show.tell(StoryLine(11.8, "edge-a", "its line is reset", "act"))
    show.tell(StoryLine(11.9, "edge-a", "link.disconnected  link.lost", "log"))
    show.tell(StoryLine(12.0, "cloud", "push.rebased  edge-c", "alarm"))
    assert capsys.readouterr().out.splitlines() == [
        "  11.8 s  edge-a   its line is reset",
        "                    │ edge-a: link.disconnected  link.lost",
        "                    │ ! cloud: push.rebased  edge-c",
    ]


def test_progress_is_shown_only_when_there_is_some(capsys: pytest.CaptureFixture[str]) -> None:
    show = PlainShow()
    for _ in range(40):
        show.progress([EdgeProgress("edge-a", "connected", 1_200, 1_200, 3)])
    assert capsys.readouterr().out == f"{'':20}… edge-a 1,200 of 1,200 stored, connected, 3 to send\n"


def test_what_the_demo_itself_asks_for_is_no_part_of_the_story() -> None:
    assert answer({"event": "audit.action", "level": "warning", "who": "127.0.0.1"}, with_nodes=False) is None
    assert answer({"event": "parked.gap", "level": "warning", "entity": "A|1"}, with_nodes=False) is not None
