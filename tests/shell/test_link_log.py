"""What the link's log lines count is what this link did."""

from __future__ import annotations

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.push import PushWorld, append, live_connection, wait_for_head


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
    told = [line["acked_events"] for line in lines if line["event"] == "link.disconnected"]
    assert told[0] == 7, "107 would be the whole journal"


async def test_an_edge_that_is_offline_says_so_once_and_again_only_after_it_was_back(autojump_clock: MockClock) -> None:
    world = PushWorld()

    def told() -> list[str]:
        return [line["code"] for line in lines if line["event"] == "link.unreachable"]

    with capture_logs() as lines:
        async with world.edge() as (_, state):
            await trio.sleep(3600)
            assert len(told()) == 1
            async with world.cloud():
                while state.state != "connected":  # noqa: ASYNC110 - under a mock clock a look now and then is free
                    await trio.sleep(0.1)
            await trio.sleep(3600)
    assert len(told()) == 2
