"""Streams that an application follows by itself: handlers of every form over them, and what cannot be followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from common.core.addresses import parse_peer
from common.core.errors import ConfigurationError
from common.core.journal.statement import Statement
from common.entity.decisions import Accepted
from common.entity.durable_state import DurableState
from common.journal.stores.journal import Journal
from common.projection.handlers import Event, Handler, OnFailure
from common.runtime.app.application import App, Follow, check_application
from common.runtime.app.context import Running
from common.runtime.environment import Environment
from common.runtime.settings.loading import SettingsConflict
from common.runtime.subscriptions import Subscriptions, all_followed
from common.testing import open_world
from edge_service.settings import EdgeSettings
from tests.support.entities import Add, Added, Counters, Taken

TABLE = "CREATE TABLE total (entity TEXT PRIMARY KEY, value BIGINT NOT NULL)"
UPSERT = "INSERT INTO total VALUES ($1, $2) ON CONFLICT (entity) DO UPDATE SET value = total.value + excluded.value"
CLOUD = App(entities=[Counters])


@dataclass(frozen=True)
class Sum:
    value: int


class Sums(DurableState[Sum]):
    entity_type = "Sum"


def each(event: Event) -> Statement | None:
    return Statement(UPSERT, [(event.entity_id, event.value.by)]) if isinstance(event.value, Added) else None


async def act(running: Running, event: Event) -> None:
    await running.of(Sums).upsert(event.entity_id, Sum(event.envelope.seq_nr))


def edge_app(**changes: Any) -> App:  # noqa: ANN401  fields of Follow
    follows = [
        Follow(stream="Counter", handler=Handler("total", [[TABLE]], each=each), **changes),
        Follow(stream="Counter", name="sums", handler=Handler("sums", act=act)),
    ]
    return App(event_types=[Added, Taken], states=[Sums], follows=follows)


async def test_handlers_run_over_the_clouds_stream_once_whatever_restarts(autojump_clock: MockClock) -> None:
    async with open_world(edge_app=edge_app(), cloud_app=CLOUD) as world:
        edge = world.edges["edge-1"]
        for lap in range(3):
            assert isinstance(await world.cloud.of(Counters).ask("a", Add(5)), Accepted)
            await world.settled()
            assert await edge.query("SELECT value FROM total") == [(5 * (lap + 1),)]
            assert (await edge.of(Sums).get("a")).value == Sum(lap + 1)
            await edge.stop()
            await edge.start()


async def test_the_first_filter_may_name_who_follows(autojump_clock: MockClock) -> None:
    own = [{"exclude_all": True}, {"include_ids": ["Counter|{consumer_id}"]}]
    async with open_world(edge_app=edge_app(criteria=own), cloud_app=CLOUD, edges=("one", "two")) as world:
        for name in ("one", "two", "three"):
            await world.cloud.of(Counters).ask(name, Add(1))
        await world.settled()
        for name, edge in world.edges.items():
            assert await edge.query("SELECT entity FROM total") == [(name,)]
        stored = await world.edges["one"].journal.subscriptions.get("Counter")
        assert stored is not None
        assert stored.requested.criteria == '[{"exclude_all":true},{"include_ids":["Counter|one"]}]'


async def test_a_handler_that_fails_is_tried_again_and_nothing_is_left_out(autojump_clock: MockClock) -> None:
    faults = 2

    async def fails(running: Running, event: Event) -> None:
        nonlocal faults
        if event.envelope.seq_nr == 2 and faults:
            faults -= 1
            raise OSError
        await act(running, event)

    app = App(
        event_types=[Added],
        states=[Sums],
        follows=[Follow(stream="Counter", handler=Handler("sums", act=fails))],
    )
    async with open_world(edge_app=app, cloud_app=CLOUD) as world:
        for _ in range(3):
            await world.cloud.of(Counters).ask("a", Add(5))
        await world.settled()
        assert (await world.edges["edge-1"].of(Sums).get("a")).value == Sum(3)
    assert faults == 0


async def test_a_local_projection_may_act_too(autojump_clock: MockClock) -> None:
    app = App(entities=[Counters], states=[Sums], projections=[Handler("sums", act=act, entity_types=COUNTER)])
    async with open_world(edge_app=app) as world:
        edge = world.edges["edge-1"]
        await edge.of(Counters).ask("a", Add(5))
        await world.settled()
        found = await edge.of(Sums).query()
        assert [one.value for one in found] == [Sum(1)]


COUNTER = frozenset({"Counter"})
INSIDE = Handler("in_transaction", in_transaction=lambda _tables, _event: None)
PARKS = Handler("parks", each=each, on_failure=OnFailure.PARK)


@pytest.mark.parametrize(
    ("follow", "code"),
    [
        ({"handler": INSIDE}, "projection.not_remote"),
        ({"handler": PARKS}, "projection.not_remote"),
        ({"handler": Handler("x", each=each), "criteria": [{"include": 1}]}, "filter.invalid"),
        ({"handler": Handler("x", each=each), "stream": ""}, "entity.invalid_name"),
        ({"handler": Handler("x", each=each), "source": "a:b:c"}, "application.wrong_object"),
        ({"handler": each}, "application.wrong_object"),
        ({"handler": Handler("latest", each=each)}, "application.name_taken"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_the_start(follow: Mapping[str, Any], code: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_application(App(follows=[Follow(**{"stream": "Counter", **follow})]))
    assert refused.value.code == code


def test_two_subscriptions_of_one_name_are_refused() -> None:
    follows = [Follow(stream="Counter", handler=Handler(name, each=each)) for name in ("x", "y")]
    with pytest.raises(ConfigurationError) as refused:
        check_application(App(follows=follows))
    assert refused.value.code == "application.name_taken"


def test_what_is_elsewhere_is_followed_without_tls_only_if_that_is_wanted() -> None:
    follow = Follow(stream="Counter", handler=Handler("x", each=each), source="plant-7:7543")
    settings = EdgeSettings(id="e1", cloud=parse_peer("localhost:7443"))
    with pytest.raises(SettingsConflict) as refused:
        all_followed(settings, [follow], None)
    assert refused.value.code == "settings.plaintext_refused"
    [found] = all_followed(replace(settings, insecure=True), [follow], None)
    assert (found.name, found.stream_id, str(found.address)) == ("Counter", "Counter", "plant-7:7543")


def test_a_subscription_is_the_settings_or_the_applications() -> None:
    settings = EdgeSettings(id="e1", cloud=parse_peer("localhost:7443"), subscriptions=("Counter",))
    with pytest.raises(ConfigurationError) as refused:
        all_followed(settings, edge_app().follows, settings.cloud)
    assert refused.value.code == "application.name_taken"


@pytest.mark.parametrize(("is_shared", "lease_s"), [(True, 15.0), (False, 600.0)])
def test_nothing_is_written_every_few_seconds_for_a_lease_that_no_other_process_can_take(
    is_shared: bool, lease_s: float
) -> None:
    settings = EdgeSettings(id="e1", cloud=parse_peer("localhost:7443"), subscriptions=("Counter",))
    journal = cast(Journal, SimpleNamespace(members=SimpleNamespace(holds_leases=is_shared)))
    subscriptions = Subscriptions(
        journal, settings, cast(Environment, None), consumer_id="e1", owner="e1", default=settings.cloud
    )
    assert subscriptions._settings_of(subscriptions._followed[0]).lease_s == lease_s


async def test_a_cloud_must_say_whom_it_follows(autojump_clock: MockClock) -> None:
    with pytest.raises(ConfigurationError) as refused:
        async with open_world(cloud_app=edge_app()):
            await trio.sleep(1)
    assert refused.value.code == "application.no_source"
