"""An operator's six questions, each answered by one command and by the logs alone, with the truth beside the answer.

One situation for all: two nodes on one database, an edge that cannot reach its node since a known moment, one that lost
its disk, one whose journal fills, and one of which events are withheld and parked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from examples.support.postgres import Databases
from tests.e2e.lines import open_relays
from tests.e2e.operating.asking import ask, asked
from tests.e2e.operating.test_logs import backhaul, until_summary, up_link, written
from tests.e2e.processes import Service, Stage, open_stage

# The growth of a journal is measured over a minute at least, which a test has not.
SOON = "import common.core.fleet.facts as facts; facts._RATE_MIN_US = 100_000"
RANGES = 4
FULL = 12  # events, over several looks of the node at its edges


@dataclass
class Situation:
    """What has happened, and the services that it happened to."""

    stage: Stage
    folder: Path
    n1: Service
    n2: Service
    cut_us: int = 0
    truth: dict[str, Any] = field(default_factory=dict)

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ask(self.n1, *words, "--json"))
        return found

    def story(self) -> dict[str, Any]:
        """What the lines of all services say."""
        found: dict[str, Any] = json.loads(backhaul("logs", *written(self.stage, self.folder), "--json"))
        return found


def service_of(story: dict[str, Any], instance: str) -> dict[str, Any]:
    (found,) = (one for one in story["services"] if one["instance"] == instance)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def situation(tmp_path_factory: pytest.TempPathFactory, postgres: Databases) -> Iterator[Situation]:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "services").mkdir()
    with postgres.fresh() as url, open_stage(folder / "services") as stage, open_relays() as relays:
        n1, n2 = (
            stage.cloud(name, journal=url, projection_ranges=RANGES, parked_max_events=3) for name in ("n1", "n2")
        )
        for node in (n1, n2):
            node.launch(prologue=SOON)
        for node in (n1, n2):
            node.until_ready()
        it = Situation(stage, folder, n1, n2)
        line = relays.open(n1)
        quick: dict[str, Any] = {"heartbeat_s": 0.2, "summary_interval_s": 2.0, "entity_prefix": ""}

        # "behind" cannot reach its node any more.
        behind = stage.edge("behind", cloud=line.address, **quick).start()
        behind.append(5, entity="behind/a")
        behind.until("/status", lambda body: body["link"]["acked"] == 5)
        n1.until("/v1/fleet/behind", lambda body: body["stored"] == 5)
        it.cut_us = time.time_ns() // 1000
        line.obey("refuse")
        behind.wait_for("link.disconnected")
        behind.append(7, entity="behind/a")
        until_summary(behind, lag_events=7)

        # Of "kept" two events are withheld and one is parked, and then others pass.
        kept = stage.edge("kept", cloud=n2, push_filter='[{"exclude_regex": ["kept/secret.*"]}]', **quick).start()
        kept.append(2, entity="kept/secret")
        kept.append(1, entity="foreign/x")
        kept.append(4, entity="kept/b")
        kept.until("/status", lambda body: body["link"]["acked"] == 7)

        # "burnt" is blocked at its quota of parked events; what waits behind it goes with its disk.
        burnt = stage.edge("burnt", cloud=n1, **quick).start()
        burnt.append(2, entity="burnt/c")
        burnt.until("/status", lambda body: body["link"]["acked"] == 2)
        burnt.append(3, entity="elsewhere/y")
        burnt.until("/status", lambda body: body["link"]["acked"] == 5)  # else all seven are one batch, and refused
        burnt.append(4, entity="elsewhere/z")
        n1.until("/v1/fleet/burnt", lambda body: body["lag_events"] == 4 and body["stored"] == 5)
        until_summary(burnt, lag_events=4)
        burnt.kill()
        for path in burnt.folder.rglob("*.db*"):
            path.unlink()
        burnt.start()
        burnt.wait_for("push.started", process=burnt.process.pid, resume="new_journal")

        # The journal of "full" grows: nothing of it is removed.
        full = stage.edge("full", cloud=n2, journal_max_bytes=8 * 1024 * 1024, **quick).start()
        full.wait_for("push.started")
        for _ in range(FULL):
            full.append(1, entity="full/d", size=100_000)
            time.sleep(0.5)
        n1.until("/v1/fleet/full", lambda body: body["full_in_s"] is not None)
        until_summary(full, acked=FULL)
        it.truth["full"] = full.get("/status")["journal"]

        n1.until(
            "/v1/projections",
            lambda body: (
                {row["node"] for row in body["projections"]} == {"n1", "n2"}
                and not any(row["directed"] for row in body["projections"])
            ),
        )
        yield it


def test_why_is_it_behind(situation: Situation) -> None:
    row = situation.json("fleet", "show", "behind")
    assert (row["state"], row["node"], row["stored"]) == ("offline", "n1", 5)
    assert row["last_end_code"].startswith("link.")
    assert abs(row["since_us"] - situation.cut_us) < 20_000_000

    link = up_link(situation.story(), "behind")
    assert (link["state"], link["lag_events"]) == ("offline", 7)
    assert link["outages"][-1]["until"] is None
    assert link["outages"][-1]["code"].startswith("link.")


def test_which_events_are_not_there(situation: Situation) -> None:
    shown = situation.json("fleet", "show", "kept")
    assert (shown["parts"]["stored"], shown["parts"]["withheld"], shown["parts"]["parked"]) == (4, 2, 1)
    (parked,) = situation.json("parked", "list", "--origin", "kept")["parked"]
    assert (parked["entity_id"], parked["seq_nr"]) == ("foreign/x", 1)
    status, told, _ = asked(situation.n1, "where", "Sensor|kept/secret:1", "--origin=kept", "--json")
    assert (status, json.loads(told)["state"]) == (1, "unknown")  # the cloud does not know what it was never told

    events = up_link(situation.story(), "kept")["events"]
    assert (events["head"], events["parked"], events["underway"]) == (7, 1, 0)
    timeline = backhaul("logs", *written(situation.stage, situation.folder), "--timeline")
    assert "parked Sensor|foreign/x 1: " in timeline


def test_is_anything_lost(situation: Situation) -> None:
    losses = situation.json("fleet", "--losses")["losses"]
    assert losses["parts"] == {
        "stored": 5 + 4 + 2 + FULL, "underway": 0, "parked": 1 + 3, "withheld": 2, "replaced": 0, "dropped": 0, "trimmed": 0,
        "discarded": 0, "gone": 4,
    }  # fmt: skip
    assert (losses["is_lost"], losses["edges_with_losses"]) == ("lost", ["burnt"])
    assert "events are lost" in ask(situation.n1, "fleet", "--losses")

    story = situation.story()
    appended = {"behind": (12, 0), "kept": (7, 0), "burnt": (9, 4), "full": (FULL, 0)}
    for name, (count, gone) in appended.items():
        events = up_link(story, name)["events"]
        assert (events["head"], events["gone_with_disk"]) == (count, gone), name
        assert (events["dropped"], events["lost_by_cloud"]) == (0, 0), name


def test_how_full_is_it_and_when_is_it_full(situation: Situation) -> None:
    rows = situation.json("fleet", "--sort", "full")["edges"]
    (row,) = (row for row in rows if row["id"] == "full")
    truth = situation.truth["full"]
    assert row["cap_bytes"] == truth["cap_bytes"]
    near = truth["wal_bytes"] + 0.2 * truth["cap_bytes"]  # the write-ahead log may have been emptied meanwhile
    assert abs(row["used_bytes"] - truth["used_bytes"]) <= near
    assert row["full_in_s"] >= 0

    told = service_of(situation.story(), "full")
    assert told["cap_bytes"] == truth["cap_bytes"]
    assert abs(told["used_bytes"] - truth["used_bytes"]) <= near
    assert told["full_in_s"] is not None


def test_which_node_runs_what(situation: Situation) -> None:
    rows = situation.n1.get("/v1/projections")["projections"]
    truth = {name: sum(row["node"] == name for row in rows) for name in ("n1", "n2")}
    nodes = {one["node"]: one for one in situation.json("nodes", "list")["nodes"]}
    assert {name: one["ranges"] for name, one in nodes.items()} == truth
    edges = {row["id"]: row["node"] for row in situation.json("fleet")["edges"] if row["state"] == "connected"}
    assert edges == {"burnt": "n1", "kept": "n2", "full": "n2"}

    story = situation.story()
    for name in ("n1", "n2"):
        told = service_of(story, name)
        assert (told["ranges"], told["edges"]) == (truth[name], sorted(e for e, n in edges.items() if n == name))


def test_what_happened_then(situation: Situation) -> None:
    """At 03:00 an operator slept; here it is the moment of the cut."""
    timeline = situation.json("fleet", "show", "behind")["timeline"]
    (end,) = (note for note in timeline if note["what"] == "disconnected")
    assert abs(end["at_us"] - situation.cut_us) < 20_000_000
    since = situation.cut_us / 1e6 - 1
    told = ask(situation.n1, "tail", "--since", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since)))
    stored = [json.loads(line)["entity_id"] for line in told.splitlines()]
    assert "behind/a" not in stored[5:]
    assert stored[-FULL:] == ["full/d"] * FULL

    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    lines = backhaul("logs", *written(situation.stage, situation.folder), "--timeline", "--since", at).splitlines()
    lost = next(line for line in lines if "behind → cloud  lost: link." in line)
    assert lost[:10] == time.strftime("%Y-%m-%d", time.gmtime(situation.cut_us / 1e6))
    assert any("burnt → cloud  push.rebased: new_journal" in line for line in lines)
