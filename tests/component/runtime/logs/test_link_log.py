"""What the link's log lines count is what this link did."""

from __future__ import annotations

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.journal.memory.state import MemoryDatabase
from tests.support.push import PushWorld, append, live_connection, wait_for_head
from tests.support.subscription.subscriptions import SubscriptionWorld, publish, wait_for_position, wait_until


async def test_a_link_of_a_new_process_does_not_count_what_an_earlier_one_sent(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, _):
        async with world.edge() as (edge, _):
            await append(edge, ["Sensor|a"] * 100)
            await wait_for_head(cloud, 100)
        with capture_logs() as lines:
            async with world.edge() as (edge, state):
                await append(edge, ["Sensor|a"] * 7)
                await wait_for_head(cloud, 107)
                while state.acked_position < 107:  # noqa: ASYNC110 - under a mock clock a look now and then is free
                    await trio.sleep(0.1)
                (await live_connection(world.network)).cut()
                await trio.sleep(1)
    answer = [line["acked_events"] for line in lines if line["event"] == "link.disconnected"]
    assert answer[0] == 7, "107 would be the whole journal"


async def test_a_refusal_for_good_is_told_once_and_then_rarely_until_it_is_over(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer() as (_, state):
        await publish(source, ["Order|1"])
        await wait_for_position(state, 1)
    kept, world.source_disk = world.source_disk, MemoryDatabase()
    with capture_logs() as lines:
        async with world.consumer() as (_, state):
            async with world.source():
                await trio.sleep(5_000)
                refused = [line for line in lines if line["event"].startswith("link.")]
                assert state.last_code == "subscription.other_journal"
                assert state.last_reason.startswith("the place is one in another journal")
                assert "on_diverged = restart" in state.last_hint
                assert (state.state, state.connects) == ("offline", 0)
            world.source_disk = kept
            async with world.source():
                await wait_until(lambda: state.state == "connected")
    assert [line["event"] for line in refused] == ["link.needs_operator"] * 2, "one an hour"
    first, second = refused
    assert (first["code"], first["tries"]) == ("subscription.other_journal", 1)
    assert "on_diverged = restart" in first["hint"]
    assert second["tries"] > 10
    assert [line["event"] for line in lines if line["event"] == "link.connected"] == ["link.connected"]


async def test_an_edge_that_is_offline_says_so_once_and_again_only_after_it_was_back(autojump_clock: MockClock) -> None:
    world = PushWorld()

    def answer() -> list[str]:
        return [line["code"] for line in lines if line["event"] == "link.unreachable"]

    with capture_logs() as lines:
        async with world.edge() as (_, state):
            await trio.sleep(3600)
            assert len(answer()) == 1
            async with world.cloud():
                while state.state != "connected":  # noqa: ASYNC110 - under a mock clock a look now and then is free
                    await trio.sleep(0.1)
            await trio.sleep(3600)
    assert len(answer()) == 2
