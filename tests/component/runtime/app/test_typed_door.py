"""What does not fit the application's types stays outside, at every door; what is inside anyway says what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.app import App
from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.events.types import VERSION_KEY, named
from common.core.journal.append import LocalAppend
from common.entity.decisions import Accepted, Rejected
from common.projection import parking
from common.projection.handlers import Event, Handler, OnFailure
from common.runtime.app.context import Running
from common.testing import open_world
from common.testing.world import Service
from tests.support.entities import Add, Counters, Take


@named("Read")
@dataclass(frozen=True)
class Read:
    celsius: float


APP = App(entities=[Counters], event_types=[Read])


def event(entity_type: str, event_type: str, payload: object) -> dict[str, object]:
    return {"entity_type": entity_type, "entity_id": "1", "event_type": event_type, "payload": payload}


GOOD = event("Sensor", "Read", {"celsius": 21})
UNFIT = event("Sensor", "Read", {"celsius": "warm"})
DECIDED = event("Counter", "Anything", {})


async def refused(service: Service, body: object) -> tuple[int, str, str, object]:
    answer = await service.http("POST", "/v1/events", body)
    error = answer.json()["error"]
    return answer.status, error["code"], error["message"], error["details"].get("index")


@pytest.mark.parametrize("kind", ["edge", "cloud"])
async def test_raw_events_must_fit(autojump_clock: MockClock, kind: str) -> None:
    async with open_world(edge_app=APP, cloud_app=APP) as world:
        service = world.cloud if kind == "cloud" else world.edges["edge-1"]
        assert (await service.http("POST", "/v1/events", GOOD)).status == 201
        before = (await service.journal.log.stats()).head_position
        status, code, message, index = await refused(service, {"events": [GOOD, UNFIT]})
        assert (status, code, index) == (400, "events.unfit", 1)
        assert "field 'celsius' must be a number" in message
        assert (await refused(service, DECIDED))[:2] == (409, "events.decided_here")
        assert (await refused(service, {**UNFIT, "payload": [1]}))[1] == "events.unfit"
        as_bytes = {name: value for name, value in UNFIT.items() if name != "payload"}
        assert (await refused(service, {**as_bytes, "payload_base64": "AAE="}))[1] == "events.unfit"
        newer = {**GOOD, "metadata": {VERSION_KEY: "9"}}
        assert (await refused(service, newer))[1] == "events.unfit"
        with pytest.raises(BackhaulError) as over_grpc:
            await service.running.intake.append(LocalAppend(new_events(["Sensor|1"], ["Read"], [b"7"], codec=["json"])))
        assert over_grpc.value.code == "events.unfit"
        snapshot = {"seq_nr": 1, "event_type": "S", "payload": 1}
        answer = await service.http("PUT", "/v1/snapshots/Counter/1", snapshot)
        assert (answer.status, answer.json()["error"]["code"]) == (409, "events.decided_here")
        assert (await service.journal.log.stats()).head_position == before
        # Other types are free, and the entity goes on.
        assert (await service.http("POST", "/v1/events", event("Sensor", "Else", [1]))).status == 201
        assert await service.of(Counters).ask("1", Add(5)) == Accepted(5, 1, 1)


async def test_what_comes_from_outside_anyway_is_parked_with_its_reason(autojump_clock: MockClock) -> None:
    """An edge without the application pushes what the cloud's types do not take."""

    def ignore(_: Event) -> None:
        return None

    app = App(event_types=[Read], projections=[Handler("p", each=ignore, on_failure=OnFailure.PARK, attempts=2)])
    with structlog.testing.capture_logs() as lines:
        async with open_world(cloud_app=app) as world:
            assert (await world.edges["edge-1"].http("POST", "/v1/events", UNFIT)).status == 201
            await world.settled()
            answer = await world.cloud.http("GET", "/v1/projections/p/parked")
    [row] = answer.json()["parked"]
    assert row["code"] == "types.unreadable"
    assert "field 'celsius' must be a number" in row["reason"]
    failed = next(line for line in lines if line["event"] == "projection.failed")
    assert failed["code"] == "types.unreadable"
    assert "field 'celsius' must be a number" in failed["reason"]
    assert "mend the handler" not in str(lines)


