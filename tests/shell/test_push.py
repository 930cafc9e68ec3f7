"""The push stream between a real endpoint and a real link, over memory pipes and a mock clock."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.core.append import LocalAppend
from common.core.batch import new_events
from common.core.errors import BackhaulError
from common.core.history import Generation, History, Offset, Resume
from common.core.push_messages import PUSH_PATH, Hello, Start
from common.journal.interface import LogPage, TrimLimit
from common.journal.memory import MemoryDatabase, MemoryJournal, open_memory_journal
from common.transport.codec import encode_from_cloud, encode_from_edge
from common.transport.memory_line import Direction
from common.transport.stream import MessageStream, StreamMethod
from tests.support.push import LIMITS, PushWorld, append, live_connection, now_us, same_story, wait_for_head, whole_log

NAMES = [f"Sensor|edge-1/t{i % 7}" for i in range(500)]


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


async def test_a_newer_session_fences_the_older_one(autojump_clock: MockClock) -> None:
    world = PushWorld()
    disk_copy = MemoryDatabase()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES[:10])
        await wait_for_head(cloud, 10)
        async with world.edge(disk=disk_copy, seed=2) as (_other, _):
            await trio.sleep(1)
            assert link.last_code == "push.fenced"
            assert link.state == "offline"


async def test_a_lost_disk_is_a_new_branch_and_the_old_disk_is_refused(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, _):
        async with world.edge() as (edge, _link):
            await append(edge, NAMES)
            await wait_for_head(cloud, 500)
        new_disk = MemoryDatabase()
        async with world.edge(disk=new_disk) as (edge, _link):
            await append(edge, NAMES)
            await wait_for_head(cloud, 1000)
            log = await whole_log(cloud)
            assert len(log) == 1000
            of_one = [seq for name, seq in zip(log.persistence_id, log.seq_nr, strict=True) if name == NAMES[0]]
            assert of_one == list(range(1, len(of_one) + 1))
        async with world.edge() as (edge, link):
            await append(edge, NAMES[:1])
            await trio.sleep(5)
            assert link.last_code == "push.superseded"
            assert (await cloud.stats()).head_position == 1000
            assert await cloud.forget_superseded("edge-1")


async def test_a_rewound_disk_is_rebased_onto_what_the_cloud_has(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, _):
        async with world.edge() as (edge, _link):
            await append(edge, NAMES[:100])
            await wait_for_head(cloud, 100)
        backup = world.edge_disk.copy()
        async with world.edge() as (edge, _link):
            await append(edge, NAMES[:50])
            await wait_for_head(cloud, 150)
        world.edge_disk = backup
        with structlog.testing.capture_logs() as logs:
            async with world.edge() as (edge, _link):
                await append(edge, NAMES[:30])
                await wait_for_head(cloud, 180)
        assert "push.rebased" in [line["event"] for line in logs]
        log = await whole_log(cloud)
        for name in set(log.persistence_id):
            numbers = [seq for other, seq in zip(log.persistence_id, log.seq_nr, strict=True) if other == name]
            assert numbers == list(range(1, len(numbers) + 1))


async def test_events_dropped_unsent_are_stated_and_nothing_is_parked(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with open_memory_journal(world.edge_disk, now_us=now_us, new_id=world.ids) as edge:
        await append(edge, NAMES)
        assert await edge.trim(TrimLimit(123, 2**62, 1000, "dropped")) == 123
    async with world.cloud() as (cloud, _), world.edge() as (edge, _link):
        await wait_for_head(cloud, 377)
        await append(edge, NAMES)
        await wait_for_head(cloud, 877)
        assert (await cloud.stats()).parked == 0
        (stated,) = await cloud.stored_ranges(NAMES[0])
        assert (stated.stated.from_seq_nr, stated.stated.to_seq_nr, stated.stated.reason) == (1, 18, "dropped")
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_a_cloud_that_lost_history_is_refilled_and_told_of(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        async with world.cloud() as (cloud, _):
            await append(edge, NAMES)
            await wait_for_head(cloud, 500)
            backup = world.cloud_disk.copy()
            await append(edge, NAMES)
            await wait_for_head(cloud, 1000)
            await trio.sleep(2)
        world.cloud_disk = backup
        with structlog.testing.capture_logs() as logs:
            async with world.cloud() as (cloud, _):
                await wait_for_head(cloud, 1000)
                assert same_story(await whole_log(edge), await whole_log(cloud))
        assert "push.peer_lost_history" in [line["event"] for line in logs]
        assert link.parked == 0


async def test_an_event_too_large_for_the_cloud_is_parked_and_the_rest_flows_on(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, ["Sensor|a", "Sensor|b"])
        big = new_events(["Sensor|a"], ["Read"], [b"x" * 300_001])
        await edge.append_group([LocalAppend(big)])
        await append(edge, ["Sensor|a", "Sensor|b"])
        await wait_for_head(cloud, 3)
        await trio.sleep(1)
        assert [row.code for row in await cloud.parked()] == ["events.too_large", "parked.behind"]
        assert link.parked == 2
        assert link.acked_position == 5


async def test_a_full_quota_blocks_this_origin_alone(autojump_clock: MockClock) -> None:
    world = PushWorld().with_endpoint(parked_max=1)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        for _ in range(2):
            await edge.append_group([LocalAppend(new_events(["Sensor|a"], ["Read"], [b"x" * 300_001]))])
        await trio.sleep(60)
        assert link.last_code == "push.blocked"
        assert link.acked_position < 2
        async with world.edge("edge-2", disk=MemoryDatabase()) as (other, _):
            await append(other, ["Sensor|edge-2/a"])
            await wait_for_head(cloud, 1)
        for row in await cloud.parked():
            await cloud.discard_parked(row.id)
        await append(edge, ["Sensor|b"])
        await wait_for_head(cloud, 2)


async def test_a_draining_node_is_left_without_loss(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        async with world.cloud() as (cloud, endpoint):
            await append(edge, NAMES)
            await trio.sleep(0.01)
            with trio.fail_after(5):
                await endpoint.drain(1.0)
            assert link.last_code in ("", "link.drained")
            position = link.acked_position
        async with world.cloud() as (cloud, _):
            await wait_for_head(cloud, 500)
            assert position <= 500
            assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_an_origin_its_certificate_does_not_name_learns_nothing(autojump_clock: MockClock) -> None:
    world = PushWorld().with_endpoint(require_identity=True)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES[:1])
        await trio.sleep(5)
        assert link.last_code == "auth.identity_mismatch"
        assert await cloud.origins() == []


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
        head = (await edge.stats()).head_position
        await wait_for_head(cloud, head)
        assert head >= appended
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_a_peer_that_breaks_the_protocol_is_told_so(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud():
        async with world.network.open_channel(
            "cloud:7443", tls=None, connect_timeout_s=1, message_max_bytes=10_000, user_timeout_s=1
        ) as channel:
            no_journal = Hello("edge-1", "process", History("j\0", (Generation("g", 1),), 2**63 - 1), 0)
            for message, code in [
                (b"\xff\xff", "link.malformed"),
                (b"", "link.malformed"),
                (encode_from_edge(no_journal), "link.protocol"),
            ]:
                async with channel.open_stream("/backhaul.v1.Push/Connect") as stream:
                    await stream.send(message)
                    with pytest.raises(BackhaulError) as refused:
                        await stream.receive()
                    assert refused.value.code == code


async def test_a_peer_that_ends_the_stream_well_is_dialled_again(autojump_clock: MockClock) -> None:
    """A service that is not ours may answer anything: at once, or in the middle of what is sent."""
    world = PushWorld()
    start = Start(1, Offset("world-2", "", 0), Resume.FIRST, "cloud", "g", LIMITS, now_us())

    async def end_after_start(stream: MessageStream) -> None:
        await stream.receive()
        await stream.send(encode_from_cloud(start))
        await stream.receive()

    async def end_at_once(_: MessageStream) -> None:
        pass

    async with world.edge() as (edge, link):
        start = replace(start, stored=replace(start.stored, journal_id=edge.history.journal_id))
        await append(edge, NAMES, payload_bytes=10_000)
        for handler, code in [(end_at_once, "link.not_backhaul"), (end_after_start, "link.ended")]:
            async with world.network.serve(
                {PUSH_PATH: StreamMethod(handler)},
                host="cloud",
                port=7443,
                tls=None,
                message_max_bytes=4_000_000,
                connections_max=9,
            ):
                await trio.sleep(100)
                assert link.last_code == code


async def test_a_disk_that_takes_no_note_of_acks_does_not_stop_the_push(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise BackhaulError("journal.full", "no room")

    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        monkeypatch.setattr(edge, "save_cursor", full)
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


async def test_ranges_of_many_entities_are_stated_in_messages_of_bounded_size(autojump_clock: MockClock) -> None:
    names = [f"Sensor|edge-1/{'n' * 100}{i}" for i in range(12_000)]
    world = PushWorld(message_max_bytes=LIMITS.window_bytes + 100)
    async with open_memory_journal(world.edge_disk, now_us=now_us, new_id=world.ids) as edge:
        await append(edge, names)
        await append(edge, names[:7])
        assert await edge.trim(TrimLimit(11_990, 2**62, 20_000, "dropped")) == 11_990
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await wait_for_head(cloud, 17)
        await append(edge, names[:3])
        await wait_for_head(cloud, 20)
        assert (link.connects, (await cloud.stats()).parked) == (1, 0)
        assert [len(await cloud.stored_ranges(names[index])) for index in (0, 11_989, 11_990)] == [1, 1, 0]
        assert same_story(await whole_log(edge), await whole_log(cloud))


async def test_events_dropped_while_earlier_ones_are_in_flight_park_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stated as dropped reaches the commit together with events of the same entity that were sent before."""
    world = PushWorld(commit_s=5.0, batch_events=10)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, ["Sensor|a"] * 10)
        while link.sent_position < 10:  # noqa: ASYNC110 - under a mock clock a look now and then is free
            await trio.sleep(0.1)
        await append(edge, ["Sensor|a"] * 15)
        await trio.sleep(1)
        with monkeypatch.context() as patch:  # the sender looks only after the trim
            patch.setattr(edge.prompt, "raise_to", lambda _: None)
            await append(edge, ["Sensor|a"] * 60)
            assert await edge.trim(TrimLimit(70, 2**62, 1_000, "dropped")) == 70
        await trio.sleep(100)
        assert (await cloud.stats()).parked == 0
        assert (await whole_log(cloud)).origin_seq_nr == [*range(1, 26), *range(71, 86)]


async def test_what_was_just_committed_is_pushed_without_being_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PushWorld(poll_s=1_000)
    reads = 0
    plain = MemoryJournal.read

    async def counted(self: MemoryJournal, after: int, **how: Any) -> LogPage:  # noqa: ANN401
        nonlocal reads
        reads += 1
        return await plain(self, after, **how)

    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES[:3])
        await wait_for_head(cloud, 3)
        await trio.sleep(5)
        monkeypatch.setattr(MemoryJournal, "read", counted)
        for number in range(20):
            await append(edge, NAMES[: 1 + number % 3])
            await trio.sleep(0.1 * (number % 2))
        await trio.sleep(5)
        assert link.acked_position == edge.history.head_position
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
