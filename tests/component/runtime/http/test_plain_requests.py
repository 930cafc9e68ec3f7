"""One connection's plain requests and their answers: order, whole answers, silence and the end."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
import trio.testing
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.core.plain_http import PlainHead
from common.runtime.http.promptly import Answer, Begin
from common.runtime.http.serving.server import serve_http
from tests.support.http import Client, request


class Held:
    """An application whose prompt answers the test gives."""

    def __init__(self) -> None:
        self.waiting: list[Answer] = []
        self.bodies: list[bytes] = []

    def promptly(self, head: PlainHead) -> Begin | None:
        return self._begin

    def _begin(self, body: bytes, answer: Answer) -> bool:
        if body == b"no":
            return False
        self.bodies.append(body)
        self.waiting.append(answer)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await Response(scope["path"])(scope, receive, send)

    def answer(self, body: bytes = b"yes") -> None:
        self.waiting.pop()(200, [(b"content-length", b"%d" % len(body))], body)


class Slow(Held):
    """One whose other answers wait until they may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = trio.Event(), trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.is_asked.set()
        await self.may_answer.wait()
        await super().__call__(scope, receive, send)


async def test_an_answer_that_the_line_does_not_take_at_once_is_sent_by_the_connection() -> None:
    app, large = Held(), b"x" * 20_000_000
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        for _ in range(2):
            await client.send(request(b"yes"))
            await trio.testing.wait_all_tasks_blocked()
            app.answer(large)
            assert (await client.answer()).body == large
        await client.stream.aclose()


class BeforeStep(trio.abc.Instrument):
    """Calls once, when the server's connection is about to run again."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        act = self._act
        if act is not None and "_run_handler" in task.name:
            self._act = None
            act()


async def test_what_comes_in_the_turn_of_an_answer_waits_until_all_of_it_is_out() -> None:
    app, large = Held(), b"x" * 20_000_000
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await client.send(request(b"first"))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(BeforeStep(lambda: app.answer(large)))
        await client.send(request(b"second"))
        await trio.testing.wait_all_tasks_blocked()
        assert app.bodies == [b"first"]
        assert (await client.answer()).body == large
        await trio.testing.wait_all_tasks_blocked()
        app.answer()
        assert (await client.answer()).body == b"yes"
        assert app.bodies == [b"first", b"second"]
        await client.stream.aclose()


async def test_an_answer_of_which_the_line_takes_nothing_is_sent_by_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> int:
        raise BlockingIOError

    app = Held()
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await client.send(request(b"yes"))
        await trio.testing.wait_all_tasks_blocked()
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            app.answer()
        assert (await client.answer()).body == b"yes"
        await client.stream.aclose()


async def test_only_a_request_that_is_whole_and_alone_is_taken_promptly() -> None:
    app = Held()
    sent = request(b"whole", first="POST /asked HTTP/1.1")
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        for parts in ([sent[:-1], sent[-1:]], [sent[:20], sent[20:]], [sent + sent], [sent + sent[:20], sent[20:]]):
            for part in parts:
                await client.send(part)
                await trio.testing.wait_all_tasks_blocked()
            received, count = b"", sum(map(len, parts)) // len(sent)
            with trio.fail_after(10):
                while received.count(b"\r\n\r\n/asked") < count:
                    received += bytes(await client.stream.receive_some())
        assert app.bodies == []
        await client.stream.aclose()


async def test_an_answer_that_is_partly_out_when_draining_begins_is_sent_whole() -> None:
    app, large, got = Held(), b"x" * 20_000_000, []
    async with trio.open_nursery() as nursery:
        async with serve_http(app, "127.0.0.1", 0, drain_s=10) as port:
            client = Client(await trio.open_tcp_stream("127.0.0.1", port))
            await client.send(request(b"yes"))
            await trio.testing.wait_all_tasks_blocked()
            app.answer(large)

            async def read() -> None:
                await trio.testing.wait_all_tasks_blocked()
                got.append((await client.answer()).body == large)
                assert await client.is_closed()
                await client.stream.aclose()

            nursery.start_soon(read)
    assert got == [True]


async def test_what_a_prompt_route_does_not_take_goes_by_asgi_and_the_connection_on() -> None:
    app = Held()
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        for _ in range(2):
            await client.send(request(b"no", first="POST /asked HTTP/1.1"))
            assert (await client.answer()).body == b"/asked"
            await client.send(request(b"yes"))
            await trio.testing.wait_all_tasks_blocked()
            app.answer()
            assert (await client.answer()).body == b"yes"
        await client.stream.aclose()


@pytest.mark.parametrize("client_sends", ["nothing", "part of a head"])
async def test_a_connection_is_closed_after_a_silence_since_the_last_answer(
    mock_clock: trio.testing.MockClock, client_sends: str
) -> None:
    app = Held()
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))

        async def passes(seconds: float) -> None:
            mock_clock.jump(seconds)
            await trio.testing.wait_all_tasks_blocked(0.01)

        for _ in range(2):
            await client.send(request(b"yes"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await passes(100)  # it is waited for as long as it takes
            app.answer()
            assert (await client.answer()).body == b"yes"
            await passes(59)
        if client_sends != "nothing":
            await client.send(request(b"yes")[:30])
            await trio.testing.wait_all_tasks_blocked(0.01)
        await passes(2)
        assert await client.is_closed()
        await client.stream.aclose()


async def test_the_silence_begins_anew_with_each_answer_also_where_requests_are_sent_ahead(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The first takes longer than a silence may last, and only half of the head behind it has come by then."""
    app = Slow()
    sent = request(b"no", first="POST /asked HTTP/1.1")
    async with serve_http(app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await client.send(sent + sent[:30])
        await app.is_asked.wait()
        mock_clock.jump(100)
        app.may_answer.set()
        assert (await client.answer()).body == b"/asked"
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(sent[30:])
        assert (await client.answer()).body == b"/asked"
        await client.send(sent[:30])
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(61)
        assert await client.is_closed()
        await client.stream.aclose()