@pytest.mark.parametrize("raises", [None, True, False])
async def test_a_rejected_ask_within_act_raises_unless_asked_otherwise(
    autojump_clock: MockClock, raises: bool | None
) -> None:
    answers: list[object] = []

    async def take(running: Running, event: Event) -> None:
        answers.append(await running.of(Counters).ask("1", Take(1), raises=raises))

    handler = Handler("p", act=take, on_failure=OnFailure.PARK, attempts=2, entity_types=frozenset({"Sensor"}))
    async with open_world(cloud_app=App(entities=[Counters], event_types=[Read], projections=[handler])) as world:
        assert isinstance(await world.cloud.of(Counters).ask("1", Take(1)), Rejected)
        await world.cloud.http("POST", "/v1/events", GOOD)
        await world.settled()
        rows = await parking.parked_events(world.cloud.journal.projections, "p")
    if raises is False:
        assert [type(answer) for answer in answers] == [Rejected]
        assert rows == []
    else:
        [row] = rows
        assert row.code == "projection.handler_failed"
        assert "entity.rejected" in row.reason
        assert answers == []


async def listed(service: Service) -> dict[str, Any]:
    """The projection `p` in the list."""
    answer = (await service.http("GET", "/v1/projections")).json()["projections"]
    found: dict[str, Any] = next(one for one in answer if one["name"] == "p")
    return found


async def test_a_list_of_projections_says_what_fails_and_an_operator_skips_it(autojump_clock: MockClock) -> None:
    def ignore(_: Event) -> None:
        return None

    app = App(event_types=[Read], projections=[Handler("p", each=ignore)])
    async with open_world(cloud_app=app) as world:
        cloud = world.cloud
        assert (await world.edges["edge-1"].http("POST", "/v1/events", UNFIT)).status == 201
        await trio.sleep(20)
        failing = await listed(cloud)
        assert (failing["state"], failing["error_code"]) == ("failing", "types.unreadable")
        assert "field 'celsius' must be a number" in failing["error"]
        refused = await cloud.http("POST", "/v1/projections/p/skip", {"position": "1"})
        assert (refused.status, refused.json()["error"]["code"]) == (400, "http.invalid_request")
        skipped = await cloud.http("POST", "/v1/projections/p/skip", {"position": failing["position"] + 1})
        assert skipped.json()["event"]["event_type"] == "Read"
        await world.settled()
        live = await listed(cloud)
        assert (live["state"], live["error_code"], live["error"], live["skipped"]) == ("live", None, None, 1)


async def test_an_operator_has_an_entity_go_on_over_http(autojump_clock: MockClock) -> None:
    plain = App(event_types=[Read])
    poison = event("Counter", "Added", {"by": "many"})
    async with open_world(edge_app=plain, cloud_app=App(entities=[Counters])) as world:
        cloud = world.cloud
        assert (await world.edges["edge-1"].http("POST", "/v1/events", poison)).status == 201
        await world.settled()
        name = "Counter|edge-1/1"
        failing = (await cloud.http("GET", "/v1/entities/Counter/edge-1/1")).json()["error"]
        assert (failing["code"], failing["details"]["seq_nr"]) == ("types.unreadable", 1)
        place = {"entity": name, "seq_nr": 1}
        assert (await cloud.http("POST", "/v1/mends/skip", place | {"seq_nr": 9})).json()["error"]["code"] == (
            "entity.no_such_event"
        )
        unfit = await cloud.http("POST", "/v1/mends/replace", place | {"event_type": "Added", "payload": {"by": "x"}})
        assert (unfit.status, unfit.json()["error"]["code"]) == (400, "events.unfit")
        assert (await cloud.http("POST", "/v1/mends/skip", place | {"entity": "Else|1"})).status == 404
        good = await cloud.http("POST", "/v1/mends/replace", place | {"event_type": "Added", "payload": {"by": 7}})
        assert good.status == 200
        assert (await cloud.http("GET", "/v1/entities/Counter/edge-1/1")).json()["state"]["value"] == 7
        assert (await cloud.http("POST", "/v1/mends/skip", place)).status == 200
