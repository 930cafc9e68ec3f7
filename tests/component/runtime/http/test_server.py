"""The HTTP server over real loopback sockets: answers, refusals with their codes, and draining."""

from __future__ import annotations

import pytest
import structlog
import trio
import trio.testing
from starlette.types import Receive, Scope, Send

from common.core.errors import ConfigurationError
from common.runtime.http.serving.server import serve_http
from tests.support.http import Answer, Client, World, serving


async def test_one_connection_serves_many_requests() -> None:
    async with serving() as world:
        client = await world.connect()
        for number in range(20):
            answer = await client.request("POST", "/echo", b'{"n": %d}' % number)
            assert (answer.status, answer.json) == (200, {"got": {"n": number}})
            assert answer.headers["content-type"] == "application/json"


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n" * 3)
        received = b""
        with trio.fail_after(5):
            while received.count(b'{"alive":true}') < 3:
                received += bytes(await client.stream.receive_some())
        assert received.count(b"HTTP/1.1 200") == 3


async def test_health_pages() -> None:
    async with serving() as world:
        world.metrics.counter("events_total", "Events.", lambda: 0)
        client = await world.connect()
        assert (await client.request("GET", "/livez")).json == {"alive": True}
        assert (await client.request("GET", "/readyz")).json == {"ready": True, "reasons": {}}
        assert (await client.request("GET", "/status")).json == {"head": 7}
        page = await client.request("GET", "/metrics")
        assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"backhaul_edge_events_total 0.0\n" in page.body


async def test_not_ready_is_503_with_the_reasons_and_still_alive() -> None:
    async with serving() as world:
        world.not_ready = "no connection to the database"
        client = await world.connect()
        answer = await client.request("GET", "/readyz")
        assert answer.status == 503
        assert answer.json == {"ready": False, "reasons": {"journal": "no connection to the database"}}
        assert (await client.request("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", b"", 404, "http.no_such_path"),
        ("POST", "/nowhere", b"{}", 404, "http.no_such_path"),
        ("GET", "/echo", b"", 405, "http.method_not_allowed"),
        ("POST", "/echo", b"{", 400, "http.malformed_json"),
        ("POST", "/echo", b"", 400, "http.malformed_json"),
        ("POST", "/echo", b'"\xff"', 400, "http.malformed_json"),
        ("GET", "/refuse", b"", 400, "events.invalid"),
        ("GET", "/refuse?kind=conflict", b"", 409, "events.invalid"),
        ("GET", "/refuse?kind=full", b"", 507, "events.invalid"),
        ("GET", "/crash", b"", 500, "http.internal_error"),
        ("GET", "/away", b"", 503, "journal.unavailable"),
    ],
)
async def test_every_refusal_has_a_status_and_a_code_and_leaves_the_connection_usable(
    method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async with serving() as world:
        client = await world.connect()
        with structlog.testing.capture_logs() as logs:
            answer = await client.request(method, path, body)
        assert (answer.status, answer.code) == (status, code)
        assert [line["event"] for line in logs] == ["http.failed" if status == 500 else "http.refused"]
        assert (await client.request("GET", "/livez")).status == 200


async def test_the_answer_to_a_refusal_has_everything_the_error_has() -> None:
    async with serving() as world:
        client = await world.connect()
        assert (await client.request("GET", "/refuse")).json == {
            "error": {
                "code": "events.invalid",
                "message": "no",
                "hint": "do it differently",
                "details": {"index": 3},
            }
        }
        assert (await client.request("GET", "/away")).headers["retry-after"] == "2"
        assert (await client.request("GET", "/echo")).headers["allow"] == "POST"
        assert b"secret detail" not in (await client.request("GET", "/crash")).body


async def test_a_body_announced_too_large_is_refused_before_it_is_read() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(
            b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 900000000\r\n\r\n"
        )
        answer = await client.answer()
        assert (answer.status, answer.code) == (413, "http.body_too_large")
        await client.stream.aclose()


async def test_draining_finishes_what_is_begun_and_takes_nothing_new() -> None:
    world = World()
    answers: list[Answer] = []
    async with trio.open_nursery() as nursery:
        async with world.serve(drain_s=5):
            busy, idle = await world.connect(), await world.connect()
            assert (await idle.request("GET", "/livez")).status == 200

            async def ask() -> None:
                answers.append(await busy.request("GET", "/wait"))

            async def let_it_finish_once_refused() -> None:
                assert await idle.is_closed()
                with pytest.raises(OSError, match="all attempts to connect"):
                    await world.connect()
                world.may_answer.set()

            nursery.start_soon(ask)
            await world.is_handling.wait()
            nursery.start_soon(let_it_finish_once_refused)
    assert [answer.status for answer in answers] == [200]


async def test_draining_ends_at_its_deadline() -> None:
    with trio.fail_after(5):
        async with serving(drain_s=0.1) as world:
            client = await world.connect()
            await client.send(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await world.is_handling.wait()


async def test_an_address_in_use_is_a_configuration_error() -> None:
    async with serving() as world:
        with pytest.raises(ConfigurationError, match="cannot listen") as caught:
            async with serve_http(world.app(), "127.0.0.1", world.port):
                raise AssertionError
        assert caught.value.code == "http.cannot_listen"


async def test_what_an_application_raises_ends_in_a_log_line_not_in_the_service() -> None:
    async def broken_app(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError(scope["path"])

    async with serve_http(broken_app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        with structlog.testing.capture_logs() as logs:
            assert (await client.request("GET", "/x")).status == 500
            assert await client.is_closed()
            await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        assert [line["event"] for line in logs] == ["http.connection_failed"]


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(
            b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        with trio.fail_after(5):
            assert bytes(await client.stream.receive_some(100)) == b"HTTP/1.1 100 \r\n\r\n"
        await client.send(b"{}")
        assert (await client.answer()).json == {"got": {}}


async def test_the_answer_to_head_has_a_length_and_no_body() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(
            b"HEAD /large HTTP/1.1\r\nhost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
        )
        received = b""
        with trio.fail_after(5):
            while not received.endswith(b'{"alive":true}'):
                received += bytes(await client.stream.receive_some())
        assert b"content-length: 20000000\r\n" in received
        assert len(received) < 1000


async def test_an_http_1_0_client_is_answered_and_left() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(b"GET /livez HTTP/1.0\r\nhost: localhost\r\n\r\n")
        assert (await client.answer()).json == {"alive": True}
        assert await client.is_closed()


async def test_a_reader_of_an_endless_answer_that_leaves_is_noticed() -> None:
    left = trio.Event()

    async def endless(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"once", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with serve_http(endless, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await client.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with trio.fail_after(5):
            while b"once" not in bytes(await client.stream.receive_some()):
                pass
            assert not left.is_set()
            await client.stream.aclose()
            await left.wait()


async def test_a_request_under_way_when_draining_begins_has_its_answer_and_then_the_end() -> None:
    world = World()
    answers: list[Answer] = []
    head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
    async with trio.open_nursery() as nursery:
        async with world.serve(drain_s=5):
            busy, idle = await world.connect(), await world.connect()
            await busy.send(head + b"{")
            assert (await idle.request("GET", "/livez")).status == 200  # accepted after the other

            async def finish_once_draining() -> None:
                assert await idle.is_closed()
                await busy.send(b"}")
                answers.append(await busy.answer())
                assert await busy.is_closed()

            nursery.start_soon(finish_once_draining)
    assert [(answer.status, answer.headers["connection"]) for answer in answers] == [(200, "close")]
