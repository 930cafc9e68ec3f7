"""The demo itself, on its smallest stage: it holds, it says so in JSON, and it leaves nobody behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples.demo.__main__ import main
from examples.demo.series import EXCERPT
from examples.demo.wall import SECRET

DEMO = [sys.executable, "-m", "examples.demo"]
TIMEOUT_S = 100


def check_account(facts: dict[str, Any], tmp_path: Path) -> None:
    """The last sentence against the truth: the input files and the cloud's database, read without the demo's own code."""
    given = sum(len(path.read_text().splitlines()) - 1 for path in EXCERPT.glob("*.csv"))
    [database] = tmp_path.glob("*/cloud/journal.db")
    with closing(sqlite3.connect(database)) as opened:
        [(rows, distinct)] = opened.execute(
            "SELECT count(*), count(DISTINCT entity.persistence_id || ' ' || event.payload)"
            " FROM event JOIN entity USING (entity_no) WHERE entity.persistence_id LIKE 'Sensor|%'"
        )
    assert rows == distinct  # each once
    numbers = [int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", facts["account"])]
    assert numbers == [given, rows, given - rows], facts["account"]
    # What is said to be gone is named in the line about the disk, and each of it was in the input.
    [lost] = [edge["lost_with_disk"] for edge in facts["edges"] if edge["lost_with_disk"]]
    assert len(lost) == given - rows
    for file, row, content in lost:
        assert (EXCERPT / file).read_text().splitlines()[row] == content


def test_the_demo_holds_and_its_json_has_every_fact_of_the_tables(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--json", "--keep", "--pace", "7"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    facts = json.loads(done.stdout)
    check_account(facts, tmp_path)
    assert facts["holds"] is True
    assert facts["problems"] == []
    a, b, c = facts["edges"]
    for edge in (a, b, c):
        assert edge["given"] == edge["appended"] == 1200
        assert edge["duplicates"] == edge["out_of_order"] == edge["strangers"] == 0
    for edge in (a, b):
        assert edge["in_file"] == edge["in_cloud"] == 1200
    # The lost disk: what is missing had no ack, and is named.
    assert 0 < len(c["missing"]) <= c["unacked_at_loss"]
    assert c["missing"] == c["lost_with_disk"]
    assert c["in_cloud"] == 1200 - len(c["missing"])
    assert facts["cloud_events"] == 3600 - len(c["missing"])
    # The kill: something was un-acked and in flight, and every repeat was answered.
    assert facts["killed_unacked"] > 0
    assert facts["killed_in_flight"]
    assert None not in facts["killed_in_flight"].values()
    # The cut was felt, and made up for.
    assert facts["cut"]["most_events"] > 0
    assert facts["cut"]["dark_s"] >= 4
    assert len(facts["tally"]) == 9
    assert all(line["is_equal"] and line["out_of_order"] == 0 for line in facts["tally"])
    # The way down: each site has its orders and nothing else, and every act showed what it should.
    orders = facts["orders"]
    for site in orders["sites"]:
        assert site["expected"] == site["acked"] + site["in_inbox"] > 0
        assert site["missing"] == site["duplicates"] == site["out_of_order"] == site["foreign"] == 0
    north, widened, _, late = orders["sites"]
    assert north["acked"] > 0
    assert widened["in_inbox"] > 20_000
    assert orders["backfilled_at_kill"] > 0
    assert orders["backfill_left_at_kill"] > 0
    assert late["replaced"] > 0
    assert orders["moved"] > 0
    assert orders["latency_stopped"]["events"] > 0
    assert orders["travelled"] in ([[3, True], [4, False]], [[1, False], [2, False], [3, False], [4, False]])
    wall = facts["wall"]
    assert (wall["at_edge"], wall["in_cloud"], wall["marks"]) == (3, 2, 1)
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.glob("*/cloud/journal.db*"))
    assert any(SECRET.encode() in path.read_bytes() for path in tmp_path.glob("*/edge-a/journal.db*"))
    assert any("push.rebased" in line["what"] for line in facts["story"])


def test_a_signal_ends_every_process_and_leaves_no_files(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as demo:
        assert demo.stdout is not None
        assert "starting one cloud node" in demo.stdout.readline()
        for line in demo.stdout:
            if "three edges are up" in line:
                break
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) == 4
        demo.send_signal(signal.SIGINT)
        _, error = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 128 + signal.SIGINT, error
    assert "every process is ended" in error
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_input_that_cannot_be_replayed_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.csv").write_text("timestamp,value\n")
    assert main(["--data", str(tmp_path)]) == 1
    answer = capsys.readouterr()
    assert answer.err.splitlines() == [
        f"The demo could not be played: {tmp_path} holds 1 CSV files; at least 3 are needed, one for each edge"
    ]
    assert answer.out == ""


def test_ranges_move_when_one_of_three_nodes_is_killed_and_when_it_returns() -> None:
    done = subprocess.run(
        [*DEMO, "--json", "--nodes", "3", "--pace", "7"],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    facts = json.loads(done.stdout)
    assert facts["holds"] is True
    nodes = facts["nodes"]
    assert nodes["node"] == "cloud-3"
    assert 0 < nodes["had"] < nodes["ranges"]
    assert 0 < nodes["has"] < nodes["ranges"]
    story = [(line["who"], line["what"]) for line in facts["story"] if line["kind"] == "act"]
    acts = [what for who, what in story if who == "cloud-3" or "ranges" in what]
    for what, words in zip(acts, ("SIGKILL: it runs", "the others run all", "is started again", "again,"), strict=True):
        assert words in what
    assert any("projection.assigned" in line["what"] for line in facts["story"])
    assert all(line["is_equal"] and line["out_of_order"] == 0 for line in facts["tally"])
