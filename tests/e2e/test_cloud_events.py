"""Events that begin in the cloud: the same door as at an edge, names as they come, next to what edges push."""

from __future__ import annotations

import pytest

from examples.support.postgres import Databases
from tests.e2e.processes import Stage


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_a_cloud_takes_events_of_its_own_beside_those_of_its_edges(
    stage: Stage, postgres: Databases, storage: str
) -> None:
    with postgres.fresh() as url:
        cloud, edge = stage.pair(**({"cloud_journal": url} if storage == "postgres" else {}))
        edge.append(2)
        order = {"entity_type": "WorkOrder", "entity_id": "o1", "event_type": "Placed", "payload": {"site": 7}}
        request = {"events": [{**order, "tags": ["t:site/7"], "expected_seq_nr": 0}], "idempotency_key": "once"}
        assert cloud.ask("POST", "/v1/events", request)[0] == 201
        assert cloud.ask("POST", "/v1/events", request)[0] == 200  # the same answer, stored once
        events = cloud.delivered(3)
        assert sorted((event["entity_type"], event["entity_id"]) for event in events) == [
            ("Sensor", "e1/temp1"),
            ("Sensor", "e1/temp1"),
            ("WorkOrder", "o1"),
        ]
        cloud.until("/v1/latest/WorkOrder/o1", lambda body: body["payload"] == {"site": 7})
        status, refused = cloud.ask("POST", "/v1/events", {**order, "entity_type": "Sensor", "entity_id": "e1/temp1"})
        assert (status, refused["error"]["code"]) == (409, "append.foreign_owner")
        stage.end()
