"""The kit for projections and for both services, used as an application does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import trio
import trio.testing

from common.core.errors import BackhaulError, ConfigurationError
from common.core.events.types import EventTypes
from common.core.journal.statement import Statement
from common.entity.decisions import Accepted, Rejected
from common.entity.durable_state import ColumnValue, DurableState, Where
from common.projection.handlers import Event, Handler
from common.runtime.app.application import App, Follow
from common.runtime.app.context import Running
from common.runtime.app.tasks import every
from common.testing import open_world, projecting, run
from tests.support.entities import Add, Added, Counters, Take, Taken

CREATE = "CREATE TABLE total (entity TEXT PRIMARY KEY, value BIGINT NOT NULL)"
UPSERT = "INSERT INTO total VALUES ($1, $2) ON CONFLICT (entity) DO UPDATE SET value = total.value + excluded.value"


def each(event: Event) -> Statement | None:
    match event.value:
        case Added(by, _):
            return Statement(UPSERT, [(event.entity_id, by)])
        case Taken(by):
            return Statement(UPSERT, [(event.entity_id, -by)])
    return None


TOTAL = Handler("total", [[CREATE]], each=each)


@dataclass(frozen=True)
class Note:
    text: str


class Notes(DurableState[Note]):
    entity_type = "Note"
    columns: ClassVar[Mapping[str, str]] = {"text": "TEXT"}

    def column_values(self, value: Note) -> Mapping[str, ColumnValue]:
        return {"text": value.text}


EDGE = App(entities=[Counters], states=[Notes])
CLOUD = App(event_types=[Added, Taken], projections=[TOTAL])


async def test_a_projection_over_given_events(autojump_clock: trio.testing.MockClock) -> None:
    async with projecting(TOTAL, registry=EventTypes([Added, Taken])) as total:
        await total.given("Counter", "a", Added(5), Taken(2))
        await total.given("Counter", "b", Added(1))
        assert await total.rows("SELECT entity, value FROM total ORDER BY entity") == [("a", 3), ("b", 1)]


async def test_a_projection_that_fails_is_told(autojump_clock: trio.testing.MockClock) -> None:
    bad = Handler("bad", [], each=lambda _: Statement("INSERT INTO nowhere VALUES (1)"))
    async with projecting(bad, registry=EventTypes([Added])) as kit:
        with pytest.raises(AssertionError, match=r"projection\.statement_failed"):
            await kit.given("Counter", "a", Added(1))


class TestWorld:
    async def test_what_an_entity_decides_at_an_edge_is_projected_in_the_cloud(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with open_world(edge_app=EDGE, cloud_app=CLOUD, edges=("one", "two")) as world:
            one, two = world.edges["one"], world.edges["two"]
            assert await one.entities.ask("Counter", "a", Add(5)) == Accepted(5, 1, 1)
            assert isinstance(await two.entities.ask("Counter", "a", Take(1)), Rejected)
            await two.entities.ask("Counter", "a", Add(7))
            await world.settled()
            totals = await world.cloud.query("SELECT entity, value FROM total ORDER BY entity")
            assert totals == [("one/a", 5), ("two/a", 7)]

    async def test_an_outage_and_restarts_lose_nothing(self, autojump_clock: trio.testing.MockClock) -> None:
        async with open_world(edge_app=EDGE, cloud_app=CLOUD) as world:
            edge = world.edges["edge-1"]
            await edge.entities.ask("Counter", "a", Add(1))
            await world.settled()
            world.cut("edge-1")
            await edge.entities.ask("Counter", "a", Add(2))
            await trio.sleep(600)
            await edge.stop()
            await edge.start()
            await edge.entities.ask("Counter", "a", Add(4))
            assert await world.cloud.query("SELECT value FROM total") == [(1,)]
            await world.cloud.stop()
            world.mend("edge-1")
            await trio.sleep(60)
            await world.cloud.start()
            await world.settled()
            assert await world.cloud.query("SELECT value FROM total") == [(7,)]

    async def test_durable_state_and_http_without_a_socket(self, autojump_clock: trio.testing.MockClock) -> None:
        async with open_world(edge_app=EDGE) as world:
            edge = world.edges["edge-1"]
            assert await edge.states.upsert("Note", "n", Note("hello")) == 1
            [found] = await edge.states.query("Note", where=[Where("text", "=", "hello")])
            assert (found.entity_id, found.value) == ("n", Note("hello"))
            answer = await edge.http("POST", "/v1/entities/Counter/a/Add", {"by": 2}, Idempotency_Key="k")
            assert (answer.status, answer.json()["reply"]) == (200, 2)
            assert (await edge.http("GET", "/v1/entities/Counter/a")).json() == {"state": {"value": 2}, "seq_nr": 1}
            assert (await edge.http("POST", "/v1/entities/Counter/a/Add", {"by": ""})).status == 400
            assert (await edge.http("GET", "/v1/states/Note?text=hello")).json()["states"][0]["revision"] == 1

    async def test_an_application_that_cannot_run_is_refused_as_a_service_would(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        with pytest.raises(ConfigurationError) as raised:
            async with open_world(edge_app=App(entities=[Counters, Counters])):
                pass
        assert raised.value.code == "application.name_taken"


def test_a_test_may_be_run_without_a_plugin() -> None:
    seen = []

    async def test() -> None:
        await trio.sleep(10_000)
        seen.append(trio.current_time())

    run(test)
    assert seen == [10_000]


def test_a_script_that_tests_prints_what_it_prints_and_nothing_of_the_services() -> None:
    script = """
