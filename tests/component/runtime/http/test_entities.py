"""Commands and durable state over HTTP, asked over real loopback sockets; the journal is the one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from common.core.events.types import EventTypes
from common.entity.durable_state import define_states
from common.entity.states import States
from common.journal.group_commit import open_group_commit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.runtime.http.app import HttpApp
from common.runtime.http.entities import entity_routes, state_routes
from common.runtime.http.serving.server import serve_http
from tests.contract.entity.test_states import Drones
from tests.support.builders import SettableClock, ids
from tests.support.entities import entities_over


@asynccontextmanager
async def serving() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=ids().__next__) as journal,
        open_group_commit(journal.log) as commit,
        entities_over(journal, commit) as entities,
    ):
        states = States(journal, commit, define_states([Drones], EventTypes()), node="n", now_us=lambda: 7)
        await states.prepare()
        app = HttpApp([*entity_routes(entities), *state_routes(states)], body_max_bytes=10_000)
        async with serve_http(app, "127.0.0.1", 0, connections_max=10) as port:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                yield client


class TestCommands:
    async def test_a_command_is_answered_with_its_reply_and_the_state_can_be_read(self) -> None:
        async with serving() as client:
            answer = await client.post("/v1/entities/Counter/edge-1/a/Add", json={"by": 5})
            assert answer.json() == {"reply": 5, "seq_nr": 1, "events": 1, "repeated": False}
            answer = await client.get("/v1/entities/Counter/edge-1/a")
            assert answer.json() == {"state": {"value": 5}, "seq_nr": 1}

    async def test_a_rejection_is_a_conflict_with_the_entitys_reason(self) -> None:
        async with serving() as client:
            answer = await client.post("/v1/entities/Counter/a/Take", json={"by": 5})
            assert answer.status_code == 409
            error = answer.json()["error"]
            assert (error["code"], error["message"]) == ("entity.rejected", "only 0 are there")

    async def test_a_repeat_with_the_key_has_no_further_effect(self) -> None:
        async with serving() as client:
            for repeated in (False, True, True):
                answer = await client.post(
                    "/v1/entities/Counter/a/Add", json={"by": 5}, headers={"Idempotency-Key": "k"}
                )
                assert answer.json() == {"reply": 5, "seq_nr": 1, "events": 1, "repeated": repeated}
            other = await client.post("/v1/entities/Counter/b/Add", json={"by": 5}, headers={"Idempotency-Key": "k"})
            assert other.json()["repeated"] is False, "a key belongs to its entity"

    @pytest.mark.parametrize(
        ("path", "body", "status", "code", "field"),
        [
            ("Counter/a/Add", b'{"by":"5"}', 400, "http.invalid_request", "by"),
            ("Counter/a/Add", b"{}", 400, "http.invalid_request", "by"),
            ("Counter/a/Add", b"", 400, "http.invalid_request", "by"),
            ("Counter/a/Add", b'{"by":1,"bye":2}', 400, "http.invalid_request", "bye"),
            ("Counter/a/AddEach", b'{"by":[1,null]}', 400, "http.invalid_request", "by.1"),
            ("Counter/a/Add", b"[]", 400, "http.invalid_request", "body"),
            ("Counter/a/Add", b"{", 400, "http.malformed_json", None),
            ("Counter/a/Sub", b"{}", 404, "entity.unknown_command", None),
            ("Count/a/Add", b'{"by":1}', 404, "entity.unknown_type", None),
            ("Counter/a%7Cb/Add", b'{"by":1}', 400, "entity.invalid_name", None),
            ("Counter//Add", b'{"by":1}', 400, "entity.invalid_name", None),
            ("Counter/a/Break", b'{"how":"raises"}', 500, "entity.decide_failed", None),
            ("Counter/a/Break", b'{"how":"exits"}', 500, "entity.decide_failed", None),
        ],
    )
    async def test_what_is_wrong_is_named(
        self, path: str, body: bytes, status: int, code: str, field: str | None
    ) -> None:
        async with serving() as client:
            answer = await client.post(
                f"/v1/entities/{path}", content=body, headers={"content-type": "application/json"}
            )
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (status, code)
            assert error.get("details", {}).get("field") == field


class TestStates:
    async def test_a_value_is_put_read_asked_for_and_deleted(self) -> None:
        async with serving() as client:
            url = "/v1/states/DroneState/d1"
            body = {"site": "oslo", "battery": 10, "labels": ["blue"]}
            assert (await client.put(url, json=body)).json() == {"revision": 1}
            assert (await client.put(url, json=body, params={"expected": 1})).json() == {"revision": 2}
            shown = {
                "id": "d1",
                "value": {"site": "oslo", "battery": 10.0, "labels": ["blue"], "flights": None},
                "revision": 2,
                "updated_us": 7,
                "tags": ["blue"],
            }
            assert (await client.get(url)).json() == shown
            for question in ({"tag": "blue"}, {"site": "oslo"}, {"is_low": "true", "battery": "10"}, {"after": "d0"}):
                assert (await client.get("/v1/states/DroneState", params=question)).json() == {"states": [shown]}
            for question in ({"tag": "red"}, {"site": "rome"}, {"is_low": "false"}, {"after": "d1"}):
                assert (await client.get("/v1/states/DroneState", params=question)).json() == {"states": []}
            assert (await client.delete(url, params={"expected": 2})).json() == {"revision": 3}
            assert (await client.get(url)).status_code == 404

    async def test_what_is_wrong_is_named(self) -> None:
        async with serving() as client:
            url = "/v1/states/DroneState/d1"
            body = {"site": "oslo", "battery": 10}
            for answer, status, code in (
                (await client.put(url, json={**body, "battery": "full"}), 400, "http.invalid_request"),
                (await client.put(url, json=body, params={"expected": 4}), 409, "state.wrong_revision"),
                (await client.put(url, json=body, params={"expected": "x"}), 400, "http.invalid_request"),
                (await client.get("/v1/states/DroneState", params={"colour": "x"}), 400, "http.invalid_request"),
                (await client.get("/v1/states/DroneState", params={"is_low": "x"}), 400, "http.invalid_request"),
                (await client.get("/v1/states/Nothing/d1"), 404, "entity.unknown_type"),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_many_clients_at_once_are_each_counted() -> None:
    async with serving() as client:

        async def caller() -> None:
            for _ in range(5):
                answer = await client.post("/v1/entities/Counter/a/Add", json={"by": 1})
                assert answer.status_code == 200

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(caller)
        assert (await client.get("/v1/entities/Counter/a")).json()["state"] == {"value": 40}
