"""Snapshots over HTTP, asked over real loopback sockets; the journal is the one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.runtime.http.app import HttpApp
from common.runtime.http.serving.server import serve_http
from common.runtime.http.snapshots import snapshot_routes
from tests.support.builders import SettableClock, append, ids, local

STATE = {"seq_nr": 2, "event_type": "State", "payload": {"open": True}, "metadata": {"by": "test"}}


@asynccontextmanager
async def serving(prefix: str = "edge-1/") -> AsyncIterator[tuple[Journal, httpx.AsyncClient]]:
    new_id = ids()
    async with open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=lambda: next(new_id)) as journal:
        app = HttpApp(snapshot_routes(journal, 1_000, prefix, kept=2), body_max_bytes=10_000)
        async with (
            serve_http(app, "127.0.0.1", 0, connections_max=10) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await append(journal, local(*["Order|edge-1/7"] * 3, "Order|8"))
            yield journal, client


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_snapshot_is_put_and_got_by_the_name_the_program_knows_or_the_whole_one() -> None:
    async with serving() as (journal, client):
        answer = await client.put("/v1/snapshots/Order/7", json=STATE)
        assert answer.status_code == 201
        assert answer.json() == {"entity_type": "Order", "entity_id": "edge-1/7", "seq_nr": 2, "stored": True}
        again = await client.put("/v1/snapshots/Order/edge-1/7", json=STATE)
        assert (again.status_code, again.json()["stored"]) == (201, True)
        older = await client.put("/v1/snapshots/Order/7", json={**STATE, "seq_nr": 1})
        assert (older.status_code, older.json()["stored"]) == (200, False)
        for path in ("/v1/snapshots/Order/7", "/v1/snapshots/Order/edge-1/7"):
            shown = (await client.get(path)).json()
            assert (shown["seq_nr"], shown["payload"], shown["position"]) == (2, {"open": True}, 2)
            assert (shown["event_type"], shown["metadata"], shown["taken_position"]) == ("State", {"by": "test"}, 4)
        body = {**STATE, "seq_nr": 1, "payload_base64": "AAE="}
        del body["payload"]
        assert (await client.put("/v1/snapshots/Order/8", json=body)).status_code == 201
        stored = await journal.snapshots.get("Order|8")
        assert stored is not None
        assert (stored.payload, stored.codec) == (b"\0\1", "bytes")


async def test_snapshots_are_listed_replaced_and_deleted() -> None:
    async with serving() as (journal, client):
        path = "/v1/snapshots/Order/7"
        for seq_nr in (1, 2, 3):
            await client.put(path, json={**STATE, "seq_nr": seq_nr, "says_last_event": seq_nr == 3})
        await client.put(path, json={**STATE, "seq_nr": 3, "payload": "mended"})
        await client.put("/v1/snapshots/Order/8", json={**STATE, "seq_nr": 1})
        kept = (await client.get(path, params={"all": "true"})).json()["snapshots"]
        assert [(one["seq_nr"], one["says_last_event"]) for one in kept] == [(3, False), (2, False)]
        assert (await client.get(path)).json()["payload"] == "mended"
        assert (await client.get(path, params={"seq_nr": 2})).json()["payload"] == {"open": True}
        assert refused(await client.get(path, params={"seq_nr": 1})) == (404, "snapshot.none")
        first = (await client.get("/v1/snapshots", params={"max": 1})).json()
        assert ([one["entity_id"] for one in first["snapshots"]], first["through"]) == (["8"], "Order|8")
        rest = (await client.get("/v1/snapshots", params={"after": "Order|8", "type": "Order"})).json()
        assert [(one["entity_id"], one["seq_nr"]) for one in rest["snapshots"]] == [("edge-1/7", 3)]
        assert (await client.get("/v1/snapshots", params={"type": "Other"})).json()["snapshots"] == []

        answer = await client.delete(path, params={"seq_nr": 3})
        assert answer.json() == {"entity": "Order|edge-1/7", "seq_nr": 3, "deleted": True}
        assert (await client.get(path)).json()["seq_nr"] == 2
        assert refused(await client.delete(path)) == (400, "http.invalid_request")
        assert refused(await client.delete(path, params={"seq_nr": 9})) == (404, "snapshot.none")
        await journal.log.trim(TrimLimit(1, 100))
        assert refused(await client.delete(path, params={"seq_nr": 2})) == (409, "snapshot.needed")


async def test_what_cannot_be_a_snapshot_is_refused_with_a_code() -> None:
    async with serving() as (journal, client):
        put, path = client.put, "/v1/snapshots/Order/7"
        assert refused(await put(path, json={**STATE, "seq_nr": 4})) == (409, "snapshot.ahead")
        assert refused(await put("/v1/snapshots/Order/none", json=STATE)) == (404, "snapshot.no_entity")
        for seq_nr in (0, -1, True, "2", None, 2**63):
            assert refused(await put(path, json={**STATE, "seq_nr": seq_nr})) == (400, "http.invalid_request")
        assert refused(await put(path, json={**STATE, "expected_seq_nr": 1})) == (400, "http.invalid_request")
        assert refused(await put(path, json={**STATE, "event_type": ""})) == (400, "events.invalid")
        assert refused(await put(path, json={**STATE, "payload": "x" * 2_000})) == (413, "events.too_large")
        assert refused(await put("/v1/snapshots/Or%7Cder/7", json=STATE)) == (400, "entity.invalid_name")
        assert refused(await client.get(path)) == (404, "snapshot.none")
        assert await journal.snapshots.get("Order|edge-1/7") is None
