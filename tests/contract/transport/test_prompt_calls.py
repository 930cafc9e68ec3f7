"""Unary calls that have no task: answered by whoever has the answer, and let go when nobody waits for it any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import cast

import pytest
import trio
from h2.settings import SettingCodes

from common.core.errors import BackhaulError, ErrorKind
from common.transport.grpc import GrpcChannel, serve_grpc
from common.transport.grpc.calls import ConnectionCalls, IncomingCall
from common.transport.grpc.server import _STREAMS_MAX
from common.transport.stream import Answer, Caller, PeerGone, PeerRefused, UnaryMethod
from tests.contract.transport.links import MESSAGE_MAX, dialled

PATH = "/test.Calls/Reverse"

Promptly = Callable[[bytes, Caller, Answer], bool]


async def by_task(request: bytes, _: Caller) -> bytes:
    return b"by task: " + request[:10]


@asynccontextmanager
async def serving(promptly: Promptly) -> AsyncIterator[str]:
    with trio.fail_after(30):
        async with serve_grpc(
            {PATH: UnaryMethod(by_task, promptly)},
            host="127.0.0.1",
            port=0,
            tls=None,
            message_max_bytes=10 * MESSAGE_MAX,
            connections_max=5,
        ) as port:
            yield f"127.0.0.1:{port}"


@asynccontextmanager
async def called(promptly: Promptly) -> AsyncIterator[GrpcChannel]:
    async with serving(promptly) as address, dialled(address) as channel:
        yield channel


class Later:
    """Takes every request and leaves it to the test to answer."""

    def __init__(self) -> None:
        self._came, self._calls = trio.open_memory_channel[tuple[bytes, Answer]](1_000)

    def __call__(self, request: bytes, _: Caller, answer: Answer) -> bool:
        self._came.send_nowait((request, answer))
        return True

    async def next(self) -> tuple[bytes, Answer]:
        """The next request, and by what it is answered."""
        return await self._calls.receive()


async def test_it_is_answered_at_once_or_later_and_in_any_order(loop: None) -> None:
    later = Later()
    reported: dict[bytes, bytes] = {}
    async with called(later) as channel, trio.open_nursery() as nursery:

        async def call(request: bytes) -> None:
            reported[request] = await channel.unary(PATH, request, 5)

        for n in range(3):
            nursery.start_soon(call, b"%d" % n)
        calls = [await later.next() for _ in range(3)]
        for request, answer in reversed(calls):
            answer(b"answer to " + request)()
    assert reported == {b"%d" % n: b"answer to %d" % n for n in range(3)}

    def at_once(request: bytes, _: Caller, answer: Answer) -> bool:
        answer(request[::-1])
        return True

    async with called(at_once) as channel:
        assert [await channel.unary(PATH, b"abc", 5) for _ in range(3)] == [b"cba"] * 3


async def test_calls_of_one_connection_begin_in_the_order_of_their_arrival(loop: None) -> None:
    later = Later()
    numbers = range(20)
    async with called(later) as channel, AsyncExitStack() as stack:
        for n in numbers:
            stream = stack.enter_context(await channel._call(PATH, None, {}))
            stream_id = stream._wire.id
            assert stream_id is not None
            channel._connection.http2.send_data(stream_id, b"\0\0\0\0\2%02d" % n, end_stream=True)
        channel._connection.flush()  # all of them in one write
        assert [int((await later.next())[0]) for _ in numbers] == list(numbers)


async def test_a_refusal_and_an_unknown_error_are_told_as_any_handlers_are(loop: None) -> None:
    refusal = BackhaulError("append.foreign_owner", "not yours", "ask", kind=ErrorKind.CONFLICT)

    def refuse(request: bytes, _: Caller, answer: Answer) -> bool:
        if request == b"raise":
            raise refusal
        if request == b"fail":
            raise KeyError("secret")
        answer(refusal)
        return True

    async with called(refuse) as channel:
        for request in (b"raise", b"answer"):
            with pytest.raises(PeerRefused, match="not yours") as raised:
                await channel.unary(PATH, request, 5)
            assert (raised.value.code, raised.value.status) == ("append.foreign_owner", "ABORTED")
        with pytest.raises(PeerRefused) as raised:
            await channel.unary(PATH, b"fail", 5)
        assert raised.value.code == "link.handler_failed"
        assert "secret" not in str(raised.value)


async def test_what_is_not_taken_and_what_comes_in_parts_is_served_by_a_task(loop: None) -> None:
    taken: list[bytes] = []

    def take_some(request: bytes, _: Caller, answer: Answer) -> bool:
        if request == b"full":
            return False
        taken.append(request)
        answer(b"promptly")
        return True

    async with called(take_some) as channel:
        assert await channel.unary(PATH, b"full", 5) == b"by task: full"
        assert await channel.unary(PATH, bytes(9 * MESSAGE_MAX), 5) == b"by task: " + bytes(10)
        assert await channel.unary(PATH, b"small", 5) == b"promptly"
    assert taken == [b"small"]


@pytest.fixture
def sent_by_tasks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the answers for which a task was begun."""
    sizes: list[int] = []
    send = ConnectionCalls._send

    async def note(self: ConnectionCalls, call: IncomingCall, answer: bytes, scope: trio.CancelScope) -> None:
        sizes.append(len(answer))
        await send(self, call, answer, scope)

    monkeypatch.setattr(ConnectionCalls, "_send", note)
    return sizes