from common.testing import open_world, run

async def test():
    async with open_world() as world:
        event = {"entity_type": "A", "entity_id": "1", "event_type": "B", "payload": 1}
        print((await world.edges["edge-1"].http("POST", "/v1/events", event)).status)
        print((await world.edges["edge-1"].http("GET", "/v1/nothing")).status)

run(test)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "201\n404\n"
    assert ["http.refused" in line for line in done.stderr.splitlines()] == [True]
    assert "repeat_key" not in done.stderr


def broken(event: Event) -> Statement:
    raise LookupError(f"no shelf for {event.value.by}")


async def awaits_broken(_running: Running) -> None:
    raise LookupError("no scale")


class TestFailures:
    """What does not go on says why, with what the handler raised: in the field a log leaves that out, since it may quote."""

    async def test_a_projection_in_the_kit_of_its_own(self, autojump_clock: trio.testing.MockClock) -> None:
        async with projecting(Handler("shelves", each=broken), registry=EventTypes([Added])) as kit:
            with pytest.raises(AssertionError) as raised:
                await kit.given("Counter", "a", Added(5))
        assert "test_world.broken raised LookupError at " in str(raised.value)
        assert str(raised.value).endswith("[projection.handler_failed]: no shelf for 5")
        assert raised.value.__cause__ is not None
        assert isinstance(raised.value.__cause__.__cause__, LookupError)

    async def test_a_projection_of_a_service(self, autojump_clock: trio.testing.MockClock) -> None:
        cloud = App(event_types=[Added, Taken], projections=[Handler("shelves", each=broken)])
        async with open_world(edge_app=EDGE, cloud_app=cloud) as world:
            await world.edges["edge-1"].entities.ask("Counter", "a", Add(5))
            with pytest.raises(AssertionError) as raised:
                await world.settled(30)
        assert "after 30 s shelves at cloud is at 0 of 1" in str(raised.value)
        assert "shelves at cloud fails: " in str(raised.value)
        assert "no shelf for 5" in str(raised.value)

    async def test_the_handler_of_a_followed_stream_and_a_task(self, autojump_clock: trio.testing.MockClock) -> None:
        edge = App(
            event_types=[Added, Taken],
            follows=[Follow(stream="Counter", handler=Handler("shelves", each=broken))],
            tasks=[every(60, awaits_broken)],
        )
        async with open_world(edge_app=edge, cloud_app=App(entities=[Counters])) as world:
            await world.cloud.entities.ask("Counter", "a", Add(7))
            with pytest.raises(AssertionError) as raised:
                await world.settled(30)
        assert "Counter at edge-1 fails: " in str(raised.value)
        assert "no shelf for 7" in str(raised.value)
        assert "task awaits_broken at edge-1 fails: " in str(raised.value)
        assert "no scale" in str(raised.value)


class TestSettings:
    """Services of the kit run with the settings that a test gives."""

    async def test_settings_hold_as_in_a_file(self, autojump_clock: trio.testing.MockClock) -> None:
        async with open_world(
            edge_app=EDGE,
            cloud_app=CLOUD,
            edges=("one", "two"),
            edge_settings={"entity_prefix": "{edge_id}/hall-", "event_max_bytes": 1024},
            cloud_settings={"projections": "tally"},
        ) as world:
            edge = world.edges["two"]
            await edge.entities.ask("Counter", "a", Add(5))
            await world.settled()
            assert await world.cloud.query("SELECT entity, value FROM total") == [("two/hall-a", 5)]
            assert await world.cloud.query("SELECT count(*) FROM tally") == [(1,)]
            event = {"entity_type": "A", "entity_id": "1", "event_type": "B", "payload": "x" * 2_000}
            assert (await edge.http("POST", "/v1/events", event)).status == 413

    @pytest.mark.parametrize(
        ("given", "code"),
        [
            ({"id": "x"}, "testing.setting"),
            ({"backof_max_s": 1}, "settings.unknown_key"),
            ({"backoff_max_s": "soon"}, "settings.invalid_value"),
        ],
    )
    async def test_what_cannot_be_set_is_refused(self, given: Mapping[str, object], code: str) -> None:
        with pytest.raises(ConfigurationError) as refused:
            async with open_world(edge_settings=given):
                pass
        assert refused.value.code == code


SERIAL = [["CREATE TABLE t (id SERIAL PRIMARY KEY, at TIMESTAMPTZ)"]]


class Numbered(DurableState[Note]):
    entity_type = "Numbered"
    migrations: ClassVar[Sequence[Sequence[str]]] = SERIAL


@pytest.mark.parametrize("side", ["edge_app", "cloud_app"])
@pytest.mark.parametrize(
    "app",
    [
        App(projections=[Handler("p", SERIAL, each=lambda event: None)]),
        App(projections=[Handler("p", each=lambda event: None, reset=["INSERT OR REPLACE INTO t VALUES (1)"])]),
        App(
            follows=[
                Follow(stream="orders", source="elsewhere:7443", handler=Handler("p", SERIAL, each=lambda event: None))
            ]
        ),
        App(migrations=SERIAL),
        App(states=[Numbered]),
    ],
    ids=["projection", "reset", "follow", "application", "state"],
)
async def test_definitions_that_one_database_lacks_are_refused_wherever_they_stand(side: str, app: App) -> None:
    with pytest.raises(BackhaulError) as refused:
        async with open_world(**{side: app}):  # type: ignore[arg-type]
            pass
    assert refused.value.code == "projection.not_portable"
