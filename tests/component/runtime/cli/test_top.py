"""`top`: frames out of answers, once without a terminal, again and again while a service is away."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from cloud_service.cli import main as cloud_main
from common.core.errors import BackhaulError
from common.runtime.cli.live import top
from common.runtime.cli.live.frames import SAMPLES, Courses, Frame, fleet_edge_frame, fleet_frame, service_frame
from edge_service.cli import main as edge_main
from tests.support.answering import AnsweringService

SECOND = 1_000_000


def edge(name: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  as JSON has them
    return {
        "id": name, "state": "connected", "node": "n1", "head": 100, "received": 90, "stored": 90, "lag_events": 10,
        "lag_bytes": 2000, "lag_s": 1.5, "last_end_code": "", "connects": 1, "used_bytes": 50, "cap_bytes": 100,
        "full_in_s": 7200, **fields,
    }  # fmt: skip


def fleet(*edges: dict[str, Any], **fields: object) -> dict[str, Any]:
    lag = sum(one["lag_events"] for one in edges)
    totals = {"edges": len(edges), "connected": 1, "node_lost": 0, "behind": 1, "lag_events": lag}
    return {"totals": totals, "edges": list(edges), "fitting": len(edges), "next": None, "stale": None, **fields}


def test_the_fleet_shows_lag_with_its_course_and_rates() -> None:
    courses = Courses()
    gone = edge("gone", state="offline", last_end_code="link.lost", lag_events=0)
    fleet_frame(fleet(edge("e1", stored=80), gone), courses, 10 * SECOND)
    frame = fleet_frame(fleet(edge("e1", stored=90, lag_events=40), gone), courses, 12 * SECOND)
    assert frame.title.startswith("2 edges, 1 connected, 1 behind by 40 events")
    first, second = frame.rows
    assert (first["lag_events"], first["events/s"], first["disk"], first["full_in"]) == (40, "5.0", "50%", "2 h")
    assert first["lag_trend"] == "▃█"
    assert (second["last_end"], second["events/s"]) == ("link.lost", "0")
    assert frame.marked == {1}


def test_courses_are_bounded_and_those_of_edges_that_left_are_forgotten() -> None:
    courses = Courses()
    for number in range(3 * SAMPLES):
        fleet_frame(fleet(edge(f"e{number}")), courses, number * SECOND)
    assert len(courses._courses) == 3
    for number in range(3 * SAMPLES):
        fleet_frame(fleet(edge("e")), courses, number * SECOND)
    assert all(len(course._samples) <= SAMPLES for course in courses._courses.values())


def test_one_edge_and_a_service_show_their_figures() -> None:
    frame = fleet_edge_frame(edge("e1", parts={"parked": 3}) | {"last_end_code": "link.lost"}, Courses(), 1)
    assert frame.title == "e1 is connected at n1, 1 times until now, the last end was link.lost"
    assert {row["figure"]: row["now"] for row in frame.rows}["parked"] == 3
    assert frame.notes == ["at this rate its journal is full in 2 h"]

    status = {
        "service": "edge",
        "id": "e1",
        "stale": "the disk is away",
        "journal": {"head": 7, "used_bytes": 30, "cap_bytes": 100, "trimmed": 0},
        "link": {
            "state": "offline",
            "for_s": 3.2,
            "last_code": "link.refused",
            "last_reason": "no",
            "last_hint": "dial",
        },
        "projections": [{"name": "latest", "lag_events": 12, "is_paused": False, "since_us": 5}],
    }
    frame = service_frame(status, Courses(), 1)
    figures = {row["figure"]: row["now"] for row in frame.rows}
    assert figures == {
        "journal head": 7,
        "journal used_bytes": 30,
        "journal cap_bytes": 100,
        "link for_s": 3.2,
        "projections latest lag_events": 12,
    }
    assert frame.title == "edge e1, link offline for 3 s"
    assert frame.notes == [
        "as last known: the disk is away", "link.refused: no dial", "the journal has 30% of its cap",
    ]  # fmt: skip


def test_without_a_terminal_it_prints_once(service: AnsweringService, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("GET", "/v1/fleet", fleet(edge("e1\x1b[2J"), next=1, fitting=7))
    service.answer("GET", "/v1/fleet/e1", edge("e1"))
    service.answer("GET", "/status", {"service": "edge", "id": "e1", "journal": {"head": 7}})
    assert cloud_main(["top", f"--http-port={service.port}"]) == 0
    told = capsys.readouterr().out
    assert "e1\\u001b[2J" in told
    assert "6 more edges (--max)" in told
    assert service.requests[-1][1] == "/v1/fleet?sort=lag&max=30"
    assert cloud_main(["top", "e1", f"--http-port={service.port}"]) == 0
    assert cloud_main(["top", "--this-node", f"--http-port={service.port}"]) == 0
    assert edge_main(["top", f"--http-port={service.port}"]) == 0
    assert "edge e1" in capsys.readouterr().out


def test_without_the_extra_a_terminal_gets_one_look_too(
    service: AnsweringService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answer("GET", "/status", {"service": "edge", "id": "e1"})
    monkeypatch.setitem(sys.modules, "rich.live", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert edge_main(["top", f"--http-port={service.port}"]) == 0
    told = capsys.readouterr()
    assert "edge e1" in told.out
    assert "pip install 'backhaul[cli]'" in told.err


def test_while_the_service_is_away_the_last_look_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Frame | BackhaulError] = [
        Frame("one", [{"a": 1}]),
        BackhaulError("cli.no_answer", "gone"),
        Frame("two", []),
    ]

    def look() -> Frame:
        found = looks.pop(0)
        if isinstance(found, BackhaulError):
            raise found
        return found

    monkeypatch.setattr(time, "sleep", lambda _: None)
    found = top.frames(look, 1)
    assert next(found) == Frame("one", [{"a": 1}])
    assert next(found) == Frame("one  [cli.no_answer: gone]", [{"a": 1}])
    assert next(found) == Frame("two", [])


def test_what_rich_draws_reads_no_markup_and_drives_no_terminal() -> None:
    console = Console(width=80, force_terminal=False, file=io.StringIO())
    console.print(
        top.as_rich(Frame("[bold]t\x1b[1m", [{"id": "[red]x[/red]\x1b", "lag_s": 1}], ["[b]n"], frozenset({0})))
    )
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("[bold]t\\u001b[1m", "[red]x[/red]\\u001b", "[b]n", "lag s"):
        assert text in drawn
