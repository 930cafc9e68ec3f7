"""The push stream when one side refuses: events, origins, sessions and peers that break the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

import common.transport.memory.network
from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events
from common.core.filters.predicates import parse_filter
from common.core.flow.messages import Heartbeat
from common.core.journal.append import LocalAppend
from common.core.journal.history import Generation, History, Offset, Resume, ResumeDecision
from common.core.push.messages import PROTOCOL_VERSION, PUSH_PATH, Ack, Hello, PushBatch, Start
from common.journal.memory.push_filters import MemoryPushFilters
from common.journal.memory.state import MemoryDatabase
from common.transport.codec.push import decode_from_cloud, encode_from_cloud, encode_from_edge
from common.transport.stream import DialledStream, MessageStream, PeerGone, PeerRefused, StreamMethod
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
        await edge.log.append_group([LocalAppend(big)])
        await append(edge, ["Sensor|a", "Sensor|b"])
        await wait_for_head(cloud, 3)
        await trio.sleep(1)
        assert [row.code for row in await cloud.parked.rows()] == ["events.too_large", "parked.behind"]
        assert link.parked == 2
        assert link.acked_position == 5


async def test_a_full_quota_blocks_this_origin_alone(autojump_clock: MockClock) -> None:
    world = PushWorld().with_endpoint(parked_max=1)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        for _ in range(2):
            await edge.log.append_group([LocalAppend(new_events(["Sensor|a"], ["Read"], [b"x" * 300_001]))])
        await trio.sleep(60)
        assert link.last_code == "push.blocked"
        assert link.acked_position < 2
        async with world.edge("edge-2", disk=MemoryDatabase()) as (other, _):
            await append(other, ["Sensor|edge-2/a"])
            await wait_for_head(cloud, 1)
        for row in await cloud.parked.rows():
            await cloud.parked.discard(row.id)
        await append(edge, ["Sensor|b"])
        await wait_for_head(cloud, 2)


async def test_an_origin_its_certificate_does_not_name_learns_nothing(autojump_clock: MockClock) -> None:
    world = PushWorld().with_endpoint(require_identity=True)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await append(edge, NAMES[:1])
        await trio.sleep(5)
        assert link.last_code == "auth.identity_mismatch"
        assert await cloud.origins.rows() == []


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
        start = replace(start, stored=replace(start.stored, journal_id=edge.log.history.journal_id))
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


@asynccontextmanager
async def dialled(world: PushWorld) -> AsyncIterator[DialledStream]:
    """A stream to the cloud, spoken by hand. What the cloud should end, and does not, ends here, by the mock clock."""
    with trio.fail_after(1_000):
        async with (
            world.network.open_channel("cloud:7443", connect_timeout_s=1, message_max_bytes=10_000) as channel,
            channel.open_stream(PUSH_PATH) as stream,
        ):
            yield stream


@asynccontextmanager
async def answered(world: PushWorld, handler: Callable[[MessageStream], Awaitable[None]]) -> AsyncIterator[None]:
    """A cloud that answers by hand."""
    async with world.network.serve(
        {PUSH_PATH: StreamMethod(handler)}, host="cloud", port=7443, message_max_bytes=4_000_000, connections_max=9
    ):
        yield


def hello() -> bytes:
    return encode_from_edge(Hello("edge-1", "process", History("j", (Generation("g", 1),), 0), 0))


def start(journal_id: str) -> bytes:
    return encode_from_cloud(Start(1, Offset(journal_id, "", 0), Resume.FIRST, "cloud", "g", LIMITS, now_us()))


async def test_a_second_hello_is_refused(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud(), dialled(world) as stream:
        await stream.send(hello())
        assert isinstance(decode_from_cloud(await stream.receive()), Start)
        await stream.send(hello())
        with pytest.raises(BackhaulError) as refused:
            await stream.receive()
        assert refused.value.code == "link.protocol"


async def test_a_second_start_is_refused(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):

        async def start_twice(stream: MessageStream) -> None:
            await stream.receive()
            for _ in range(2):
                await stream.send(start(edge.log.history.journal_id))
            await trio.sleep_forever()

        async with answered(world, start_twice):
            await trio.sleep(10)
            assert link.last_code == "link.protocol"


async def test_an_edge_that_says_no_hello_is_left(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud(), dialled(world) as stream:
        began_s = trio.current_time()
        with pytest.raises(BackhaulError) as refused:
            await stream.receive()
        assert refused.value.code == "link.timeout"
        assert trio.current_time() - began_s == pytest.approx(10.0)


async def test_a_cloud_that_does_not_answer_hello_is_left(autojump_clock: MockClock) -> None:
    world = PushWorld()

    async def be_silent(_: MessageStream) -> None:
        await trio.sleep_forever()

    async with world.edge() as (_, link), answered(world, be_silent):
        await trio.sleep(50)
        assert link.last_code == "link.timeout"


async def test_a_silent_edge_is_dropped_without_a_word_on_its_line(autojump_clock: MockClock) -> None:
    """A refusal, or a close, would wait in the buffers of a line that takes nothing."""
    world = PushWorld()
    async with world.cloud(), dialled(world) as stream:
        await stream.send(hello())
        await stream.receive()
        began_s = trio.current_time()
        with pytest.raises(PeerGone) as gone, trio.fail_after(600):
            await hear_only(stream)  # heartbeats
        assert gone.value.code == "link.aborted"
        assert 30.0 <= trio.current_time() - began_s <= 40.0


async def speak_only(stream: DialledStream) -> NoReturn:
    while True:
        await stream.send(encode_from_edge(Heartbeat(0, now_us())))
        await trio.sleep(1)


async def hear_only(stream: DialledStream) -> NoReturn:
    while True:
        await stream.receive()


async def test_an_edge_that_does_not_read_is_dropped_though_it_speaks(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.transport.memory.network, "WINDOW_BYTES", 200)
    world = PushWorld()
    async with world.cloud(), dialled(world) as stream:
        await stream.send(hello())
        with pytest.raises(PeerGone) as gone, trio.fail_after(600):
            await speak_only(stream)
        assert gone.value.code == "link.aborted"


async def test_a_silent_cloud_is_dropped_without_a_word_on_its_line(autojump_clock: MockClock) -> None:
    world = PushWorld()
    ends: list[str] = []
    async with world.edge() as (edge, _):

        async def start_and_be_silent(stream: MessageStream) -> None:
            await stream.receive()
            await stream.send(start(edge.log.history.journal_id))
            try:
                await trio.sleep_forever()
            finally:
                ends.append(stream.fault.code if stream.fault else "")

        async with answered(world, start_and_be_silent):
            await trio.sleep(50)
            assert ends == ["link.aborted"]


async def test_an_edge_that_speaks_another_protocol_is_refused(autojump_clock: MockClock) -> None:
    world = PushWorld()
    other = Hello("edge-1", "process", History("j", (Generation("g", 1),), 0), 0, protocol_version=PROTOCOL_VERSION + 1)
    async with world.cloud(), dialled(world) as stream:
        await stream.send(encode_from_edge(other))
        with pytest.raises(BackhaulError) as refused:
            await stream.receive()
        assert refused.value.code == "push.version"


async def test_a_journal_that_takes_nothing_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    """The edge is told to dial again, and later than it would by itself."""
    world = PushWorld(commit_s=100.0)
    async with world.cloud(), dialled(world) as stream:
        await stream.send(hello())
        with trio.fail_after(600):
            assert isinstance(decode_from_cloud(await stream.receive()), Start)
            began_s = trio.current_time()
            await stream.send(encode_from_edge(PushBatch(0, 1, "g", EventBatch())))
            with pytest.raises(PeerRefused) as refused:
                await hear_only(stream)
        assert (refused.value.code, refused.value.retry_after_s) == ("journal.unavailable", 5.0)
        assert trio.current_time() - began_s == pytest.approx(30.0)


async def test_a_change_of_filter_that_the_journal_does_not_take_is_not_waited_for_for_ever(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes_nothing(*_: object) -> None:
        await trio.sleep_forever()

    world = PushWorld()
    monkeypatch.setattr(MemoryPushFilters, "change", takes_nothing)
    async with world.cloud() as (cloud, _), world.edge() as (_, link):
        await cloud.push_filters.ask("edge-*", parse_filter(b'[{"exclude_all": true}]').criteria)
        with trio.fail_after(600):
            while link.last_code != "journal.unavailable":  # noqa: ASYNC110 - the clock is a mock
                await trio.sleep(1)
        assert "did not take a change of filter within 30 s" in link.last_reason


async def test_an_edge_that_ignores_its_window_is_not_read_on(autojump_clock: MockClock) -> None:
    """What is received and not stored is bounded by the cloud, whatever the edge sends."""
    each, count = 50, 100
    world = PushWorld(commit_s=20.0)
    async with world.cloud() as (_, endpoint), trio.open_nursery() as nursery, dialled(world) as stream:
        await stream.send(hello())
        assert isinstance(decode_from_cloud(await stream.receive()), Start)
        began_s = trio.current_time()

        async def send_on() -> None:
            for number in range(count):
                await stream.send(encode_from_edge(batch_of(each, number * each)))

        nursery.start_soon(send_on)
        await trio.sleep(15)
        [live] = endpoint.streams
        # Two appends are under way, of a window each at most; a window waits, and the batch that overflowed it.
        assert 0 < live.received_position <= 3 * LIMITS.window_events + each
        assert trio.current_time() - began_s < 20, "nothing is stored yet"
        nursery.cancel_scope.cancel()


def batch_of(n: int, after: int) -> PushBatch:
    """``n`` events behind a position, each the next one of one entity."""
    batch = new_events(["Sensor|edge-1/t"] * n, ["Read"] * n, [b"x"] * n)
    batch.position = batch.seq_nr = [*range(after + 1, after + n + 1)]
    batch.prev_seq_nr = [*range(after, after + n)]
    return PushBatch(after, after + n, "g", batch)


async def test_an_edge_is_not_called_silent_while_the_cloud_owes_it_an_ack(autojump_clock: MockClock) -> None:
    world = PushWorld(commit_s=25.0)
    async with world.cloud() as (_, endpoint), dialled(world) as stream:
        await stream.send(hello())
        assert isinstance(decode_from_cloud(await stream.receive()), Start)
        began_s = trio.current_time()
        await stream.send(encode_from_edge(batch_of(1, 0)))
        while not isinstance(decode_from_cloud(await stream.receive()), Ack):
            pass
        acked_s = trio.current_time()
        assert acked_s - began_s == pytest.approx(25.0)
        await trio.sleep_until(acked_s + 20)
        assert [live.origin_id for live in endpoint.streams] == ["edge-1"]
        await trio.sleep_until(acked_s + 40)
        assert endpoint.streams == []


async def test_edges_are_back_soon_after_the_database_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was away: a node that bears them says so to the few that it has."""
    world, is_away = PushWorld(), False
    edges = [f"edge-{number}" for number in range(1, 9)]
    async with world.cloud() as (cloud, _), AsyncExitStack() as stack:
        open_session = cloud.origins.open_session

        async def unless_away(origin_id: str, instance: str, history: History) -> ResumeDecision:
            if is_away:
                raise BackhaulError("journal.unavailable", "gone for now", retry_after_s=1.0)
            return await open_session(origin_id, instance, history)

        monkeypatch.setattr(cloud.origins, "open_session", unless_away)
        links = [
            (await stack.enter_async_context(world.edge(name, disk=MemoryDatabase(), seed=number)))[1]
            for number, name in enumerate(edges)
        ]
        for away_s in (1.0, 10.0, 100.0):
            await trio.sleep(5)
            assert {link.state for link in links} == {"connected"}
            is_away = True
            for connection in tuple(world.network.connections):
                connection.cut()
            await trio.sleep(away_s)
            assert {link.last_code for link in links} == {"journal.unavailable"}
            is_away = False
            await trio.sleep(2.0)
            assert {link.state for link in links} == {"connected"}, away_s


async def test_a_journal_that_is_slow_is_not_dialled_sooner(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for more time than one that is away."""
    world, asks_s, answered_s = PushWorld(), [1.0, 5.0], []
    asked_s = iter(asks_s)

    async def refuse(*_: object) -> NoReturn:
        raise BackhaulError("journal.unavailable", "not now", retry_after_s=next(asked_s))

    async with world.cloud() as (cloud, _):
        monkeypatch.setattr(cloud.origins, "open_session", refuse)
        for _ in asks_s:
            async with dialled(world) as stream:
                await stream.send(hello())
                with pytest.raises(BackhaulError) as refused:
                    await stream.receive()
            answered_s.append(refused.value.retry_after_s)
    assert answered_s == [0.2, 5.0]
