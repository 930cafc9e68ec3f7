"""What every message stream promises, over gRPC on real loopback sockets and over pipes in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from common import border
from common.core.errors import BackhaulError, ErrorKind
from common.transport.memory_streams import MemoryNetwork
from common.transport.stream import (
    Channel,
    MessageStream,
    MessageTooLarge,
    Methods,
    PeerClosed,
    PeerGone,
    PeerInfo,
    PeerRefused,
    StreamMethod,
    UnaryMethod,
)
from common.transport.streams import open_channel, serve_grpc

MESSAGE_MAX = 200_000
WINDOW = 65_536
PATH = "/test.Streams/Run"
Handler = Callable[[MessageStream], Awaitable[None]]


@dataclass
class Carrier:
    """One way to carry streams: serve methods, dial them, and count what is left of connections afterwards."""

    serve: Callable[[Methods], AbstractAsyncContextManager[str]]
    dial: Callable[[str], AbstractAsyncContextManager[Channel]]


@pytest.fixture(params=["memory", "grpc"])
async def carrier(request: pytest.FixtureRequest) -> AsyncIterator[Carrier]:
    if request.param == "memory":
        yield memory_carrier()
    else:
        async with border.open_loop():
            yield grpc_carrier()


def memory_carrier() -> Carrier:
    network = MemoryNetwork()

    @asynccontextmanager
    async def serve(methods: Methods) -> AsyncIterator[str]:
        async with network.serve(
            methods, host="server", port=0, message_max_bytes=MESSAGE_MAX, connections_max=10
        ) as port:
            yield f"server:{port}"

    def dial(address: str) -> AbstractAsyncContextManager[Channel]:
        return network.open_channel(address, connect_timeout_s=2, message_max_bytes=MESSAGE_MAX)

    return Carrier(serve, dial)


def grpc_carrier() -> Carrier:
    @asynccontextmanager
    async def serve(methods: Methods) -> AsyncIterator[str]:
        async with serve_grpc(
            methods,
            host="127.0.0.1",
            port=0,
            tls=None,
            message_max_bytes=MESSAGE_MAX,
            connections_max=10,
            window_bytes=WINDOW,
        ) as port:
            yield f"127.0.0.1:{port}"

    def dial(address: str) -> AbstractAsyncContextManager[Channel]:
        return open_channel(
            address,
            tls=None,
            connect_timeout_s=2,
            message_max_bytes=MESSAGE_MAX,
            user_timeout_s=5,
            window_bytes=WINDOW,
        )

    return Carrier(serve, dial)


@asynccontextmanager
async def served(carrier: Carrier, handler: Handler) -> AsyncIterator[Channel]:
    """A channel to a server whose only stream method is `handler`; what hangs fails."""
    with trio.fail_after(30):
        async with carrier.serve({PATH: StreamMethod(handler)}) as address:
            async with carrier.dial(address) as channel:
                yield channel


async def echo(stream: MessageStream) -> None:
    while True:
        await stream.send(await stream.receive())


class Watched:
    """A handler that tells how it ended: "cancelled", "returned", or the code of what came out of `run`."""

    def __init__(self, run: Handler) -> None:
        self._run = run
        self.started = trio.Event()
        self.ended = trio.Event()
        self.how = ""
        self.fault = ""

    async def __call__(self, stream: MessageStream) -> None:
        self.started.set()
        try:
            await self._run(stream)
            self.how = "returned"
        except trio.Cancelled:
            self.how = "cancelled"
            raise
        except BackhaulError as error:
            self.how = error.code
            raise
        except PeerClosed:
            self.how = "closed"
            raise
        finally:
            self.fault = stream.fault.code if stream.fault else ""
            self.ended.set()


async def wait_for_ever(stream: MessageStream) -> None:
    await trio.sleep_forever()


async def test_messages_arrive_whole_and_in_order(carrier: Carrier) -> None:
    messages = [bytes([n % 256]) * size for n, size in enumerate([0, 1, 5, 200, 16_384, 65_536, 150_000, 3, 0])]
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        for message in messages:
            await stream.send(message)
            assert await stream.receive() == message
        for n in range(1000):
            await stream.send(b"%d" % n)
        assert [await stream.receive() for _ in range(1000)] == [b"%d" % n for n in range(1000)]


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
        with pytest.raises(PeerClosed):
            await stream.send(b"more")
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
        with pytest.raises(PeerGone) as told:
            await stream.receive()
        assert told.value.code == "link.aborted"
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

    async def run(stream: MessageStream) -> None:
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

    async def run(stream: MessageStream) -> None:
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
        with pytest.raises(PeerGone) as told:
            await stream.send(b"x")
        assert told.value.code == "link.aborted"
        with trio.fail_after(2):
            await handler.ended.wait()
    assert handler.how == "cancelled"


async def test_a_refusal_reaches_the_caller_with_its_code(carrier: Carrier) -> None:
    async def refuse(stream: MessageStream) -> None:
        await stream.receive()
        raise BackhaulError("push.fenced", "a newer session: «2»", "wait", kind=ErrorKind.CONFLICT)

    async with served(carrier, refuse) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"hello")
        with pytest.raises(PeerRefused) as told:
            await stream.receive()
        refusal = told.value
        assert (refusal.code, refusal.message, refusal.hint) == ("push.fenced", "a newer session: «2»", "wait")
        assert (refusal.kind, refusal.status, refusal.retry_after_s) == (ErrorKind.CONFLICT, "ABORTED", None)
        with pytest.raises(PeerRefused):
            await stream.send(b"more")
        assert stream.fault is refusal


async def test_a_refusal_inside_groups_and_with_a_hint_to_come_back(carrier: Carrier) -> None:
    async def refuse(stream: MessageStream) -> None:
        async def fail() -> None:
            raise BackhaulError("journal.busy", "too many", retry_after_s=2.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail)

    async with served(carrier, refuse) as channel, channel.open_stream(PATH) as stream:
        with pytest.raises(PeerRefused) as told:
            await stream.receive()
    assert (told.value.code, told.value.kind, told.value.retry_after_s) == ("journal.busy", ErrorKind.UNAVAILABLE, 2.5)


async def test_what_was_sent_before_a_refusal_is_received_before_it(carrier: Carrier) -> None:
    async def send_and_refuse(stream: MessageStream) -> None:
        await stream.send(b"first")
        raise BackhaulError("events.invalid", "no")

    async with served(carrier, send_and_refuse) as channel, channel.open_stream(PATH) as stream:
        assert await stream.receive() == b"first"
        with pytest.raises(PeerRefused, match=r"events\.invalid"):
            await stream.receive()


async def test_an_unknown_error_tells_nothing_of_our_insides(carrier: Carrier) -> None:
    async def fail(stream: MessageStream) -> None:
        raise KeyError("secret")

    async with served(carrier, fail) as channel:
        for _ in range(2):  # the server keeps running
            async with channel.open_stream(PATH) as stream:
                with pytest.raises(PeerRefused) as told:
                    await stream.receive()
            assert told.value.code == "link.handler_failed"
            assert told.value.status == "INTERNAL"
            assert "secret" not in str(told.value)


async def test_an_unknown_method_is_refused(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream("/test.Streams/None") as stream:
        with pytest.raises(PeerRefused) as told:
            await stream.receive()
    assert (told.value.code, told.value.status) == ("link.unknown_method", "UNIMPLEMENTED")


async def test_a_message_over_the_limit_is_not_sent_and_harms_nothing(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        with pytest.raises(MessageTooLarge) as told:
            await stream.send(bytes(MESSAGE_MAX + 1))
        assert told.value.details == {"size": MESSAGE_MAX + 1, "limit": MESSAGE_MAX}
        await stream.send(bytes(MESSAGE_MAX))
        assert len(await stream.receive()) == MESSAGE_MAX


async def test_a_unary_call_is_one_request_and_one_answer(carrier: Carrier) -> None:
    async def reverse(request: bytes, peer: PeerInfo) -> bytes:
        assert peer.address
        if not request:
            raise BackhaulError("events.empty", "nothing to reverse")
        return request[::-1]

    async def be_slow(request: bytes, peer: PeerInfo) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    methods: Methods = {"/t.T/Reverse": UnaryMethod(reverse), "/t.T/Slow": UnaryMethod(be_slow)}
    async with carrier.serve(methods) as address, carrier.dial(address) as channel:
        assert await channel.unary("/t.T/Reverse", b"abc", 5) == b"cba"
        with pytest.raises(PeerRefused, match=r"events\.empty"):
            await channel.unary("/t.T/Reverse", b"", 5)
        with pytest.raises(BackhaulError) as told:
            await channel.unary("/t.T/Slow", b"x", 0.05)
        assert told.value.code in {"link.timeout", "link.deadline_exceeded"}

        answers: list[bytes] = []

        async def call(n: int) -> None:
            answers.append(await channel.unary("/t.T/Reverse", b"%d" % n, 5))

        async with trio.open_nursery() as nursery:
            for n in range(100, 350):  # more than one connection's streams: the rest wait
                nursery.start_soon(call, n)
        assert sorted(answers) == sorted((b"%d" % n)[::-1] for n in range(100, 350))


async def test_a_stopping_server_tells_its_callers(carrier: Carrier) -> None:
    handler = Watched(wait_for_ever)
    stop = trio.Event()
    address = ""

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        async with carrier.serve({PATH: StreamMethod(handler)}) as where:
            task_status.started(where)
            await stop.wait()

    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve)
        async with carrier.dial(address) as channel, channel.open_stream(PATH) as stream:
            await handler.started.wait()
            stop.set()
            with trio.fail_after(2), pytest.raises(PeerRefused) as told:
                await stream.receive()
    assert (told.value.code, told.value.kind) == ("link.stopping", ErrorKind.UNAVAILABLE)
    assert handler.how == "cancelled"
    with pytest.raises(PeerGone) as refused:
        async with carrier.dial(address):
            pass
    assert refused.value.code == "link.refused"


async def test_connections_beyond_the_bound_are_refused_and_come_in_when_one_leaves(carrier: Carrier) -> None:
    async with carrier.serve({PATH: StreamMethod(echo)}) as address:
        async with trio.open_nursery() as nursery:

            async def occupy(task_status: trio.TaskStatus[None]) -> None:
                async with carrier.dial(address):
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(10):
                await nursery.start(occupy)
            with pytest.raises(PeerGone) as told:
                async with carrier.dial(address):
                    pass
            assert told.value.code == "link.lost"
            nursery.cancel_scope.cancel()
        with trio.fail_after(2):
            while True:
                try:
                    async with carrier.dial(address) as channel, channel.open_stream(PATH) as stream:
                        await stream.send(b"in")
                        assert await stream.receive() == b"in"
                        break
                except PeerGone:
                    await trio.sleep(0.01)


async def until_tasks_are(count: int) -> None:
    """Wait, not for long, until no more than `count` tasks live in this run."""
    with trio.fail_after(2):
        while trio.lowlevel.current_statistics().tasks_living > count:  # noqa: ASYNC110  nobody tells
            await trio.sleep(0.001)


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_a_cancel_at_any_point_leaves_no_task_behind(carrier: Carrier, turns: int) -> None:
    """Cancel both ends' traffic after so many scheduler turns; everything must unwind by itself."""
    before = trio.lowlevel.current_statistics().tasks_living
    ended = 0

    async def count_end(stream: MessageStream) -> None:
        nonlocal ended
        try:
            await echo(stream)
        finally:
            ended += 1

    async def talk(address: str) -> None:
        async with carrier.dial(address) as channel, channel.open_stream(PATH) as stream:
            while True:
                await stream.send(bytes(70_000))
                await stream.receive()

    async with carrier.serve({PATH: StreamMethod(count_end)}) as address:
        serving = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, address)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await until_tasks_are(serving)
    await until_tasks_are(before)
