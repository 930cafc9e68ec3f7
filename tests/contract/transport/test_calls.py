"""What every carrier promises of calls: refusals with their codes, bounds, and servers that stop."""

from __future__ import annotations

import pytest
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.transport.stream import (
    Caller,
    MessageStream,
    MessageTooLarge,
    Methods,
    PeerGone,
    PeerRefused,
    StreamMethod,
    UnaryMethod,
)
from tests.contract.transport.carriers import (
    MESSAGE_MAX,
    PATH,
    Carrier,
    Watched,
    echo,
    served,
    wait_for_ever,
)


async def test_a_refusal_reaches_the_caller_with_its_code(carrier: Carrier) -> None:
    async def refuse(stream: MessageStream) -> None:
        await stream.receive()
        raise BackhaulError("push.fenced", "a newer session: «2»", "wait", kind=ErrorKind.CONFLICT)

    async with served(carrier, refuse) as channel, channel.open_stream(PATH) as stream:
        await stream.send(b"hello")
        with pytest.raises(PeerRefused) as raised:
            await stream.receive()
        refusal = raised.value
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
        with pytest.raises(PeerRefused) as raised:
            await stream.receive()
    assert (raised.value.code, raised.value.kind, raised.value.retry_after_s) == (
        "journal.busy",
        ErrorKind.UNAVAILABLE,
        2.5,
    )


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
                with pytest.raises(PeerRefused) as raised:
                    await stream.receive()
            assert raised.value.code == "link.handler_failed"
            assert raised.value.status == "INTERNAL"
            assert "secret" not in str(raised.value)


async def test_an_unknown_method_is_refused(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream("/test.Streams/None") as stream:
        with pytest.raises(PeerRefused) as raised:
            await stream.receive()
    assert (raised.value.code, raised.value.status) == ("link.unknown_method", "UNIMPLEMENTED")


async def test_a_message_over_the_limit_is_not_sent_and_harms_nothing(carrier: Carrier) -> None:
    async with served(carrier, echo) as channel, channel.open_stream(PATH) as stream:
        with pytest.raises(MessageTooLarge) as raised:
            await stream.send(bytes(MESSAGE_MAX + 1))
        assert raised.value.details == {"size": MESSAGE_MAX + 1, "limit": MESSAGE_MAX}
        await stream.send(bytes(MESSAGE_MAX))
        assert len(await stream.receive()) == MESSAGE_MAX


async def test_a_unary_call_is_one_request_and_one_answer(carrier: Carrier) -> None:
    async def reverse(request: bytes, caller: Caller) -> bytes:
        assert caller.peer.address
        if not request:
            raise BackhaulError("events.empty", "nothing to reverse")
        return request[::-1]

    async def be_slow(request: bytes, caller: Caller) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    methods: Methods = {"/t.T/Reverse": UnaryMethod(reverse), "/t.T/Slow": UnaryMethod(be_slow)}
    async with carrier.serve(methods) as address, carrier.dial(address) as channel:
        assert await channel.unary("/t.T/Reverse", b"abc", 5) == b"cba"
        with pytest.raises(PeerRefused, match=r"events\.empty"):
            await channel.unary("/t.T/Reverse", b"", 5)
        with pytest.raises(BackhaulError) as raised:
            await channel.unary("/t.T/Slow", b"x", 0.05)
        assert raised.value.code in {"link.timeout", "link.deadline_exceeded"}

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
            with trio.fail_after(2), pytest.raises(PeerRefused) as raised:
                await stream.receive()
    assert (raised.value.code, raised.value.kind) == ("link.stopping", ErrorKind.UNAVAILABLE)
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
            with pytest.raises(PeerGone) as raised:
                async with carrier.dial(address):
                    pass
            assert raised.value.code == "link.lost"
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
