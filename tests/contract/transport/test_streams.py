"""What every message stream promises: order, back-pressure, ends, aborts, cancellation."""

from __future__ import annotations

import pytest
import trio

from common.transport.stream import (
    MessageStream,
    PeerClosed,
    PeerGone,
    ServedStream,
    StreamMethod,
)
from tests.contract.transport.carriers import (
    PATH,
    Carrier,
    Watched,
    echo,
    served,
    wait_for_ever,
)


async def test_messages_arrive_whole_and_in_order(carrier: Carrier) -> None:
    messages = [bytes([n % 256]) * size for n, size in enumerate([0, 1, 5, 200, 16_384, 65_536, 150_000, 3, 0])]
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        for message in messages:
            await stream.send(message)
            assert await stream.receive() == message
        for n in range(1000):
            await stream.send(b"%d" % n)
        assert [await stream.receive() for _ in range(1000)] == [b"%d" % n for n in range(1000)]


async def test_what_is_sent_without_waiting_is_whole_and_in_its_place(carrier: Carrier) -> None:
    sizes = [0, 1, 200, 16_384, 65_531, 65_532, 100_000, 3] * 20
    refused = 0

    async def serve(stream: MessageStream) -> None:
        nonlocal refused
        await stream.send(b"first")  # with which response headers go
        for number, size in enumerate(sizes):
            message = b"%d " % number + bytes(size)
            if number % 3 == 0 or not stream.send_nowait(message):
                refused += number % 3 != 0
                await stream.send(message)

    async with served(carrier, serve) as channel, channel.open_stream(PATH) as stream:
        assert await stream.receive() == b"first"
        await trio.sleep(0.2)  # as much as fits is under way
        for number, size in enumerate(sizes):
            assert await stream.receive() == b"%d " % number + bytes(size)
        with pytest.raises(PeerClosed):
            await stream.receive()
    assert 0 < refused < len(sizes)


async def test_what_is_held_leaves_whole_and_in_its_place(carrier: Carrier) -> None:
    sizes = [0, 1, 200, 16_384, 60_000, 65_531, 65_532, 100_000, 3] * 20
    in_one = 9

    async def serve(stream: MessageStream) -> None:
        await stream.send(b"first")
        for begin in range(0, len(sizes), in_one):
            messages = [b"%d " % number + bytes(sizes[number]) for number in range(begin, begin + in_one)]
            stream.hold()
            taken = 0
            while taken < in_one and stream.send_nowait(messages[taken]):
                taken += 1
            stream.release()
            for message in messages[taken:]:
                await stream.send(message)

    async with served(carrier, serve) as channel, channel.open_stream(PATH) as stream:
        assert await stream.receive() == b"first"
        await trio.sleep(0.2)  # as much as fits is under way
        for number, size in enumerate(sizes):
            assert await stream.receive() == b"%d " % number + bytes(size)
        with pytest.raises(PeerClosed):
            await stream.receive()


async def test_nothing_is_sent_without_waiting_where_it_cannot_be(carrier: Carrier) -> None:
    answers: list[bool] = []

    async def serve(stream: MessageStream) -> None:
        while stream.send_nowait(bytes(50_000)) or not answers:
            answers.append(True)
            await stream.send(b"")
        answers.append(stream.send_nowait(bytes(50_000)))
        stream.abort()
        answers.append(stream.send_nowait(b""))

    async def read_to_the_end(stream: MessageStream) -> None:
        while True:
            await stream.receive()

    async with served(carrier, serve) as channel, channel.open_stream(PATH) as stream:
        await trio.sleep(0.5)  # it fills up meanwhile
        with pytest.raises(PeerGone):
            await read_to_the_end(stream)
    assert answers[-2:] == [False, False]


async def test_a_stream_ends_well_when_both_have_said_so(carrier: Carrier) -> None:
    async def count(stream: MessageStream) -> None:
        total = 0
        try:
            while True:
                total += len(await stream.receive())
        except PeerClosed:
            pass
        await stream.send(b"%d" % total)

    handler = Watched(count)
    async with served(carrier, handler) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"one")
        await stream.send(b"three")
        await stream.end()
        assert await stream.receive() == b"8"
        for _ in range(2):
            with pytest.raises(PeerClosed):
                await stream.receive()
        assert stream.fault is None
    assert handler.how == "returned"


