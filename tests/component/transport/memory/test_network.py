"""The hooks of the network in memory: cut, cut in the middle, slowed, held and let go, unreachable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from common.core.errors import ErrorKind
from common.transport.memory.line import MemoryConnection
from common.transport.memory.network import MemoryChannel, MemoryNetwork
from common.transport.memory.streams import memory_stream_pair
from common.transport.stream import MessageStream, PeerClosed, PeerGone, PeerInfo, PeerRefused, StreamMethod

PATH = "/test.Streams/Run"


class Recorder:
    """A served method that keeps what it received, and how it ended."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ended = trio.Event()
        self.peer: PeerInfo | None = None

    async def __call__(self, stream: MessageStream) -> None:
        self.peer = stream.peer
        try:
            while True:
                self.received.append(await stream.receive())
                await stream.send(b"ack %d" % len(self.received))
        finally:
            self.ended.set()


@asynccontextmanager
async def connected(recorder: Recorder) -> AsyncIterator[tuple[MemoryChannel, MemoryConnection]]:
    network = MemoryNetwork()
    async with network.serve(
        {PATH: StreamMethod(recorder)}, host="cloud", port=7443, message_max_bytes=10**6, connections_max=2
    ):
        async with network.open_channel(
            "cloud:7443", connect_timeout_s=5, message_max_bytes=10**6, dialler=PeerInfo("edge:1", ("edge-1",))
        ) as channel:
            yield channel, network.connections[0]


async def test_a_cut_loses_what_is_under_way_and_keeps_what_has_arrived(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with connected(recorder) as (channel, line), channel.open_stream(PATH) as stream:
        await stream.send(b"one")
        await trio.testing.wait_all_tasks_blocked()
        line.delay_s = 1.0
        await stream.send(b"two")
        line.cut()
        assert await stream.receive() == b"ack 1"
        with pytest.raises(PeerGone) as raised:
            await stream.receive()
        assert raised.value.code == "link.lost"
        await recorder.ended.wait()
    assert recorder.received == [b"one"]
    assert recorder.peer == PeerInfo("edge:1", ("edge-1",))


@pytest.mark.parametrize(("messages", "size"), [(2, 10**9), (10**9, 25)])
async def test_a_cut_after_so_many_messages_or_bytes(messages: float, size: float) -> None:
    recorder = Recorder()
    async with connected(recorder) as (channel, line), channel.open_stream(PATH) as stream:
        line.cut_after("up", messages=messages, size=size)
        for _ in range(2):
            await stream.send(bytes(10))
            await stream.receive()
        with pytest.raises(PeerGone):
            await stream.send(bytes(10))
        await recorder.ended.wait()
    assert recorder.received == [bytes(10)] * 2


async def test_a_line_takes_its_time_and_shows_progress_within_a_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with connected(recorder) as (channel, line), channel.open_stream(PATH) as stream:
        line.bytes_per_s, line.delay_s = 1000, 0.5
        began = trio.current_time()
        await stream.send(bytes(100_000))
        await trio.sleep(50.5)
        assert (stream.bytes_sent, stream.unsent_bytes) == (50_000, 50_000)
        assert await stream.receive() == b"ack 1"
        assert trio.current_time() - began == pytest.approx(100.5 + 0.5, abs=0.1)


async def test_a_held_line_delivers_nothing_and_goes_on_when_it_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with connected(recorder) as (channel, line), channel.open_stream(PATH) as stream:
        line.hold()
        for n in range(3):
            await stream.send(b"%d" % n)
        with trio.move_on_after(60):
            await stream.receive()
        assert recorder.received == []
        assert stream.unsent_bytes == 3
        line.let_go()
        assert [await stream.receive() for _ in range(3)] == [b"ack 1", b"ack 2", b"ack 3"]
    assert recorder.received == [b"0", b"1", b"2"]


async def test_the_far_end_of_a_held_line_does_not_hear_of_an_abort_until_it_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with connected(recorder) as (channel, line), channel.open_stream(PATH) as stream:
        await stream.send(b"x")
        await stream.receive()
        line.hold()
        stream.abort()
        with pytest.raises(PeerGone):
            await stream.receive()
        await trio.sleep(60)
        assert not recorder.ended.is_set()
        line.let_go()
        await recorder.ended.wait()


async def test_an_unreachable_address_takes_as_long_as_it_may(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    network.unreachable.add("cloud:7443")
    with pytest.raises(PeerGone) as raised:
        async with network.open_channel("cloud:7443", connect_timeout_s=5, message_max_bytes=10):
            pass
    assert raised.value.code == "link.timeout"
    assert trio.current_time() == pytest.approx(5)


async def test_new_connections_are_shown_before_anything_is_sent() -> None:
    network = MemoryNetwork()
    network.on_connect = lambda line: line.cut_after("up", messages=0)
    recorder = Recorder()
    async with network.serve(
        {PATH: StreamMethod(recorder)}, host="cloud", port=0, message_max_bytes=100, connections_max=2
    ) as port:
        async with network.open_channel(f"cloud:{port}", connect_timeout_s=5, message_max_bytes=100) as channel:
            async with channel.open_stream(PATH) as stream:
                with pytest.raises(PeerGone):
                    await stream.send(b"never arrives")
    assert recorder.received == []
    assert network.connections == []


async def test_a_pair_without_a_network() -> None:
    dialled, served = memory_stream_pair(peer=PeerInfo("edge:1", ("edge-1",)))
    await dialled.send(b"up")
    assert await served.receive() == b"up"
    assert served.peer.identities == ("edge-1",)
    await served.send(b"down")
    assert await dialled.receive() == b"down"
    served.finish(None)
    with pytest.raises(PeerClosed):
        await dialled.receive()


async def test_a_stopping_server_lets_a_handler_finish_what_it_shields(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def commit_slowly(stream: MessageStream) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        await trio.lowlevel.checkpoint()

    network = MemoryNetwork()
    refused: list[PeerRefused] = []

    async def dial(task_status: trio.TaskStatus[None]) -> None:
        async with network.open_channel("cloud:1", connect_timeout_s=5, message_max_bytes=100) as channel:
            async with channel.open_stream(PATH) as stream:
                await trio.testing.wait_all_tasks_blocked()
                task_status.started()
                try:
                    await stream.receive()
                except PeerRefused as refusal:
                    refused.append(refusal)

    async with trio.open_nursery() as nursery:
        async with network.serve(
            {PATH: StreamMethod(commit_slowly)}, host="cloud", port=1, message_max_bytes=100, connections_max=2
        ):
            await nursery.start(dial)
    assert [refusal.kind for refusal in refused] == [ErrorKind.UNAVAILABLE]
