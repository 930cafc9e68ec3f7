"""The push stream between a real endpoint and a real link, over memory pipes and a mock clock: all of it, once, in order."""

from __future__ import annotations

import random
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.journal.memory.log import MemoryLog
from common.journal.stores.log import LogPage
from common.transport.link.departure import leave_links
from common.transport.memory.line import Direction
from tests.support.push import NAMES, PushWorld, append, live_connection, same_story, wait_for_head, whole_log


async def test_a_backlog_arrives_once_and_in_order(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link), world.cloud() as (cloud, _):
        await append(edge, NAMES)
        await wait_for_head(cloud, 500)
        await append(edge, NAMES[:3])
        await wait_for_head(cloud, 503)
        await trio.sleep(1)
        assert link.acked_position == 503
        assert (await whole_log(cloud)).origin_seq_nr == (await whole_log(edge)).seq_nr
        assert same_story(await whole_log(edge), await whole_log(cloud))


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_cuts_at_every_message_lose_and_repeat_nothing(direction: Direction, autojump_clock: MockClock) -> None:
    """The line is cut after the first message, then after the second …, each time with more to push."""
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, _link):
        for messages in range(1, 12):
            line = await live_connection(world.network)
            line.cut_after(direction, messages=messages)
            await append(edge, NAMES)
            await trio.sleep(0.5)
        await wait_for_head(cloud, 500 * 11)
        await trio.sleep(60)
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_an_edge_and_a_cloud_that_restart_go_on_where_they_were(autojump_clock: MockClock) -> None:
    world = PushWorld()
    for _ in range(5):
        async with world.cloud() as (cloud, _endpoint):
            for _ in range(3):
                async with world.edge() as (edge, _link):
                    await append(edge, NAMES)
                    await trio.sleep(0.0107)
    async with world.cloud() as (cloud, _endpoint), world.edge() as (edge, _link):
        await wait_for_head(cloud, 500 * 15)
        await trio.sleep(60)
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_a_held_line_is_left_within_the_timeout_and_resumed(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES)
        await wait_for_head(cloud, 500)
        world.network.connections[-1].hold()
        await append(edge, NAMES)
        await trio.sleep(20)
        assert link.state == "connected"
        await trio.sleep(20)
        assert link.connects == 2
        await wait_for_head(cloud, 1000)
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_a_held_line_is_left_also_when_nothing_is_under_way(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud(), world.edge() as (_edge, link):
        await trio.sleep(100)
        assert link.connects == 1, "heartbeats keep an idle link"
        world.network.connections[-1].hold()
        await trio.sleep(60)
        assert link.connects == 2


async def test_a_slow_line_moves_large_events(autojump_clock: MockClock) -> None:
    """8 kbit/s and events of 100 kB: each takes 100 s, three times the progress timeout."""
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        (await live_connection(world.network)).bytes_per_s = 1000
        await append(edge, NAMES[:5], payload_bytes=100_000)
        await wait_for_head(cloud, 5, at_most_s=1000)
        await trio.sleep(30)
        assert link.connects == 1
        assert link.acked_position == 5


async def test_a_draining_node_is_left_without_loss(autojump_clock: MockClock) -> None:
    """Asked in the middle of a backlog the edge sends nothing more, waits for what is under way, and says what it knows."""
    world = PushWorld(commit_s=0.05)
    async with world.edge() as (edge, link):
        async with world.cloud() as (cloud, endpoint):
            await append(edge, NAMES)
            await wait_for_head(cloud, 50)
            with trio.fail_after(2):
                await endpoint.drain(20.0)
            left_s = trio.current_time()
            await trio.sleep(1)
            head = (await cloud.log.stats()).head_position
            assert link.last_code == "link.drained"
            assert 50 <= link.acked_position == link.sent_position == head < 500
        async with world.cloud() as (cloud, _):
            await wait_for_head(cloud, 500)
            assert 0.5 <= trio.current_time() - left_s <= 21.0, "within the time that the node gave"
            assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_an_edge_that_stops_hears_its_acks_and_ends_the_stream(autojump_clock: MockClock) -> None:
    """In the middle of a backlog: the cloud reads that it left in good order, and it does not dial again."""
    world = PushWorld(commit_s=0.05)
    with structlog.testing.capture_logs() as lines:
        async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
            await append(edge, NAMES)
            await wait_for_head(cloud, 50)
            with trio.fail_after(2):
                await leave_links([link], at_most_s=100)
            head = (await cloud.log.stats()).head_position
            assert 50 <= link.acked_position == link.sent_position == head < 500
            await trio.sleep(60)
            assert (link.connects, link.state, endpoint.streams) == (1, "offline", [])
    assert [line["code"] for line in lines if line["event"] == "push.disconnected"] == ["link.ended"]
    assert [line["event"] for line in lines if line["event"] in ("link.left", "link.disconnected")] == ["link.left"]


async def test_stopping_does_not_wait_for_a_line_that_stands_still_or_is_down(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        async with world.cloud():
            await trio.sleep(5)
            world.network.connections[-1].hold()
            await append(edge, NAMES)
            await trio.sleep(1)
            began_s = trio.current_time()
            await leave_links([link], at_most_s=2)
            assert trio.current_time() - began_s == 2
    async with world.edge() as (_, link):
        await trio.sleep(5)
        began_s = trio.current_time()
        await leave_links([link], at_most_s=2)
        assert trio.current_time() == began_s


async def test_100_cancels_at_random_points_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """Both ends are cancelled again and again while they push; no task, no connection, no event is left over."""
    world = PushWorld(commit_s=0.002)
    chance = random.Random(7)
    appended = 0
    for _ in range(100):
        with trio.move_on_after(chance.uniform(0, 0.03)):
            async with world.cloud(), world.edge() as (edge, _link):
                await append(edge, NAMES[:60])
                appended += 60
                await trio.sleep_forever()
    assert world.network.connections == []
    async with world.cloud() as (cloud, _), world.edge() as (edge, _link):
        head = (await edge.log.stats()).head_position
        await wait_for_head(cloud, head)
        assert head >= appended
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_a_disk_that_takes_no_note_of_acks_does_not_stop_the_push(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise BackhaulError("journal.full", "no room")

    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        monkeypatch.setattr(edge.log, "save_cursor", full)
        with structlog.testing.capture_logs() as logs:
            await append(edge, NAMES)
            await wait_for_head(cloud, 500)
            await trio.sleep(5)
        assert link.connects == 1
        assert "push.cursor_not_saved" in [line["event"] for line in logs]


async def test_an_edge_that_polls_rarely_still_sends_its_heartbeats(autojump_clock: MockClock) -> None:
    world = PushWorld(poll_s=60.0)
    async with world.cloud(), world.edge() as (_edge, link):
        await trio.sleep(300)
        assert link.connects == 1


async def test_what_was_just_committed_is_pushed_without_being_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PushWorld(poll_s=1_000)
    reads = 0
    plain = MemoryLog.read

    async def counted(self: MemoryLog, after: int, **how: Any) -> LogPage:  # noqa: ANN401
        nonlocal reads
        reads += 1
        return await plain(self, after, **how)

    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES[:3])
        await wait_for_head(cloud, 3)
        await trio.sleep(5)
        monkeypatch.setattr(MemoryLog, "read", counted)
        for number in range(20):
            await append(edge, NAMES[: 1 + number % 3])
            await trio.sleep(0.1 * (number % 2))
        await trio.sleep(5)
        assert link.acked_position == edge.log.history.head_position
        assert reads == 0
        monkeypatch.undo()
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_a_commit_larger_than_the_tail_is_read_and_what_follows_is_not_lost(autojump_clock: MockClock) -> None:
    world = PushWorld(poll_s=1_000)
    async with world.cloud() as (cloud, _), world.edge() as (edge, _link):
        for size in (3, 120, 1, 500, 2, 2, 51, 50):
            await append(edge, NAMES[:size])
            await trio.sleep(0.0005)
        await wait_for_head(cloud, 729)
        assert same_story(await whole_log(edge), await whole_log(cloud))
