"""The fleet at one look: every way in which an event can be missing is made to happen, counted, and compared with the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from examples.support.processes import ROOT
from tests.e2e.lines import Relays
from tests.e2e.processes import Service, Stage

KB50 = 50_000


def ask(cloud: Service, *words: str) -> str:
    """`cloud-service …` in words."""
    done = subprocess.run(
        [sys.executable, "-m", "cloud_service", *words, f"--http-port={cloud.http_port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def quick(stage: Stage, name: str, address: str, **settings: object) -> Service:
    return stage.edge(name, cloud=address, heartbeat_s=0.2, summary_interval_s=0.1, **settings)


def parts(cloud: Service, name: str) -> dict[str, int]:
    found = cloud.get(f"/v1/fleet/{name}")["parts"]
    assert isinstance(found, dict)
    return found


def test_each_part_of_what_is_missing_is_counted_as_it_is(stage: Stage, relays: Relays) -> None:
    cloud = stage.cloud(summary_interval_s=0.5, parked_max_events=3).start()
    line = relays.open(cloud)
    edge = quick(
        stage,
        "e1",
        line.address,
        entity_prefix="",
        push_filter='[{"exclude_regex": ["e1/secret.*"]}]',
        on_full="drop_oldest",
        plain_types="Sensor",
        journal_max_bytes=1536 * 1024,
    ).start()
    edge.wait_for("push.started")
    edge.append(4, entity="e1/kept")
    edge.append(3, entity="e1/secret")  # withheld, and the entity stays silent: never stated
    edge.append(2, entity="other/x")  # parked: not ours to write
    edge.append(1, entity="e1/kept")
    cloud.delivered(5)
    row = cloud.get("/v1/parked")["parked"][0]
    status, _ = cloud.ask("POST", f"/v1/parked/{row['id']}/discard", {})
    assert status == 200

    line.obey("refuse")
    edge.wait_for("link.disconnected")
    taken = 0
    while edge.get("/status")["journal"]["dropped"] < 10:
        stored, _ = edge.try_append(1, entity="e1/full", size=KB50)
        taken += stored == 201
        assert taken < 1_000
    mark = edge.mark()
    line.obey("pass")
    edge.wait_for("link.connected", after=mark)
    edge.until("/status", lambda body: body["link"]["acked"] == body["journal"]["head"])
    dropped = edge.get("/status")["journal"]["dropped"]
    acked = edge.get("/status")["link"]["acked"]

    # The second edge is blocked at its quota of parked events; then its disk is destroyed.
    other = quick(stage, "e2", cloud.address, entity_prefix="").start()
    other.append(2, entity="e2/mine")
    cloud.until("/v1/fleet/e2", lambda body: body["stored"] == 2)
    other.append(3, entity="e3/not-mine")
    other.until("/status", lambda body: body["link"]["acked"] == 5)  # else all seven are one batch, and refused
    other.append(4, entity="e3/blocked")
    cloud.until("/v1/fleet/e2", lambda body: body["lag_events"] == 4 and body["stored"] == 5)
    assert parts(cloud, "e2") | {"underway": 0} == {
        "stored": 2, "underway": 0, "parked": 3, "withheld": 0, "replaced": 0, "dropped": 0, "trimmed": 0, "discarded": 0,
        "gone": 0,
    }  # fmt: skip
    other.kill()
    for path in other.folder.rglob("*.db*"):
        path.unlink()
    other.start()
    other.wait_for("push.started", process=other.process.pid, resume="new_journal")
    other.append(1, entity="e2/fresh")
    cloud.until("/v1/fleet/e2", lambda body: body["stored"] == 1 and body["parts"]["stored"] == 3)

    first = cloud.until("/v1/fleet/e1", lambda body: body["lag_events"] == 0 and body["stored"] == acked)
    events = cloud.get("/v1/events?after=0&max=1000")["events"]
    assert first["parts"] == {
        "stored": sum(event["entity_id"].startswith("e1/") for event in events),
        "underway": 0,
        "parked": 1,
        "withheld": 3,
        "replaced": 0,
        "dropped": dropped,
        "trimmed": 0,
        "discarded": 1,
        "gone": 0,
    }
    assert sum(first["parts"].values()) == acked
    assert {one["reason"] for one in first["ranges"]} >= {"dropped", "discarded"}
    second = cloud.get("/v1/fleet/e2")
    assert second["parts"]["gone"] == 4
    assert [one["to_position"] - one["from_position"] for one in second["gone"]] == [3]
    assert (first["is_lost"], second["is_lost"]) == ("lost", "lost")
    whole = cloud.get("/v1/fleet?losses=true")
    assert whole["losses"]["parts"] == {name: first["parts"][name] + second["parts"][name] for name in first["parts"]}
    assert whole["losses"]["parts"]["stored"] == len(events)
    assert whole["losses"]["edges_with_losses"] == ["e1", "e2"]
    assert "events are lost" in ask(cloud, "fleet", "--losses")
    cloud.wait_for("node.summary", after=cloud.mark())
    page = cloud.text("/metrics")
    for part, count in whole["losses"]["parts"].items():
        assert f'backhaul_cloud_fleet_events{{part="{part}"}} {float(count)}\n' in page


def test_what_a_restored_cloud_has_lost_and_an_edge_has_removed_is_trimmed(stage: Stage) -> None:
    cloud = stage.cloud().start()
    edge = quick(stage, "e1", cloud.address, keep_acked_s=0, retention_interval_s=0.05).start()
    edge.append(5)
    edge.until("/status", lambda body: body["link"]["acked"] == 5)
    cloud.stop()
    backup = {path: path.read_bytes() for path in cloud.folder.rglob("*.db*")}
    cloud.start(grpc_port=cloud.grpc_port)
    edge.append(4)
    edge.until("/status", lambda body: body["link"]["acked"] == 9 and body["journal"]["first"] == 10)
    cloud.kill()
    for path in cloud.folder.rglob("*.db*"):
        path.unlink()
    for path, content in backup.items():
        path.write_bytes(content)
    cloud.start()
    edge.append(1)
    found = cloud.until("/v1/fleet/e1", lambda body: body["stored"] == 10 and body["parts"]["stored"] == 6)
    assert found["parts"] == {
        "stored": 6, "underway": 0, "parked": 0, "withheld": 0, "replaced": 0, "dropped": 0, "trimmed": 4, "discarded": 0,
        "gone": 0,
    }  # fmt: skip
    assert found["is_lost"] == "lost"
    assert [(one["entity"], one["from_seq_nr"], one["to_seq_nr"], one["reason"]) for one in found["ranges"]] == [
        ("Sensor|e1/temp1", 6, 9, "trimmed")
    ]
    assert cloud.get("/v1/fleet?losses=true")["losses"]["parts"] == found["parts"]
    assert [event["seq_nr"] for event in cloud.get("/v1/events?after=0")["events"]] == [1, 2, 3, 4, 5, 6]


def test_an_edge_is_shown_from_its_first_connection_over_cuts_and_nodes_that_die(stage: Stage, relays: Relays) -> None:
    cloud = stage.cloud().start()
    line = relays.open(cloud)
    edge = quick(stage, "e1", line.address).start()
    edge.append(3)
    found = cloud.until("/v1/fleet", lambda body: bool(body["edges"]) and body["edges"][0]["used_bytes"] > 0)
    assert found["totals"] == {"edges": 1, "connected": 1, "node_lost": 0, "behind": 0, "lag_events": 0}
    (row,) = found["edges"]
    assert (row["id"], row["state"], row["node"], row["connects"]) == ("e1", "connected", "cloud", 1)
    assert row["cap_bytes"] > row["used_bytes"] > 0
    assert row["free_bytes"] > 0
    assert row["version"]

    line.obey("refuse")
    cloud.until("/v1/fleet?offline=true", lambda body: len(body["edges"]) == 1)
    line.obey("pass")
    cloud.until("/v1/fleet/e1", lambda body: body["state"] == "connected" and body["connects"] == 2)
    answer = cloud.get("/v1/fleet/e1")
    assert [note["what"] for note in answer["timeline"] if note["what"] != "day"] == [
        "connected",
        "disconnected",
        "connected",
    ]
    assert answer["last_end_code"]

    port = cloud.grpc_port
    cloud.kill()
    cloud.start(grpc_port=port)
    cloud.until("/v1/fleet/e1", lambda body: body["connects"] >= 3)
    shown = ask(cloud, "fleet", "show", "e1")
    assert "nothing is lost" in shown
    listed: dict[str, Any] = json.loads(ask(cloud, "fleet", "--sort", "lag", "--json"))
    assert [one["id"] for one in listed["edges"]] == ["e1"]
    assert cloud.ask("GET", "/v1/fleet/none")[0] == 404
    assert cloud.ask("GET", "/v1/fleet?sort=size")[0] == 400
