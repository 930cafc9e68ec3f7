"""The push stream when one side refuses: events, origins, sessions and peers that break the protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.core.journal.history import Generation, History, Offset, Resume
from common.core.push.messages import PUSH_PATH, Hello, Start
from common.journal.memory.journal import MemoryDatabase
from common.transport.codec.push import encode_from_cloud, encode_from_edge
from common.transport.stream import MessageStream, StreamMethod
from tests.support.push import LIMITS, NAMES, PushWorld, append, now_us, wait_for_head


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


async def test_an_origin_its_certificate_does_not_name_learns_nothing(autojump_clock: MockClock) -> None:
    world = PushWorld().with_endpoint(require_identity=True)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES[:1])
        await trio.sleep(5)
        assert link.last_code == "auth.identity_mismatch"
        assert await cloud.origins() == []


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
