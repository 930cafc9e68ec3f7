"""Requests that are served without a task and without ASGI are answered as the others are, byte for byte."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson
import pytest
import structlog
import trio
import trio.testing
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from common.core.errors import BackhaulError
from common.core.journal.append import AppendOutcome, AppendRequest
from common.core.plain_http import PlainHead
from common.core.policy.doors import Door
from common.core.policy.rights import Access, Right
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.runtime.http.app import HttpApp
from common.runtime.http.append import events_route
from common.runtime.http.promptly import Begin, PromptRoute
from common.runtime.http.serving.server import serve_http
from common.runtime.intake import Intake
from tests.support.builders import START_US, ids
from tests.support.http import JSON_FIELDS, Client, request

BODY_MAX = 5_000
EVENT = {"entity_type": "Sensor", "entity_id": "t1", "event_type": "Read", "payload": {"celsius": 21.5}}
LogLines = list[MutableMapping[str, Any]]


def event(**change: object) -> dict[str, object]:
    return {name: value for name, value in {**EVENT, **change}.items() if value is not None}


@dataclass
class Counted:
    """An application that counts the requests that come by ASGI; `is_prompt` says whether it has another way."""

    app: HttpApp
    by_asgi: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.by_asgi += 1
        await self.app(scope, receive, send)


class CountedPrompt(Counted):
    def promptly(self, head: PlainHead) -> Begin | None:
        return self.app.promptly(head)


@dataclass
class HeldLog:
    """The log of a journal, which stores what it is given when it may."""

    log: Any
    may_store: trio.Event = field(default_factory=trio.Event)
    failure: BackhaulError | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the log has
        return getattr(self.log, name)

    async def append_group(self, requests: list[AppendRequest]) -> list[AppendOutcome]:
        await self.may_store.wait()
        if self.failure is not None:
            raise self.failure
        outcomes: list[AppendOutcome] = await self.log.append_group(requests)
        return outcomes


@dataclass
class Side:
    """A running door, over a memory journal of its own."""

    app: Counted
    commit: GroupCommit
    log: HeldLog
    port: int = 0

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))


def prompt(app: HttpApp) -> Counted:
    return CountedPrompt(app)


def by_asgi(app: HttpApp) -> Counted:
    return Counted(app)


@asynccontextmanager
async def open_side(
    kind: Callable[[HttpApp], Counted] = prompt, access: Access | None = None, drain_s: float = 3.0
) -> AsyncIterator[Side]:
    async with (
        open_memory_journal(MemoryDatabase(), now_us=lambda: START_US, new_id=ids().__next__) as journal,
        open_group_commit(log := HeldLog(journal.log)) as commit,  # type: ignore[arg-type]
    ):
        log.may_store.set()
        intake = Intake(
            commit, entity_prefix="e1/", event_max_bytes=1_000, request_max_events=5, request_max_bytes=3_000
        )
        app = HttpApp([events_route(intake)], body_max_bytes=BODY_MAX, door=Door.under(["edge.example"]))
        side = Side(kind(app.behind(access or Access())), commit, log)
        async with serve_http(side.app, "127.0.0.1", 0, drain_s=drain_s) as side.port:
            yield side


async def exchanged(side: Side, parts: list[bytes]) -> tuple[bytes, LogLines]:
    """All that one connection answers to these parts, sent apart, and what is logged."""
    client = await side.connect()
    received = b""
    with structlog.testing.capture_logs() as logs:
        async with client.stream, trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    for part in parts:
                        await client.send(part)
                        await trio.testing.wait_all_tasks_blocked()
                    await client.stream.send_eof()
                except (trio.BrokenResourceError, OSError):
                    pass  # refused, and closed

            nursery.start_soon(send)
            with trio.fail_after(10):
                try:
                    while data := await client.stream.receive_some():
                        received += bytes(data)
                except trio.BrokenResourceError:
                    pass
    for line in logs:
        line.pop("peer", None)
    return re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate", received), logs


def cases() -> Iterator[tuple[str, bytes]]:
    """Each alone on a connection; a second request behind it shows whether it stays open."""
    yield "one", request(EVENT)
    yield "many", request({"events": [EVENT, event(entity_id="t2"), EVENT]})
    yield "none", request({"events": []})
    yield "too many", request({"events": [EVENT] * 6})
    yield (
        "all members",
        request(
            event(event_time="2026-05-04T03:02:01Z", tags=["a"], metadata={"k": "v"}, expected_seq_nr=0, codec="json")
        ),
    )
    yield "base64", request(event(payload=None, payload_base64="AAEC", codec="x"))
    yield "a key", request(event(idempotency_key="k1"))
    yield "a key as a header", request(EVENT, "Idempotency-Key: k2")
    yield "a key that is too long", request(EVENT, "idempotency-key: " + "k" * 300)
    yield "wrong number", request(event(expected_seq_nr=7))
    yield "an event too large", request(event(payload="x" * 1_100))
    yield "a request too large", request({"events": [event(payload="x" * 900)] * 4})
    yield "a body too large", request(b" " * (BODY_MAX + 1))
    yield "an event in a body too large", request(orjson.dumps(EVENT) + b" " * BODY_MAX)
    yield "the largest body", request(b" " * BODY_MAX)
    yield "no name", request(event(entity_id=""))
    yield "a name with an invisible character", request(event(entity_id="t\u200b"))
    yield "a reserved type", request(event(event_type="backhaul.deleted"))
    for number, body in enumerate([b"{", b"[]", b"1", b'"\xff"', b"{}", b'{"a":1}', b'{"events":1}', b" ", b"\x00"]):
        yield f"a body that is none {number}", request(body)
    yield "a member twice", request(orjson.dumps(EVENT)[:-1] + b',"payload":1}')
    yield "no event of its own", request(event(payload=None))
    yield "deep", request(event(payload=orjson.Fragment(b"[" * 200 + b"]" * 200)))
    yield "no body", request(b"")
    yield "a form", request(EVENT, usual=("host: localhost", "content-type: application/x-www-form-urlencoded"))
    yield "no type", request(EVENT, usual=("host: localhost",))
    yield (
        "a type with parameters",
        request(EVENT, usual=("host: localhost", "Content-Type: application/json; charset=x")),
    )
    yield "another host", request(EVENT, usual=("host: evil.example", JSON_FIELDS[1]))
    yield "a known host", request(EVENT, usual=("Host: EDGE.example.:80", JSON_FIELDS[1]))
    yield "a page", request(EVENT, "origin: http://evil.example")
    yield "an own page", request(EVENT, "origin: http://localhost")
    yield "a page of another site", request(EVENT, "sec-fetch-site: cross-site")
    yield "a token", request(EVENT, "authorization: Bearer right")
    yield "a token with a space", request(EVENT, "authorization: Bearer right ")
    yield "a wrong token", request(EVENT, "authorization: Bearer wrong")
    yield "another path", request(EVENT, first="POST /v1/nothing HTTP/1.1")
    yield "another method", request(EVENT, first="PUT /v1/events HTTP/1.1")
    yield "reading", request(b"", first="GET /v1/events HTTP/1.1")
    yield "a query", request(EVENT, first="POST /v1/events?x=1 HTTP/1.1")
    yield "an encoded path", request(EVENT, first="POST /v1/%65vents HTTP/1.1")
    yield "an old version", request(EVENT, first="POST /v1/events HTTP/1.0")
    yield "to be closed", request(EVENT, "connection: close")
    yield "to be kept", request(EVENT, "Connection: Keep-Alive")
    yield "an upgrade", request(EVENT, "connection: upgrade", "upgrade: h2c")
    yield "to be asked", request(EVENT, "expect: 100-continue")
    yield "two lengths", request(EVENT, "transfer-encoding: chunked")
    yield "the length twice", request(EVENT, "content-length: 1")
    yield "no host", request(EVENT, usual=JSON_FIELDS[1:])
    yield "two hosts", request(EVENT, "host: localhost")
    yield "folded", request(EVENT, "x: a\r\n b")
    yield "bare line feeds", request(EVENT, "x: a\nconnection: close")
    yield "space before a colon", request(EVENT, "x : a")
    yield "a long head", request(EVENT, *(f"x-{number}: {'y' * 90}" for number in range(60)))
    yield (
        "chunks",
        request(b"", "transfer-encoding: chunked", usual=JSON_FIELDS).replace(b"content-length: 0\r\n", b"")
        + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(orjson.dumps(EVENT)), orjson.dumps(EVENT))),
    )


CASES = dict(cases())
TOKENS = Access(tokens={Right.PROGRAMS: "right"})
# The tokens' own are asked for with this.
BY_TOKEN = "authorization: Bearer right"


@pytest.mark.parametrize(
    "access", [Access(), TOKENS, Access(frozenset({Right.OPERATORS}))], ids=["open", "token", "other"]
)
async def test_a_request_is_answered_logged_and_counted_alike_in_both_ways(access: Access) -> None:
    async with open_side(prompt, access) as quick, open_side(by_asgi, access) as slow:
        for name, sent in CASES.items():
            behind = request(event(entity_id="behind"), BY_TOKEN)
            for parts in (
                [sent],
                [sent, behind],
                [sent + behind],
                [sent[:40], sent[40:]],
                [sent[:-3], sent[-3:] + behind],
            ):
                quick_answer, slow_answer = await exchanged(quick, parts), await exchanged(slow, parts)
                assert quick_answer == slow_answer, (name, parts)
                assert quick_answer[0], name
        assert quick.app.app.refusals.read() == slow.app.app.refusals.read()
        assert quick.commit.events == slow.commit.events
        assert (quick.app.by_asgi < slow.app.by_asgi) == (Right.PROGRAMS in access.rights)


async def test_mutilated_requests_are_answered_alike_in_both_ways() -> None:
    random = Random(20)
    pieces = [
        b"\r\n",
        b"\n",
        b" ",
        b":",
        b"\t",
        b"content-length: 7\r\n",
        b"0",
        b"transfer-encoding: chunked\r\n",
        b"\x00",
    ]
    usual = list(CASES.values())
    async with open_side(prompt) as quick, open_side(by_asgi) as slow:
        for number in range(300):
            sent = bytearray(b"".join(random.choices(usual, k=random.randint(1, 3))))
            for _ in range(random.randint(0, 2)):
                at = random.randrange(len(sent))
                sent[at : at + random.randint(0, 2)] = random.choice(pieces)
            cut = random.randrange(len(sent))
            parts = [bytes(sent)] if random.random() < 0.5 else [bytes(sent[:cut]), bytes(sent[cut:])]
            assert await exchanged(quick, parts) == await exchanged(slow, parts), (number, parts)
        assert quick.commit.events == slow.commit.events


async def test_a_usual_request_does_without_asgi() -> None:
    async with open_side() as side:
        client = await side.connect()
        for number in range(1, 4):
            await client.send(request(event(entity_id=f"t{number}"), f"x-request-id: {number}"))
            answer = await client.answer()
            assert (answer.status, answer.json["first_position"]) == (201, number)
        assert side.app.by_asgi == 0
        await client.stream.aclose()


@pytest.mark.parametrize("failure", [None, BackhaulError("journal.full", "full", "drop some")])
async def test_what_the_journal_refuses_is_answered_logged_and_counted_alike(failure: BackhaulError | None) -> None:
    found = []
    for kind in (prompt, by_asgi):
        async with open_side(kind) as side:
            side.log.failure = failure
            sent = request(event(expected_seq_nr=3 if failure is None else 0))
            found.append((await exchanged(side, [sent]), side.app.app.refusals.read()))
            assert side.app.by_asgi == (kind is by_asgi)
    assert found[0] == found[1]
    assert found[0][1]


async def test_a_fault_before_the_commit_is_answered_logged_and_counted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = ZeroDivisionError("secret detail")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Intake, "_checked", fail)
    found = []
    for kind in (prompt, by_asgi):
        async with open_side(kind) as side:
            found.append((await exchanged(side, [request(EVENT)]), side.app.app.refusals.read()))
            assert side.app.by_asgi == (kind is by_asgi)
    assert found[0] == found[1]
    assert b"http.internal_error" in found[0][0][0]


async def test_what_is_sent_ahead_waits_for_the_answer_before_it() -> None:
    async with open_side() as side:
        side.log.may_store = trio.Event()
        client = await side.connect()
        await client.send(request(event(entity_id="t1")))
        await trio.testing.wait_all_tasks_blocked()
        await client.send(request(event(entity_id="t2")))
        await client.send(request(b"", first="GET /v1/nothing HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        assert side.commit.moderation.group_events == 1
        assert side.commit.queued == 0
        side.log.may_store.set()
        received = b""
        with trio.fail_after(10):
            while received.count(b"HTTP/1.1 ") < 3 or not received.endswith(b"}"):
                received += bytes(await client.stream.receive_some())
        places = [received.index(text) for text in (b'"t1"', b'"t2"', b"http.no_such_path")]
        assert places == sorted(places)
        await client.stream.aclose()


async def test_a_full_queue_makes_the_request_wait_its_turn() -> None:
    async with open_side() as side:
        client = await side.connect()
        side.commit.submit_nowait = lambda *_: False  # type: ignore[method-assign]
        await client.send(request(EVENT))
        assert (await client.answer()).status == 201
        assert side.app.by_asgi == 1
        await client.stream.aclose()


async def test_draining_waits_for_the_answer_and_says_that_it_is_the_last() -> None:
    answers = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with open_side(drain_s=60) as side:
                side.log.may_store = trio.Event()
                client, idle = await side.connect(), await side.connect()
                await idle.send(request(EVENT)[:30])
                await client.send(request(EVENT))
                await trio.testing.wait_all_tasks_blocked()

                async def answered() -> None:
                    assert await idle.is_closed()
                    await trio.testing.wait_all_tasks_blocked()
                    side.log.may_store.set()
                    answers.append(await client.answer())
                    assert await client.is_closed()
                    await idle.stream.aclose()
                    await client.stream.aclose()

                nursery.start_soon(answered)
    assert [(answer.status, answer.headers["connection"]) for answer in answers] == [(201, "close")]


async def test_draining_closes_a_connection_that_is_between_requests() -> None:
    with trio.fail_after(10):
        async with open_side(drain_s=60) as side:
            client = await side.connect()
            await client.send(request(EVENT))
            await client.answer()
        assert await client.is_closed()
        await client.stream.aclose()


async def test_a_client_that_leaves_before_its_answer_harms_nobody() -> None:
    async with open_side() as side:
        side.log.may_store = trio.Event()
        with structlog.testing.capture_logs() as logs:
            client = await side.connect()
            await client.send(request(EVENT))
            await trio.testing.wait_all_tasks_blocked()
            await client.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            side.log.may_store.set()
            other = await side.connect()
            await other.send(request(EVENT))
            assert (await other.answer()).json["first_position"] == 2
        assert logs == []
        await other.stream.aclose()


async def test_what_is_answered_after_the_connection_was_cut_goes_nowhere() -> None:
    with trio.fail_after(5):
        async with open_side(drain_s=0.05) as side:
            side.log.may_store = trio.Event()
            client = await side.connect()
            await client.send(request(EVENT))
            await trio.testing.wait_all_tasks_blocked()
        assert await client.is_closed()  # and the committer, ending later, has answered it
        await client.stream.aclose()


def test_no_route_that_is_audited_or_that_another_one_hides_answers_promptly() -> None:
    async def handler(_: Request) -> Response:
        return Response()

    def begins(*routes: BaseRoute) -> list[bool]:
        app = HttpApp(routes, body_max_bytes=10)
        heads = [PlainHead(path, {b"host": b"localhost", b"content-type": b"application/json"}, 2) for path in paths]
        return [app.promptly(head) is not None for head in heads]

    paths = ("/v1/events", "/v1/parked")
    prompt_ones = [PromptRoute(path, handler, lambda *_: True) for path in paths]
    assert begins(*prompt_ones) == [True, False]
    assert begins(Route("/v1/{any}", handler, methods=["GET"]), *prompt_ones) == [True, False]
    assert begins(Route("/v1/{any}", handler, methods=["POST"]), *prompt_ones) == [False, False]
