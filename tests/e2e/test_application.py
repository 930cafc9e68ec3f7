"""An application in both services, as real processes: its projections run, its routes answer, its mistakes are told."""

from __future__ import annotations

import time
from typing import Any

from tests.e2e.processes import PATIENCE_S, Service, Stage

APP = "tests.support.counting_app:app"


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
