"""The push stream when one side's log is not what the other knows of it: disks lost or rewound, events dropped unsent."""

from __future__ import annotations

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.journal.memory.journal import open_memory_journal
from common.journal.memory.log import MemoryLog
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.log import JournalStats, TrimLimit
from tests.support.push import LIMITS, NAMES, PushWorld, append, now_us, same_story, wait_for_head, whole_log


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
            assert (await cloud.log.stats()).head_position == 1000
            assert await cloud.origins.forget_superseded("edge-1")


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
        assert await edge.log.trim(TrimLimit(123, 1000, "dropped")) == 123
    async with world.cloud() as (cloud, _), world.edge() as (edge, _link):
        await wait_for_head(cloud, 377)
        await append(edge, NAMES)
        await wait_for_head(cloud, 877)
        assert (await cloud.log.stats()).parked == 0
        (stated,) = await cloud.origins.stored_ranges(NAMES[0])
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
        assert link.parked == 0
        answer = [(line["event"], line["log_level"]) for line in logs if line["event"].startswith("push.peer_")]
        assert answer == [("push.peer_refilled", "warning")]  # nothing is lost, nothing is to be done


async def test_nothing_is_known_as_acknowledged_before_what_is_owed_can_be_asked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention may run at every await of a link's beginning."""
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES)
        await wait_for_head(cloud, 500)
        await trio.sleep(2)
    links, seen = [link], list[bool]()
    look = MemoryLog.stats

    async def stats(self: MemoryLog) -> JournalStats:
        seen.append(links[-1].acked_is_known and links[-1].lanes is None)
        return await look(self)

    world.cloud_disk = MemoryDatabase()
    monkeypatch.setattr(MemoryLog, "stats", stats)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        links.append(link)
        await wait_for_head(cloud, 500)
    assert link.acked_is_known
    assert not any(seen)


async def test_what_neither_the_cloud_nor_the_edge_has_any_more_is_an_error(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, _):
        async with world.cloud() as (cloud, _):
            await append(edge, NAMES)
            await wait_for_head(cloud, 500)
            backup = world.cloud_disk.copy()
            await append(edge, NAMES)
            await wait_for_head(cloud, 1000)
            await trio.sleep(2)
        assert await edge.log.trim(TrimLimit(600, 1000)) == 600
        world.cloud_disk = backup
        with structlog.testing.capture_logs() as logs:
            async with world.cloud() as (cloud, _):
                await wait_for_head(cloud, 900)
        [line] = [line for line in logs if line["event"].startswith("push.peer_")]
        assert (line["event"], line["log_level"], line["lost"]) == ("push.peer_lost_history", "error", 100)


async def test_ranges_of_many_entities_are_stated_in_messages_of_bounded_size(autojump_clock: MockClock) -> None:
    names = [f"Sensor|edge-1/{'n' * 100}{i}" for i in range(12_000)]
    world = PushWorld(message_max_bytes=LIMITS.window_bytes + 100)
    async with open_memory_journal(world.edge_disk, now_us=now_us, new_id=world.ids) as edge:
        await append(edge, names)
        await append(edge, names[:7])
        assert await edge.log.trim(TrimLimit(11_990, 20_000, "dropped")) == 11_990
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await wait_for_head(cloud, 17)
        await append(edge, names[:3])
        await wait_for_head(cloud, 20)
        assert (link.connects, (await cloud.log.stats()).parked) == (1, 0)
        assert [len(await cloud.origins.stored_ranges(names[index])) for index in (0, 11_989, 11_990)] == [1, 1, 0]
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
            patch.setattr(edge.log.head_signal, "raise_to", lambda _: None)
            await append(edge, ["Sensor|a"] * 60)
            assert await edge.log.trim(TrimLimit(70, 1_000, "dropped")) == 70
        await trio.sleep(100)
        assert (await cloud.log.stats()).parked == 0
        assert (await whole_log(cloud)).origin_seq_nr == [*range(1, 26), *range(71, 86)]
