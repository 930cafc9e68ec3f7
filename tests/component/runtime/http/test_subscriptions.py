"""Subscriptions and inboxes over HTTP, asked over real loopback sockets; the journal is the one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import h11
import httpx
import orjson
import trio
import trio.testing

from common.core.subscription.place import NO_RESUME_POINT, LogCursor
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.subscriptions import ReceivedCommit, lease_name
from common.runtime.http.app import HttpApp
from common.runtime.http.serving.server import serve_http
from common.runtime.http.subscriptions import STREAMS_MAX, subscription_routes
from common.transport.subscription.state import SubscriptionState
from tests.support.builders import SettableClock, events, ids

LIVE = {"accept": "text/event-stream"}


@dataclass
class World:
    """A journal that follows ``orders``, its routes on a port, and a client."""

    journal: Journal
    client: httpx.AsyncClient
    lease: Lease
    state: SubscriptionState
    stop: trio.Event = field(default_factory=trio.Event)
    revision: int = 0

    async def receive(self, *names: str, payload: bytes = b"{}") -> None:
        """A commit of the consumer that brings these events."""
        batch = events(*names, payload=payload)
        batch.payload = [payload] * len(names)
        batch.position = batch.seq_nr = [1] * len(names)
        batch.prev_seq_nr = [0] * len(names)
        place = replace(NO_RESUME_POINT, live=LogCursor(self.revision + 1))
        commit = ReceivedCommit(place, inbox=batch, received=len(names), leaving=frozenset({len(names) - 1}))
        self.revision = await self.journal.subscriptions.commit("orders", self.lease, self.revision, commit, 60)
        self.state.committed.raise_to(self.revision)

    async def get(self, path: str, **query: int) -> dict[str, Any]:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        reported: dict[str, Any] = answer.json()
        return reported


@asynccontextmanager
async def serving(heartbeat_s: float = 10.0) -> AsyncIterator[World]:
    new_id = ids()
    async with open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=lambda: next(new_id)) as journal:
        lease = await journal.leases.acquire(lease_name("orders"), "edge-1", 60)
        assert lease is not None
        stop = trio.Event()
        state = SubscriptionState("orders", "orders", state="connected")
        routes = subscription_routes(journal, {"orders": state}, stop, heartbeat_s=heartbeat_s)
        app = HttpApp(routes, body_max_bytes=10_000)
        async with (
            serve_http(app, "127.0.0.1", 0, connections_max=100) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
        ):
            yield World(journal, client, lease, state, stop)


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


class Reader:
    """A live answer as a client reads it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._text = b""
        self.status = 0
        self.content_type = b""

    async def ask(self, **headers: str) -> None:
        """Send the question, and read the head of the answer."""
        reported = [("host", "localhost"), ("accept", "text/event-stream"), *headers.items()]
        named = [(name.replace("_", "-"), value) for name, value in reported]
        question = h11.Request(method="GET", target="/v1/inbox/orders", headers=named)
        await self._stream.send_all((self._http.send(question) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        head = await self._next()
        assert isinstance(head, h11.Response)
        self.status, self.content_type = head.status_code, dict(head.headers)[b"content-type"]

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._stream.receive_some())
        return event

    async def block(self) -> bytes:
        """The next event or comment; nothing at the end."""
        while b"\n\n" not in self._text:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return b""
            assert isinstance(event, h11.Data)
            self._text += event.data
        block, _, self._text = self._text.partition(b"\n\n")
        return block

    async def event(self) -> tuple[int, dict[str, Any]]:
        """Id and data of the next event."""
        while True:
            lines = (await self.block()).split(b"\n")
            if lines[0].startswith(b"id: "):
                data = b"\n".join(line.removeprefix(b"data: ") for line in lines[1:])
                return int(lines[0][4:]), orjson.loads(data)


@asynccontextmanager
async def reading(world: World, **headers: str) -> AsyncIterator[Reader]:
    async with await trio.open_tcp_stream("127.0.0.1", world.client.base_url.port or 0) as stream:
        reader = Reader(stream)
        await reader.ask(**headers)
        yield reader


class TestInbox:
    """Rows are fetched in order as often as one likes, and freed by an ack."""

    async def test_rows_come_in_pages_until_they_are_acknowledged(self) -> None:
        async with serving() as world:
            await world.receive("Order|1", "Order|2", "Order|3", payload=b'{"n":1}')
            page = await world.get("/v1/inbox/orders", max=2)
            assert [(row["id"], row["entity_id"], row["leaving"]) for row in page["events"]] == [
                (1, "1", False),
                (2, "2", False),
            ]
            assert (page["through"], page["events"][0]["payload"], page["inbox"]["rows"]) == (2, {"n": 1}, 3)
            page = await world.get("/v1/inbox/orders", after=2)
            assert [(row["id"], row["leaving"]) for row in page["events"]] == [(3, True)]
            acked = await world.client.post("/v1/inbox/orders/ack", json={"through": 2})
            assert (acked.json()["freed"], acked.json()["inbox"]["rows"]) == (2, 1)
            assert [row["id"] for row in (await world.get("/v1/inbox/orders"))["events"]] == [3]
            assert (await world.get("/v1/inbox/orders", after=3))["through"] == 3

    async def test_a_page_may_be_waited_for(self) -> None:
        async with serving() as world, trio.open_nursery() as nursery:
            pages: list[dict[str, Any]] = []

            async def ask() -> None:
                pages.append(await world.get("/v1/inbox/orders", wait_s=2))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await world.receive("Order|1")
        assert [row["id"] for row in pages[0]["events"]] == [1]

    async def test_bad_questions_have_codes(self) -> None:
        async with serving() as world:
            await world.receive("Order|1")
            get, post = world.client.get, world.client.post
            assert refused(await get("/v1/inbox/none")) == (404, "subscription.unknown")
            assert refused(await get("/v1/inbox/orders?after=x")) == (400, "http.invalid_request")
            assert refused(await get("/v1/inbox/orders?aftr=1")) == (400, "http.invalid_request")
            bad = {**LIVE, "last-event-id": "first"}
            assert refused(await get("/v1/inbox/orders", headers=bad)) == (400, "http.invalid_request")
            assert refused(await post("/v1/inbox/orders/ack", json={"through": 2})) == (409, "inbox.ack_beyond")
            assert refused(await post("/v1/inbox/orders/ack", json={"through": "1"})) == (400, "http.invalid_request")
            assert refused(await post("/v1/inbox/none/ack", json={"through": 1})) == (404, "subscription.unknown")


class TestLive:
    """A live answer brings what waits, then what comes; it resumes, and it ends with its reader or the service."""

    async def test_it_goes_on_and_is_resumed_behind_the_last_id(self) -> None:
        async with serving() as world:
            await world.receive("Order|1", "Order|2", payload=b'{\n "a":\r\n 1}')
            async with reading(world) as reader:
                assert (reader.status, reader.content_type) == (200, b"text/event-stream; charset=utf-8")
                number, shown = await reader.event()
                assert (number, shown["id"], shown["payload"]) == (1, 1, {"a": 1})
                assert (await reader.event())[0] == 2
                await world.receive("Order|3")
                assert (await reader.event())[1]["entity_id"] == "3"
            async with reading(world, last_event_id="2") as reader:
                assert (await reader.event())[0] == 3

    async def test_an_idle_one_is_kept_open_by_comments(self) -> None:
        async with serving(heartbeat_s=0.01) as world, reading(world) as reader:
            assert [await reader.block() for _ in range(3)] == [b": nothing new"] * 3

    async def test_it_ends_when_the_service_stops(self) -> None:
        async with serving() as world, reading(world) as reader:
            assert await reader.block() == b": nothing new"
            world.stop.set()
            assert await reader.block() == b""

    async def test_there_are_only_so_many_and_a_reader_that_leaves_makes_room(self) -> None:
        async with serving() as world, AsyncExitStack() as readers:
            first = await readers.enter_async_context(AsyncExitStack())
            await first.enter_async_context(reading(world))
            for _ in range(STREAMS_MAX - 1):
                await readers.enter_async_context(reading(world))
            assert refused(await world.client.get("/v1/inbox/orders", headers=LIVE)) == (503, "http.too_many_streams")
            await first.aclose()
            status = 0
            while status != 200:
                async with reading(world) as reader:
                    status = reader.status
                    await trio.sleep(0.01)


class TestSubscriptions:
    """Every subscription is shown, its filter changed, its state forgotten."""

    async def test_the_list_has_those_that_ran_and_those_that_will(self) -> None:
        async with serving() as world:
            [shown] = (await world.get("/v1/subscriptions"))["subscriptions"]
            assert (shown["name"], shown["state"], shown["inbox"]["rows"]) == ("orders", "connected", 0)
            await world.receive("Order|1")
            await world.journal.subscriptions.set_requested("old", "")
            old, orders = (await world.get("/v1/subscriptions"))["subscriptions"]
            assert (old["name"], old["state"]) == ("old", None)
            assert (orders["position"], orders["received"], orders["inbox"]["rows"]) == (1, 1, 1)
            assert orders["requested"] == {"version": 0, "criteria": []}

    async def test_a_filter_is_checked_stored_and_gets_a_version(self) -> None:
        async with serving() as world:
            put, path = world.client.put, "/v1/subscriptions/orders/filter"
            criteria = [{"exclude_all": True}, {"include_topics": ["site/7/#"]}]
            answer = await put(path, json={"criteria": criteria})
            assert answer.json()["requested"] == {"version": 1, "criteria": criteria}
            assert (await put(path, json={"criteria": criteria})).json()["requested"]["version"] == 1
            for bad, code in (
                ([{"include_topics": ["#/a"]}], "filter.bad_topic"),
                ([{"include_regex": ["("]}], "filter.bad_regex"),
                ([{"wish": 1}], "filter.invalid"),
            ):
                assert refused(await put(path, json={"criteria": bad})) == (400, code)
            assert refused(await put(path, json={})) == (400, "http.invalid_request")
            assert refused(await put("/v1/subscriptions/none/filter", json={"criteria": []}))[0] == 404
            state = await world.journal.subscriptions.get("orders")
            assert state is not None
            assert (state.requested.version, orjson.loads(state.requested.criteria)) == (1, criteria)

    async def test_a_forgotten_one_begins_anew(self) -> None:
        async with serving() as world:
            await world.receive("Order|1")
            answer = await world.client.post("/v1/subscriptions/orders/forget")
            assert (answer.status_code, answer.json()["inbox_rows"]) == (200, 1)
            assert await world.journal.subscriptions.get("orders") is None