async def test_an_answer_that_the_line_does_not_take_at_once_is_sent_by_a_task(
    sent_by_tasks: list[int], loop: None
) -> None:
    def answer_zeros(request: bytes, _: Caller, answer: Answer) -> bool:
        answer(bytes(int(request)))
        return True

    async with called(answer_zeros) as channel:
        for size in (10, 9 * MESSAGE_MAX):  # the larger one is more than a frame, and than the window
            assert await channel.unary(PATH, b"%d" % size, 5) == bytes(size)
        assert sent_by_tasks == [9 * MESSAGE_MAX]
        channel._connection.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1_000})
        assert await channel.unary(PATH, b"1500", 5) == bytes(1_500)
        assert sent_by_tasks == [9 * MESSAGE_MAX, 1_500]


async def test_an_answer_waits_in_a_task_while_the_line_is_full(sent_by_tasks: list[int], loop: None) -> None:
    later = Later()
    reported: list[bytes] = []
    async with called(later) as channel, trio.open_nursery() as nursery:

        async def call() -> None:
            reported.append(await channel.unary(PATH, b"", 5))

        nursery.start_soon(call)
        _, answer = await later.next()
        connection = cast("partial[None]", answer).args[0].events.connection
        connection.pause_writing()
        answer(b"small")()
        await trio.sleep(0.1)
        assert (reported, sent_by_tasks) == ([], [5])
        connection.resume_writing()
    assert reported == [b"small"]


async def test_whoever_gives_up_is_not_answered_and_takes_no_place(loop: None) -> None:
    later = Later()
    async with called(later) as channel:
        given_up = []
        for _ in range(2 * _STREAMS_MAX):
            with pytest.raises(BackhaulError):
                await channel.unary(PATH, b"given up", 0.002)
        async with trio.open_nursery() as nursery:

            async def answer_all() -> None:
                while True:
                    request, answer = await later.next()
                    given_up.append(answer)
                    if request == b"patient":
                        break
                for answer in given_up:
                    answer(b"late")()

            nursery.start_soon(answer_all)
            assert await channel.unary(PATH, b"patient", 5) == b"late"
        assert len(given_up) > _STREAMS_MAX


async def test_a_caller_whose_connection_breaks_is_let_go(loop: None) -> None:
    later = Later()
    lost: list[str] = []
    async with serving(later) as address:
        async with dialled(address) as channel, trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(PeerGone) as raised:
                    await channel.unary(PATH, b"", 5)
                lost.append(raised.value.code)

            nursery.start_soon(call)
            _, answer = await later.next()
            channel.abort()
        await trio.sleep(0.05)
        answer(b"to nobody")()
        async with dialled(address) as channel, trio.open_nursery() as nursery:  # the server is well
            nursery.start_soon(channel.unary, PATH, b"", 5)
            _, answer = await later.next()
            answer(b"")()
    assert lost == ["link.aborted"]


async def test_a_stopping_server_tells_those_who_still_wait(loop: None) -> None:
    later = Later()
    refused: list[str] = []
    async with trio.open_nursery() as nursery:
        stop = trio.Event()

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            async with serving(later) as address:
                task_status.started(address)
                await stop.wait()

        address = await nursery.start(serve)
        async with dialled(address) as channel:

            async def call() -> None:
                with pytest.raises(PeerRefused) as raised:
                    await channel.unary(PATH, b"", 5)
                refused.append(raised.value.code)

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                _, answer = await later.next()
                stop.set()
        answer(b"too late")()
    assert refused == ["link.stopping"]
