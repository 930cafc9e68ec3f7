"""`backhaul logs`: where lines come from, which are left out, and what is said of wrong words."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.runtime.cli import log_sources, logs
from common.runtime.cli.log_sources import followed, records


def line(second: int, event: str = "link.summary", **fields: object) -> str:
    at = f"2026-01-31T03:00:{second:02}.000000Z"
    return json.dumps({"timestamp": at, "level": "info", "event": event, "service": "edge", "instance": "e1", **fields})


def unheard(is_ours: bool) -> None:
    del is_ours


def test_files_are_merged_by_time_also_packed_ones(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("\n".join([line(3), "noise", line(1), line(5)]))
    (tmp_path / "b.log.gz").write_bytes(gzip.compress("\n".join([line(2), line(4)]).encode()))
    ours: list[bool] = []
    found = records([str(tmp_path / "a.log"), str(tmp_path / "b.log.gz")], ours.append)
    assert [record.at_us // 1_000_000 % 60 for record in found] == [1, 2, 3, 4, 5]
    assert sorted(ours) == [False, True, True, True, True, True]


def test_what_is_held_back_for_the_order_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sources, "REORDER_MAX", 2)
    (tmp_path / "a.log").write_text("\n".join(line(second) for second in (1, 2, 9, 3, 4, 5)))
    ours: list[bool] = []
    source = records([str(tmp_path / "a.log")], ours.append)
    assert next(source).at_us // 1_000_000 % 60 == 1
    assert len(ours) == 3


def test_a_followed_file_may_grow_and_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(line(1) + "\n" + line(2)[:20])
    looks = 0

    def grow(pause_s: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            path.rename(tmp_path / "a.log.1")
        path.write_text(line(3) + "\n" if looks == 2 else line(1) + "\n" + line(2) + "\n")

    source = followed([str(path)], unheard, grow)
    assert [next(source).at_us // 1_000_000 % 60 for _ in range(3)] == [1, 2, 3]


def test_lines_on_standard_input_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(
        [line(1, "link.connected", attempts=1, offline_s=0), "noise", line(9, "link.disconnected", code="link.lost")]
    )
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False))
    assert logs.main(["logs", "--timeline", "--since", "2026-01-31T03:00:00"]) == 0
    said = capsys.readouterr().out
    assert "e1 → cloud  lost: link.lost" in said
    assert "e1 → cloud: offline" in said
    assert "1 other lines were left out" in said


def test_what_a_line_holds_cannot_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text(line(1, "link.disconnected", code="link.lost", reason="\x1b[2Jgone"))
    assert logs.main(["logs", "--timeline", str(tmp_path / "a.log")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_older_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text("\n".join([line(1, "link.connected"), line(9, "link.connected")]))
    assert logs.main(["logs", "--json", "--since", "2026-01-31T03:00:05Z", str(tmp_path / "a.log")]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 1


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["logs", "--since", "soon", "x"], 2, "cli.usage"),
        (["logs", "--nothing"], 2, "cli.usage"),
        (["logs", "/nowhere/a.log"], 1, "cli.file_unreadable"),
        (["logs", "--follow", "-", "/dev/null"], 2, "cli.usage"),
        (["nothing"], 2, "cli.usage"),
    ],
)
def test_wrong_words_have_a_code(words: list[str], status: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.main(words) == status
    assert capsys.readouterr().err.startswith(code)
