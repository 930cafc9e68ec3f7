"""An application in both services, as real processes: its projections run, its routes answer, its mistakes are told."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.runtime.cli import main as cli
from edge_service.cli import EDGE
from tests.e2e.processes import PATIENCE_S, Service, Stage

APP = "tests.support.apps.counting:app"


def measure(edge: Service, *values: int, entity: str = "temp1") -> None:
    events = [
        {"entity_type": "Sensor", "entity_id": entity, "event_type": "Measured", "payload": {"value": value}}
        for value in values
    ]
    status, body = edge.ask("POST", "/v1/events", {"events": events})
    assert status == 201, body


def sensors(service: Service, wanted: list[dict[str, Any]]) -> None:
    """Wait until the application's own route shows this."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        found = service.get("/v1/sensors")["sensors"]
        if found == wanted:
            return
        assert time.monotonic() < until_s, found
        time.sleep(0.05)


def test_one_application_runs_at_the_edge_and_in_the_cloud(stage: Stage) -> None:
    cloud, edge = stage.pair(cloud_app=APP, edge_app=APP)
    measure(edge, 3, 9, 4)
    wanted = [{"sensor": "Sensor|e1/temp1", "highest": 9, "way": 11, "unit": "mm"}]
    for service in (edge, cloud):
        assert service.wait_for("application.loaded")["application"] == APP
        sensors(service, wanted)
    edge.stop()
    edge.start()
    measure(edge, 14)
    wanted = [{"sensor": "Sensor|e1/temp1", "highest": 14, "way": 21, "unit": "mm"}]
    for service in (edge, cloud):
        sensors(service, wanted)
    listed = edge.get("/v1/projections")["projections"]
    assert [(row["name"], row["position"]) for row in listed] == [("highest", 4), ("steps", 4)]


def test_an_operator_sees_to_projections_by_command(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge(cloud=cloud, app=APP).start()
    measure(edge, 3, 13, 4)
    measure(edge, 5, entity="temp2")
    edge.wait_for("projection.parked", seq_nr=3)

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(EDGE, ["projections", *words, "--http-port", str(edge.http_port)], {})
        return status, *capsys.readouterr()

    def command(*words: str) -> str:
        status, answer, error = run(*words)
        assert status == 0, error
        return answer

    [first, behind] = edge.get("/v1/projections/highest/parked")["parked"]
    assert (first["position"], first["code"], behind["code"]) == (
        2,
        "projection.handler_failed",
        "projection.parked_behind",
    )
    assert "counting.py:" in first["reason"]
    assert "unlucky" not in first["reason"]
    assert "Measured" in command("parked", "highest")
    assert run("parked", "highest", "--discard", "3")[0] == 1
    command("parked", "highest", "--discard", "2")
    assert "1 events" in command("parked", "highest", "--retry", "Sensor|e1/temp1")
    edge.wait_for("projection.unparked", persistence_id="Sensor|e1/temp1")
    assert edge.get("/v1/projections/highest/parked")["parked"] == []
    command("split", "highest", "--ranges", "4")
    edge.wait_for("projection.ranges_changed", projection="highest")
    measure(edge, 6, entity="temp2")
    sensors(
        edge,
        [
            {"sensor": "Sensor|e1/temp1", "highest": 4, "way": 19, "unit": "mm"},
            {"sensor": "Sensor|e1/temp2", "highest": 6, "way": 1, "unit": "mm"},
        ],
    )
    listed = [row["slices"] for row in edge.get("/v1/projections")["projections"] if row["name"] == "highest"]
    assert listed == ["0-255", "256-511", "512-767", "768-1023"]
    assert run("split", "highest", "--ranges", "2")[0] == 1
    command("merge", "highest", "--ranges", "1")
    assert run("reset", "highest")[0] == 2
    assert "projection.no_reset" in run("reset", "steps", "--yes")[2]
    assert "projection.in_use" in run("forget", "highest")[2]
    command("reset", "highest", "--yes")
    # Not by its log line, which may be a repeat so soon after the one before.
    edge.until("/v1/projections/highest/parked", lambda body: 2 in [row["position"] for row in body["parked"]])
    [lag] = {row["behind"] for row in edge.get("/status")["projections"] if row["name"] == "steps"}
    assert lag == 0


def test_events_are_changed_withheld_and_mapped_on_their_way(stage: Stage) -> None:
    """Values are doubled and negative ones withheld at the edge; the cloud gives sensors their plant's name, and tags."""
    app = "tests.support.apps.transforming"
    cloud = stage.cloud(app=f"{app}:plant_a").start()
    edge = stage.edge(cloud=cloud, app=f"{app}:doubling").start()

    def stored(entity: str) -> list[tuple[int, object, list[str]]]:
        found = cloud.get(f"/v1/events?entity=Sensor%7C{entity}&after_seq_nr=0")["events"]
        return [(event["origin_seq_nr"], event["payload"]["value"], event["tags"]) for event in found]

    def until_acked(position: int) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while edge.get("/status")["link"]["acked"] < position:
            assert time.monotonic() < until_s
            time.sleep(0.05)

    measure(edge, 1, -5, 2)  # -5 is withheld by the edge, 7 (14 when doubled) by the cloud
    measure(edge, 7, 3)
    until_acked(5)
    assert stored("plant-a/e1/temp1") == [(1, 2, ["t:a"]), (3, 4, ["t:a"]), (5, 6, ["t:a"])]
    cloud.stop()
    port = cloud.grpc_port
    cloud.start(app=f"{app}:plant_b", grpc_port=port)  # the mapping changes in the middle
    measure(edge, 4, -1, 5)
    until_acked(8)
    assert stored("plant-a/e1/temp1")[-1] == (5, 6, ["t:a"])
    assert stored("plant-b/e1/temp1") == [(6, 8, ["t:b"]), (8, 10, ["t:b"])]
    cloud.stop()
    cloud.start(app=f"{app}:plant_a", grpc_port=port)  # and back
    measure(edge, 6, 666)  # 1332 is one the cloud's function cannot digest
    measure(edge, 8, entity="temp2")
    until_acked(11)
    assert stored("plant-a/e1/temp1")[-1] == (9, 12, ["t:a"])
    assert stored("plant-a/e1/temp2") == [(1, 16, ["t:a"])]
    [parked] = cloud.get("/v1/parked")["parked"]
    assert (parked["code"], parked["seq_nr"]) == ("transformation.failed", 10)
