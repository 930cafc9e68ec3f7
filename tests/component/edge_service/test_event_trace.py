"""What `where` says of an edge's event is true at the cloud, under filters that withhold, change and are narrowed by the edge."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from trio.testing import MockClock

from common.core.events.batch import EventBatch
from common.core.events.transformations import Transformed
from common.core.filters.past import Past
from common.core.filters.predicates import parse_filter
from common.core.journal.snapshot import NewSnapshot
from common.core.push.filter_transition import EVERYTHING, PushFilter, PushFilterState
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.push.link_state import LinkState
from edge_service.event_trace import EventTrace
from tests.component.transport.push.test_filters import A_AND_B, NOT_B, ONLY_A, RED, ask, settled, stories
from tests.component.transport.push.test_past import NOT_SECRET
from tests.support.push import PushWorld, append


async def answers(edge: Journal, link: LinkState, count: int) -> list[object]:
    """By position: "sent" (and acknowledged), "waits", what withholds it, or "unknown" where it may have gone before that."""
    trace, found = EventTrace(edge, link, None), list[object]()
    for position in range(1, count + 1):
        answer = await trace(position)
        if "withheld" in answer and answer["sent"] is None:
            assert answer["acked"] is None
            found.append("unknown")
        elif "withheld" in answer:
            assert (answer["sent"], answer["acked"]) == (False, False)
            found.append(answer["withheld"]["by"])  # type: ignore[index]
        else:
            found.append("sent" if answer["sent"] and answer["acked"] else "waits")
    return found


async def stored(edge: Journal, cloud: Journal) -> list[bool]:
    """By position: whether the cloud has the event."""
    there = await stories(cloud)
    log = (await edge.log.read(0, max_events=1_000, max_bytes=10**6)).events
    return [seq_nr in there.get(name, []) for name, seq_nr in zip(log.persistence_id, log.seq_nr, strict=True)]


def as_sent(found: Sequence[object]) -> list[bool]:
    return [one == "sent" for one in found]


def are_true(found: Sequence[object], there: Sequence[bool]) -> bool:
    return all(one == "unknown" or (one == "sent") == is_there for one, is_there in zip(found, there, strict=True))


async def test_what_a_filter_withholds_is_neither_sent_nor_acknowledged(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge(own_filter=NOT_B) as (edge, link):
        await cloud.push_filters.ask("edge-*", ONLY_A)
        await endpoint.refresh_filters()
        await trio.sleep(1)
        await append(edge, ["S|a", "S|b", "S|c"])
        await settled(cloud, 3)
        await trio.sleep(5)
        found = await answers(edge, link, 3)
        assert found == ["sent", "push_filter", "requested_filter"]
        assert as_sent(found) == await stored(edge, cloud)
        assert link.withheld == 2


async def test_a_wider_filter_sends_what_was_withheld_and_a_narrower_one_does_not_unsend(
    autojump_clock: MockClock,
) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        for criteria in (ONLY_A, A_AND_B, EVERYTHING, ONLY_A):
            await ask(cloud, endpoint, criteria)
            await append(edge, ["S|a", "S|b", "S|c"] * 2)
            await settled(cloud, edge.log.history.head_position)
            await trio.sleep(5)
            head = edge.log.history.head_position
            found = await answers(edge, link, head)
            assert are_true(found, await stored(edge, cloud))
        # The first of each change came while its backfill was under way, or live right behind it.
        assert link.withheld >= 4


async def test_what_may_have_gone_before_the_last_two_filters_is_not_said_to_be_withheld(
    autojump_clock: MockClock,
) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        for criteria in (EVERYTHING, ONLY_A, A_AND_B):
            await ask(cloud, endpoint, criteria)
            await trio.sleep(5)
            await append(edge, ["S|a", "S|c"])
            await settled(cloud, edge.log.history.head_position)
            await trio.sleep(5)
        found = await answers(edge, link, 6)
        assert found == ["sent", "unknown", "sent", "unknown", "sent", "requested_filter"]
        assert await stored(edge, cloud) == [True, True, True, False, True, False]


async def test_an_event_that_only_its_predecessor_selects_is_sent(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge(own_past=Past.NONE) as (edge, link):
        await ask(cloud, endpoint, RED)
        for tags in ("", "red", "red", "blue", "", "red"):
            await append(edge, ["S|a"], tags=tags)
        await settled(cloud, 6)
        await trio.sleep(5)
        found = await answers(edge, link, 6)
        assert as_sent(found) == await stored(edge, cloud)
        assert link.withheld == 2


async def test_what_came_with_the_past_of_its_entity_was_sent(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge(own_filter=NOT_SECRET) as (edge, link):
        await cloud.push_filters.ask("edge-1", parse_filter(RED).criteria, Past.FULL)
        await endpoint.refresh_filters()
        await trio.sleep(1)
        for tags in ("blue", "secret", "blue", "red", "blue", "blue"):
            await append(edge, ["S|a"], tags=tags)
        await append(edge, ["S|b"], tags="blue")
        await settled(cloud, 7)
        await trio.sleep(5)
        found = await answers(edge, link, 7)
        assert found == ["sent", "push_filter", "sent", "sent", "sent", "requested_filter", "requested_filter"]
        assert as_sent(found) == await stored(edge, cloud)
        trace = EventTrace(edge, link, None)
        assert await trace(3) == {"sent": True, "acked": True, "past_of": 4}
        await append(edge, ["S|a"], tags="red")
        await settled(cloud, 8)
        assert await trace(6) == {"sent": True, "acked": True, "past_of": 7}


async def test_an_event_for_which_a_snapshot_went_was_not_sent_itself(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await cloud.push_filters.ask("edge-1", parse_filter(RED).criteria, Past.SNAPSHOT)
        await endpoint.refresh_filters()
        await trio.sleep(1)
        await append(edge, ["S|a"] * 3, tags="blue")
        await edge.snapshots.put([NewSnapshot("S|a", 2, "State", "json", b"{}")])
        await append(edge, ["S|a"], tags="red")
        await settled(cloud, 4)
        trace = EventTrace(edge, link, None)
        assert await trace(1) == {"sent": False, "acked": False, "past_of": 4, "replaced_by": 2}
        assert await trace(3) == {"sent": True, "acked": True, "past_of": 4}


async def test_what_is_counted_once_is_not_counted_again_on_the_next_link(autojump_clock: MockClock) -> None:
    link = LinkState()
    link.passed(range(1, 11), [2, 3])
    link.passed(range(5, 13), [12])
    link.passed([], [])
    assert (link.withheld, link.withheld_through) == (9, 12)


async def test_before_the_first_link_nothing_is_known_and_what_waits_is_not_sent(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        await append(edge, ["S|a"])
        assert await EventTrace(edge, link, None)(1) == {"sent": None, "acked": None}
        link.acked_is_known = True
        assert await EventTrace(edge, link, None)(1) == {"sent": False, "acked": False}


async def test_what_the_edges_own_code_withholds_is_said(autojump_clock: MockClock) -> None:
    world = PushWorld()

    def keep_a(events: EventBatch) -> Transformed:
        return Transformed(events.select([i for i, name in enumerate(events.persistence_id) if name == "S|a"]))

    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b"])
        trace = EventTrace(edge, LinkState(acked_is_known=True, sent_position=2, acked_position=2), keep_a)
        assert await trace(1) == {"sent": True, "acked": True}
        assert await trace(2) == {"sent": False, "acked": False, "withheld": {"by": "on_push"}}


async def test_what_a_backfill_has_not_come_to_is_not_sent(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b", "S|b"])
        for looked_through, found in ((1, ["sent", "waits", "waits"]), (2, ["sent", "sent", "waits"])):
            place = PushFilterState(
                PushFilter(1, ONLY_A), PushFilter(2), change_position=3, backfill_position=looked_through
            )
            link = LinkState(acked_is_known=True, sent_position=3, acked_position=3, filters=place)
            assert await answers(edge, link, 3) == found


async def test_what_retention_took_is_not_counted_as_withheld(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        await append(edge, ["S|a", "S|b"] * 5)
        await edge.log.trim(TrimLimit(4, 100, "dropped"))
        async with world.cloud() as (cloud, endpoint):
            await ask(cloud, endpoint, ONLY_A)
            await settled(cloud, 10)
            await trio.sleep(5)
            assert await stories(cloud) == {"S|a": [3, 4, 5]}
            assert link.withheld <= 3


async def test_after_a_restart_off_line_the_lag_is_what_the_cloud_lacks(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, _):
        await append(edge, ["S|a"] * 10)
        await settled(cloud, 10)
        await trio.sleep(10)
    async with world.edge() as (edge, link):
        await append(edge, ["S|a"] * 2)
        await trio.sleep(1)
        assert (link.acked_position, link.sent_position, link.acked_is_known) == (10, 10, False)
        assert await EventTrace(edge, link, None)(1) == {"sent": None, "acked": None}


async def test_below_a_snapshot_that_stands_in_the_edge_does_not_claim_that_events_came(
    autojump_clock: MockClock,
) -> None:
    world = PushWorld()
    async with world.edge(snapshots_if_behind=2) as (edge, link):
        await append(edge, ["S|a", "S|b"] * 3)
        await edge.snapshots.put([NewSnapshot("S|a", 2, "State", "json", b"{}")])
        trace = EventTrace(edge, link, None)
        async with world.cloud() as (cloud, _):
            await settled(cloud, 6)
            await trio.sleep(5)
            assert (await stories(cloud))["S|a"] == [2, 3]
            assert await trace(1) == {"sent": None, "acked": None, "replaced_by": 2}
            sent = {"sent": True, "acked": True}
            assert [await trace(position) for position in (2, 3, 4, 5)] == [sent] * 4


async def test_nor_where_only_what_an_entity_has_lost_is_replaced(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        await append(edge, ["S|a", "S|b"] * 4)
        await edge.log.trim(TrimLimit(1, 1_000, "dropped"))
        for name in ("S|a", "S|b"):
            await edge.snapshots.put([NewSnapshot(name, 3, "State", "json", b"{}")])
        trace = EventTrace(edge, link, None)
        async with world.cloud() as (cloud, _):
            await settled(cloud, 8)
            await trio.sleep(5)
            assert await stories(cloud) == {"S|a": [3, 4], "S|b": [1, 2, 3, 4]}
            assert await trace(3) == {"sent": None, "acked": None, "replaced_by": 3}
            assert [await trace(at) for at in (2, 4, 5)] == [{"sent": True, "acked": True}] * 3
