"""How a stream begins and ends, on every carrier: accepted headers, what is refused after an end, and left blocks."""

from __future__ import annotations

import pytest
import trio

from common.core.errors import BackhaulError
from common.transport.stream import MessageStream, PeerClosed, PeerGone, PeerRefused, SendAfterEnd, ServedStream
from tests.contract.transport.carriers import PATH, Carrier, echo, served

# After an end.


async def test_nothing_is_sent_after_the_end_and_the_stream_goes_on(carrier: Carrier) -> None:
    received: list[bytes] = []

    async def serve(stream: MessageStream) -> None:
        try:
            while True:
                received.append(await stream.receive())
        except PeerClosed:
            await stream.send(b"all")

    async with served(carrier, serve) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"one")
        await stream.end()
        await stream.end()
        for _ in range(2):
            with pytest.raises(SendAfterEnd, match=r"link\.send_after_end"):
                await stream.send(b"two")
            assert not stream.send_nowait(b"three")
        assert await stream.receive() == b"all"
        with pytest.raises(PeerClosed):
            await stream.receive()
        with pytest.raises(SendAfterEnd):
            await stream.send(b"four")
        assert stream.fault is None
    assert received == [b"one"]


async def test_what_was_held_leaves_before_the_end(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"first")
        stream.hold()
        assert stream.send_nowait(b"held")
        await stream.end()
        stream.release()
        assert [await stream.receive(), await stream.receive()] == [b"first", b"held"]
        with pytest.raises(PeerClosed):
            await stream.receive()


async def test_an_end_in_the_middle_of_a_message_is_refused(carrier: Carrier) -> None:
    read_on = trio.Event()
    received: list[int] = []

    async def read_late(stream: MessageStream) -> None:
        await read_on.wait()
        while True:
            received.append(len(await stream.receive()))

    async with served(carrier, read_late) as channel, channel.open_stream(PATH) as stream:

        async def send_all() -> None:
            for _ in range(100):
                await stream.send(bytes(150_000))
            await stream.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await trio.sleep(0.2)
            with pytest.raises(trio.BusyResourceError):
                await stream.end()
            read_on.set()
        with pytest.raises(PeerClosed):
            await stream.receive()
    assert received == [150_000] * 100


async def test_nothing_is_sent_by_a_task_that_outlives_its_handler(carrier: Carrier) -> None:
    kept: list[ServedStream] = []

    async def serve(stream: ServedStream) -> None:
        kept.append(stream)
        await stream.send(b"once")

    async with served(carrier, serve) as channel:
        async with channel.open_stream(PATH) as stream:
            assert await stream.receive() == b"once"
            with pytest.raises(PeerClosed):
                await stream.receive()
            with pytest.raises(SendAfterEnd):
                await kept[0].send(b"twice")
            assert not kept[0].send_nowait(b"thrice")
        async with channel.open_stream(PATH) as another:
            assert await another.receive() == b"once"


async def test_a_stream_whose_block_was_left_is_over(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel:
        async with channel.open_stream(PATH) as stream:
            await stream.send(b"x")
        for use in (stream.receive, lambda: stream.send(b"y")):
            with trio.fail_after(2), pytest.raises(PeerGone) as gone:
                await use()
            assert gone.value.code == "link.reset"
        assert not stream.send_nowait(b"z")


# Before the first message.


async def test_the_serving_end_may_accept_before_its_first_message(carrier: Carrier) -> None:
    go_on = trio.Event()

    async def serve(stream: ServedStream) -> None:
        stream.accept()
        stream.accept()
        assert stream.send_nowait(b"one")  # for which headers need not leave first any more
        await go_on.wait()
        await stream.send(b"two")

    async def serve_silently(stream: ServedStream) -> None:
        stream.accept()
        await go_on.wait()

    async with served(carrier, serve) as channel, channel.open_stream(PATH) as stream:
        await stream.wait_accepted()
        assert await stream.receive() == b"one"
        await stream.wait_accepted()
        go_on.set()
        assert await stream.receive() == b"two"
    go_on = trio.Event()
    async with served(carrier, serve_silently) as channel, channel.open_stream(PATH) as stream:
        with trio.fail_after(2):
            await stream.wait_accepted()
        await stream.send(b"not refused")
        go_on.set()
        with pytest.raises(PeerClosed):
            await stream.receive()


async def test_a_first_message_or_an_end_accepts_too_and_a_refusal_does_not(carrier: Carrier) -> None:
    async def answer(stream: MessageStream) -> None:
        match await stream.receive():
            case b"message":
                await stream.send(b"message")
                await stream.receive()
            case b"refuse":
                raise BackhaulError("stream.unknown", "no such stream")

    async with served(carrier, answer) as channel:
        async with channel.open_stream(PATH) as stream:
            with trio.move_on_after(0.1) as nothing_yet:
                await stream.wait_accepted()
            assert nothing_yet.cancelled_caught
            await stream.send(b"message")
            await stream.wait_accepted()
            assert await stream.receive() == b"message"
        async with channel.open_stream(PATH) as stream:
            await stream.send(b"end")
            await stream.wait_accepted()
        async with channel.open_stream(PATH) as stream:
            await stream.send(b"refuse")
            with pytest.raises(PeerRefused, match=r"stream\.unknown"):
                await stream.wait_accepted()
            with pytest.raises(PeerRefused, match=r"stream\.unknown"):
                await stream.receive()