async def test_the_end_that_a_handler_lets_out_is_a_good_end(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        await stream.end()
        with pytest.raises(PeerClosed):
            await stream.receive()


async def test_a_reader_that_does_not_read_stops_the_sender(carrier: Carrier) -> None:
    read_on = trio.Event()
    received: list[int] = []

    async def read_late(stream: MessageStream) -> None:
        await read_on.wait()
        while True:
            received.append(len(await stream.receive()))

    sent = 0
    async with served(carrier, read_late) as channel, channel.open_stream(PATH) as stream:

        async def send_all() -> None:
            nonlocal sent
            for _ in range(400):
                await stream.send(bytes(50_000))
                sent += 1
            await stream.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            still = -1
            while still != sent:
                still = sent
                await trio.sleep(0.1)
            # Both windows and all kernel buffers of loopback hold less than this.
            assert sent < 200
            assert received == []
            read_on.set()
        with pytest.raises(PeerClosed):
            await stream.receive()
    assert received == [50_000] * 400


async def test_progress_is_counted(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        sent, received = stream.bytes_sent, stream.bytes_received
        await stream.send(bytes(1000))
        await stream.receive()
        assert stream.bytes_sent - sent >= 1000
        assert stream.bytes_received - received >= 1000
        assert stream.unsent_bytes == 0


async def test_a_silent_peer_makes_no_progress_and_bytes_stay_unsent(carrier: Carrier) -> None:
    async with served(carrier, wait_for_ever) as channel, channel.open_stream(PATH) as stream:
        with trio.move_on_after(0.3) as scope:
            while True:
                await stream.send(bytes(50_000))
        assert scope.cancelled_caught


async def test_an_abort_is_felt_by_both_ends(carrier: Carrier) -> None:
    handler = Watched(wait_for_ever)
    async with served(carrier, handler) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"hello")
        await handler.started.wait()
        stream.abort()
        with pytest.raises(PeerGone) as raised:
            await stream.receive()
        assert raised.value.code == "link.aborted"
        with pytest.raises(PeerGone):
            await stream.send(b"more")
        with trio.fail_after(2):
            await handler.ended.wait()
        assert handler.how == "cancelled"
        assert handler.fault.startswith("link.")
        with pytest.raises(PeerGone):
            async with channel.open_stream(PATH):
                pass


async def test_the_serving_end_may_abort_too(carrier: Carrier) -> None:
    async def abort(stream: MessageStream) -> None:
        await stream.receive()
        stream.abort()
        await trio.sleep_forever()

    handler = Watched(abort)
    async with served(carrier, handler) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"x")
        with pytest.raises(PeerGone):
            await stream.receive()
        with trio.fail_after(2):
            await handler.ended.wait()
    assert handler.how == "cancelled"


async def test_a_disconnect_cancels_exactly_that_handler(carrier: Carrier) -> None:
    handlers: list[Watched] = []

    async def run(stream: ServedStream) -> None:
        handler = Watched(echo)
        handlers.append(handler)
        await handler(stream)

    async with carrier.serve({PATH: StreamMethod(run)}) as address:
        async with carrier.dial(address) as stays, stays.open_stream(PATH) as staying:
            await staying.send(b"a")
            await staying.receive()
            async with carrier.dial(address) as goes, goes.open_stream(PATH) as going:
                await going.send(b"b")
                await going.receive()
                goes.abort()
                with trio.fail_after(2):
                    await handlers[1].ended.wait()
            assert handlers[1].how in {"cancelled", "link.lost", "link.aborted"}
            await staying.send(b"c")
            assert await staying.receive() == b"c"
            assert not handlers[0].ended.is_set()


async def test_leaving_a_stream_early_cancels_its_handler_and_the_channel_goes_on(carrier: Carrier) -> None:
    handlers: list[Watched] = []

    async def echo_once(stream: MessageStream) -> None:
        await stream.send(await stream.receive())
        await trio.sleep_forever()

    async def run(stream: ServedStream) -> None:
        handlers.append(Watched(echo_once))
        await handlers[-1](stream)

    async with served(carrier, run) as channel:
        async with channel.open_stream(PATH) as first:
            await first.send(b"x")
            await first.receive()
        with trio.fail_after(2):
            await handlers[0].ended.wait()
        assert (handlers[0].how, handlers[0].fault) == ("cancelled", "link.reset")
        async with channel.open_stream(PATH) as second:
            await second.send(b"y")
            assert await second.receive() == b"y"


async def test_a_cancelled_receive_loses_nothing(carrier: Carrier) -> None:
    let_go = trio.Event()

    async def send_late(stream: MessageStream) -> None:
        await let_go.wait()
        await stream.send(b"late")

    async with served(carrier, send_late) as channel, channel.open_stream(PATH) as stream:
        for _ in range(5):
            with trio.move_on_after(0.01):
                await stream.receive()
        let_go.set()
        assert await stream.receive() == b"late"


async def test_a_send_cancelled_in_the_middle_drops_the_connection(carrier: Carrier) -> None:
    handler = Watched(wait_for_ever)
    async with served(carrier, handler) as channel, channel.open_stream(PATH) as stream:
        with trio.move_on_after(0.2):
            while True:
                await stream.send(bytes(150_000))
        with pytest.raises(PeerGone) as raised:
            await stream.send(b"x")
        assert raised.value.code == "link.aborted"
        with trio.fail_after(2):
            await handler.ended.wait()
    assert handler.how == "cancelled"
