"""The routes over a journal, asked over real loopback sockets; the journal is the one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import structlog
import trio

from common.core.events.ids import ALL_SLICES
from common.core.events.stated_range import StatedRange
from common.journal.head_signal import HeadSignal
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.runtime.http.app import HttpApp
from common.runtime.http.journal import origin_routes, parked_routes, read_routes
from common.runtime.http.projections import projection_routes
from common.runtime.http.serving.server import serve_http
from tests.support.builders import Origin, SettableClock, append, appended, events, ids, local
from tests.support.internals import memory_database


@dataclass
class World:
    """A journal, its routes on a port, and a client."""

    journal: Journal
    client: httpx.AsyncClient
    acked: int = 0

    async def about(self, position: int) -> dict[str, object]:
        return {"acked": position <= self.acked}

    async def get(self, path: str, **query: str | int) -> dict[str, Any]:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        parsed: dict[str, Any] = answer.json()
        return parsed

    async def post(self, path: str, body: object = None) -> dict[str, Any]:
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        parsed: dict[str, Any] = answer.json()
        return parsed

    async def refusal(self, method: str, path: str, body: object = None) -> tuple[int, str, str]:
        """Status, code and message."""
        answer = await self.client.request(method, path, json=body)
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["message"]


@asynccontextmanager
async def serving() -> AsyncIterator[World]:
    new_id = ids()
    async with open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=lambda: next(new_id)) as journal:
        world = World(journal, httpx.AsyncClient())
        routes = [
            *read_routes(journal, world.about),
            *parked_routes(journal),
            *origin_routes(journal),
            *projection_routes(journal, now_us=SettableClock()),
        ]
        async with serve_http(HttpApp(routes, body_max_bytes=100_000), "127.0.0.1", 0) as port:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as world.client:
                yield world


class WaitedFor(HeadSignal):
    """A prompt that tells when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = trio.Event()

    async def wait_above(self, position: int, at_most_s: float) -> None:
        self.is_waited_for.set()
        await super().wait_above(position, 60.0)


def seqs(answer: dict[str, Any]) -> list[tuple[str, int]]:
    return [(event["entity_id"], event["seq_nr"]) for event in answer["events"]]


# -- where --------------------------------------------------------------------------------------------------------


async def test_a_stored_event_is_found_with_what_the_service_knows_of_it() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x", "A|y", "A|x"))
        world.acked = 2

        first = await world.get("/v1/where", entity="A|x", seq_nr=1)
        second = await world.get("/v1/where", entity="A|x", seq_nr=2)

        assert (first["state"], first["position"], first["acked"]) == ("stored", 1, True)
        assert (second["state"], second["position"], second["acked"]) == ("stored", 3, False)
        assert second["head"]["seq_nr"] == 2
        assert "payload" not in second


async def test_a_pushed_event_is_found_with_its_origin_and_its_number_there() -> None:
    async with serving() as world:
        edge = Origin()
        await edge.dial(world.journal)
        withheld = StatedRange("A|x", 1, 4, "withheld")
        await edge.push(world.journal, ("A|x", 5, 4), ranges=[withheld])

        found = await world.get("/v1/where", entity="A|x", seq_nr=1)
        stated = await world.get("/v1/where", entity="A|x", seq_nr=3)

        assert (found["state"], found["origin_id"], found["origin_seq_nr"]) == ("stored", "edge-1", 5)
        assert (stated["state"], stated["range"]["reason"]) == ("withheld", "withheld")
        assert (stated["range"]["from_seq_nr"], stated["range"]["to_seq_nr"]) == (1, 4)


async def test_with_an_origin_the_number_is_the_one_there_and_both_are_shown() -> None:
    async with serving() as world:
        edge = Origin()
        await edge.dial(world.journal)
        await edge.push(world.journal, ("A|x", 2, 1), ranges=[StatedRange("A|x", 1, 1, "withheld")])
        await edge.push(world.journal, ("A|x", 3, 2), ("A|x", 4, 3))
        await edge.push(world.journal, ("A|x", 7, 6), ranges=[StatedRange("A|x", 5, 6, "dropped")])
        await edge.push(world.journal, ranges=[StatedRange("A|gone", 1, 9, "trimmed")])

        async def asked(seq_nr: int, name: str = "A|x") -> tuple[object, object, object]:
            found = await world.get("/v1/where", entity=name, seq_nr=seq_nr, origin="edge-1")
            assert found["asked"] == {"origin_id": "edge-1", "seq_nr": seq_nr}
            return found["state"], found.get("seq_nr"), found.get("origin_seq_nr")

        assert [await asked(number) for number in range(1, 9)] == [
            ("withheld", None, None),
            ("stored", 1, 2),
            ("stored", 2, 3),
            ("stored", 3, 4),
            ("dropped", None, None),
            ("dropped", None, None),
            ("stored", 4, 7),
            ("unknown", None, None),
        ]
        assert await asked(3, "A|gone") == ("deleted", None, None)
        assert (await world.get("/v1/where", entity="A|gone", seq_nr=3))["state"] == "deleted"
        assert (await world.get("/v1/where", entity="A|x", seq_nr=2, origin="edge-2"))["state"] == "unknown"

        await world.journal.log.trim(TrimLimit(2, 100))
        assert [await asked(number) for number in (1, 2, 3, 4)] == [
            ("withheld", None, None),
            ("deleted", None, None),
            ("deleted", None, None),
            ("stored", 3, 4),
        ]


async def test_an_entity_asked_for_without_its_edges_prefix_is_hinted_at() -> None:
    async with serving() as world:
        edge = Origin()
        await edge.dial(world.journal)
        await edge.push(world.journal, ("A|edge-1/x", 1))
        for more in ({}, {"origin": "edge-1"}):
            found = await world.get("/v1/where", entity="A|x", seq_nr=1, **more)
            assert found["state"] == "unknown"
            assert "A|edge-1/x" in found["hint"]
        assert "hint" not in await world.get("/v1/where", entity="A|y", seq_nr=1)


async def test_a_deleted_event_is_a_stated_range() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x", "A|x", "A|x"))
        await world.journal.log.trim(TrimLimit(2, 100))

        found = await world.get("/v1/where", entity="A|x", seq_nr=2)

        assert found["state"] == "deleted"
        assert found["range"] == {"from_seq_nr": 1, "to_seq_nr": 2, "reason": "trimmed"}


async def test_a_parked_event_is_found_by_its_number_at_the_origin() -> None:
    async with serving() as world:
        edge = Origin()
        await edge.dial(world.journal)
        rows = [(f"A|{n}", 3) for n in range(60)]  # more than one page of parked rows
        await edge.push(world.journal, *rows)

        found = await world.get("/v1/where", entity="A|59", seq_nr=3)

        assert (found["state"], found["parked"]["code"]) == ("parked", "parked.gap")


async def test_what_nobody_knows_is_unknown() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x"))
        assert (await world.get("/v1/where", entity="A|x", seq_nr=2))["state"] == "unknown"
        assert (await world.get("/v1/where", entity="A|z", seq_nr=1))["state"] == "unknown"


# -- events -------------------------------------------------------------------------------------------------------


async def test_the_log_is_read_in_pages_that_say_where_to_go_on() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x", "A|y", "A|x"))

        first = await world.get("/v1/events", max=2)
        second = await world.get("/v1/events", after=first["through"])
        third = await world.get("/v1/events", after=second["through"])

        assert (seqs(first), first["through"], first["head"]) == ([("x", 1), ("y", 1)], 2, 3)
        assert (seqs(second), second["through"]) == ([("x", 2)], 3)
        assert (seqs(third), third["through"]) == ([], 3)


async def test_lists_of_events_say_what_retention_removed() -> None:
    def gone(page: dict[str, Any]) -> list[tuple[str, int, int]]:
        return [(one["entity_id"], one["from_seq_nr"], one["to_seq_nr"]) for one in page["deleted"]]

    async with serving() as world:
        await appended(world.journal, local(*["A|x", "A|gone"] * 3, "A|y"))
        assert (await world.get("/v1/events"))["deleted"] == []
        assert (await world.get("/v1/events", entity="A|x"))["deleted"] == []
        await world.journal.log.trim(TrimLimit(4, 100))
        await world.journal.log.trim(TrimLimit(6, 100, entity_types=frozenset({"A"}), after=5))

        first = await world.get("/v1/events", max=1)
        rest = await world.get("/v1/events", after=first["through"])
        assert seqs(first) + seqs(rest) == [("x", 3), ("y", 1)]
        assert sorted(gone(first) + gone(rest)) == [("gone", 1, 3), ("x", 1, 2)]
        assert {one["reason"] for one in first["deleted"] + rest["deleted"]} == {"trimmed"}

        assert gone(await world.get("/v1/events", type="A", tag="red")) == sorted(
            gone(first) + gone(rest), reverse=True
        )
        assert gone(await world.get("/v1/events", type="B")) == []

        assert gone(await world.get("/v1/events", entity="A|x")) == [("x", 1, 2)]
        assert gone(await world.get("/v1/events", entity="A|x", after_seq_nr=2)) == []
        whole = await world.get("/v1/events", entity="A|gone")
        assert (seqs(whole), gone(whole), whole["through_seq_nr"]) == ([], [("gone", 1, 3)], 3)


async def test_a_place_beyond_the_head_stays_where_it_is() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x"))
        assert (await world.get("/v1/events", after=7))["through"] == 7


async def test_the_last_events() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x", "A|y", "A|x", "A|x"))
        assert seqs(await world.get("/v1/events", last=2)) == [("x", 2), ("x", 3)]
        assert seqs(await world.get("/v1/events", last=99)) == [("x", 1), ("y", 1), ("x", 2), ("x", 3)]
        assert seqs(await world.get("/v1/events", entity="A|x", last=1)) == [("x", 3)]


async def test_an_entity_is_read_by_its_numbers() -> None:
    async with serving() as world:
        await appended(world.journal, local(*["A|x", "A|y"] * 50))

        page = await world.get("/v1/events", entity="A|x", after_seq_nr=3, max=45)
        rest = await world.get("/v1/events", entity="A|x", after_seq_nr=page["through_seq_nr"])
        none = await world.get("/v1/events", entity="A|z")

        assert seqs(page) == [("x", number) for number in range(4, 49)]
        assert (page["through_seq_nr"], page["head_seq_nr"]) == (48, 50)
        assert (seqs(rest), rest["through_seq_nr"]) == ([("x", 49), ("x", 50)], 50)
        assert (seqs(none), none["through_seq_nr"]) == ([], 0)


async def test_an_entity_answer_is_bounded_in_bytes() -> None:
    async with serving() as world:
        await appended(world.journal, local(*["A|x"] * 60, payload=b"x" * 100_000))

        page = await world.get("/v1/events", entity="A|x", max=60)

        assert len(page["events"]) == 20
        assert page["through_seq_nr"] == 20


@pytest.mark.parametrize("query", [{}, {"entity": "A|x"}])
async def test_an_answer_waits_for_news(query: dict[str, str]) -> None:
    async with serving() as world:
        answers: list[dict[str, Any]] = []
        world.journal.log.head_signal = heard = WaitedFor()
        memory_database(world.journal).head_signals.append(heard)

        async def ask() -> None:
            answers.append(await world.get("/v1/events", wait_s=2, **query))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.fail_after(5):
                await heard.is_waited_for.wait()
            await appended(world.journal, local("A|x"))

        assert seqs(answers[0]) == [("x", 1)]


async def test_payloads_are_json_where_they_are_json() -> None:
    async with serving() as world:
        batch = events("A|x", "A|y", "A|z")
        batch.payload = [b'{"n": 12345678901234567890123}', b"\x00\xff", b"{broken"]
        batch.codec = ["json", "bytes", "json"]
        await appended(world.journal, local("A|w"))
        request = local("A|x", "A|y", "A|z")
        request.events.payload, request.events.codec = batch.payload, batch.codec
        await append(world.journal, request)

        as_json, as_bytes, broken = (await world.get("/v1/events", after=1))["events"]

        assert as_json["payload"] == {"n": 12345678901234567890123}
        assert as_bytes["payload_base64"] == "AP8="
        assert broken["payload_base64"] == "e2Jyb2tlbg=="


# -- parked -------------------------------------------------------------------------------------------------------


async def parked_gap(world: World) -> None:
    """Numbers 3 and 4 of A|x are parked: 1 and 2 never came."""
    edge = Origin()
    await edge.dial(world.journal)
    await edge.push(world.journal, ("A|x", 3), ("A|x", 4), payload=b"7")


async def test_parked_events_are_listed_and_shown() -> None:
    async with serving() as world:
        await parked_gap(world)

        listed = await world.get("/v1/parked", max=1)
        rest = await world.get("/v1/parked", after=listed["through"])
        other = await world.get("/v1/parked", origin="edge-2")
        [row] = listed["parked"]
        shown = await world.get(f"/v1/parked/{row['id']}")

        assert (row["entity_id"], row["seq_nr"], row["code"], row["payload_bytes"]) == ("x", 3, "parked.gap", 2)
        assert [row["code"] for row in rest["parked"]] == ["parked.behind"]
        assert other["parked"] == []
        assert shown["event"]["payload"] == 70


async def test_parked_events_are_stored_once_the_gap_is_accepted() -> None:
    async with serving() as world:
        await parked_gap(world)
        with structlog.testing.capture_logs() as lines:
            kept = await world.post("/v1/parked/retry", {"entity": "A|x"})
            stored = await world.post("/v1/parked/retry", {"entity": "A|x", "accept_gap": True})

        assert (kept["stored"], kept["left"]) == (0, "parked.gap")
        assert (stored["stored"], stored["left"]) == (2, None)
        assert seqs(await world.get("/v1/events")) == [("x", 1), ("x", 2)]
        assert [line["stored"] for line in lines if line["event"] == "operator.retried_parked"] == [0, 2]


async def test_only_the_first_parked_event_can_be_discarded() -> None:
    async with serving() as world:
        await parked_gap(world)
        first, second = (row["id"] for row in (await world.get("/v1/parked"))["parked"])

        assert (await world.refusal("POST", f"/v1/parked/{second}/discard"))[1] == "parked.not_first"
        with structlog.testing.capture_logs() as lines:
            await world.post(f"/v1/parked/{first}/discard")

        assert "operator.discarded_parked" in [line["event"] for line in lines]
        assert [row["id"] for row in (await world.get("/v1/parked"))["parked"]] == [second]
        assert (await world.get("/v1/where", entity="A|x", seq_nr=3))["range"]["reason"] == "discarded"
        assert (await world.refusal("POST", f"/v1/parked/{first}/discard"))[:2] == (404, "parked.no_such_row")
        assert (await world.refusal("GET", f"/v1/parked/{first}"))[:2] == (404, "parked.no_such_row")


# -- origins and projections --------------------------------------------------------------------------------------


async def test_a_superseded_journal_is_readmitted() -> None:
    async with serving() as world:
        await Origin(journal_id="old").dial(world.journal)
        await Origin(journal_id="new").dial(world.journal)
        [before] = (await world.get("/v1/origins"))["origins"]

        await world.post("/v1/origins/edge-1/readmit")

        [after] = (await world.get("/v1/origins"))["origins"]
        assert (before["id"], before["journal_id"], before["superseded"]) == ("edge-1", "new", ["old"])
        assert after["superseded"] == []
        assert (await world.refusal("POST", "/v1/origins/edge-9/readmit"))[:2] == (404, "origin.unknown")


async def test_projections_are_listed_paused_and_resumed() -> None:
    async with serving() as world:
        await appended(world.journal, local("A|x"))
        await world.journal.projections.acquire("latest", ALL_SLICES, "node-1", 30)

        await world.post("/v1/projections/latest/pause")
        [paused] = (await world.get("/v1/projections"))["projections"]
        await world.post("/v1/projections/latest/resume")
        [resumed] = (await world.get("/v1/projections"))["projections"]

        assert (paused["name"], paused["slices"], paused["behind"], paused["paused"]) == ("latest", "0-1023", 1, True)
        assert resumed["paused"] is False
        assert (await world.refusal("POST", "/v1/projections/none/pause"))[:2] == (404, "projection.unknown")


async def test_a_paused_projection_is_moved_within_the_log() -> None:
    async with serving() as world:
        for name in ("A|x", "A|y", "A|z"):
            await appended(world.journal, local(name))
        await world.journal.projections.acquire("latest", ALL_SLICES, "node-1", 30)
        path, wanted = "/v1/projections/latest/move", {"confirm": "latest", "position": 2}

        assert (await world.refusal("POST", path, wanted))[:2] == (409, "projection.not_paused")
        await world.post("/v1/projections/latest/pause")
        for wrong in ({**wanted, "confirm": "other"}, {**wanted, "position": 4}, {**wanted, "position": -1}):
            assert (await world.refusal("POST", path, wrong))[:2] == (400, "http.invalid_request")
        answer = await world.post(path, wanted)
        assert (answer["position"], answer["ranges"], answer["first"], answer["last"]) == (2, 1, 0, 0)
        [moved] = (await world.get("/v1/projections"))["projections"]
        assert (moved["position"], moved["behind"], moved["paused"]) == (2, 1, True)

        await world.journal.log.trim(TrimLimit(3, 100))
        assert (await world.refusal("POST", path, wanted))[:2] == (409, "projection.history_trimmed")
        assert (await world.post(path, {**wanted, "accept_trimmed": True}))["first"] == 2
        none = {"confirm": "none", "position": 3}
        assert (await world.refusal("POST", "/v1/projections/none/move", none))[:2] == (404, "projection.unknown")


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "named"),
    [
        ("GET", "/v1/where?seq_nr=1", None, "http.invalid_request", "entity"),
        ("GET", "/v1/where?entity=A|x", None, "http.invalid_request", "seq_nr"),
        ("GET", "/v1/where?entity=A|x&seq_nr=0", None, "http.invalid_request", "seq_nr"),
        ("GET", "/v1/where?entity=A|x&seq_nr=-1", None, "http.invalid_request", "seq_nr"),
        ("GET", "/v1/where?entity=A|x&seq_nr=99999999999999999999", None, "http.invalid_request", "seq_nr"),
        ("GET", "/v1/where?entity=Ax&seq_nr=1", None, "entity.invalid_name", "Ax"),
        ("GET", "/v1/where?entity=A|x&seq_nr=1&sqe=2", None, "http.invalid_request", "sqe"),
        ("GET", "/v1/where?entity=A|x&seq_nr=1&seq_nr=2", None, "http.invalid_request", "seq_nr"),
        ("GET", "/v1/events?after=x", None, "http.invalid_request", "after"),
        ("GET", "/v1/events?after=1&last=1", None, "http.invalid_request", "last"),
        ("GET", "/v1/events?max=1001", None, "http.invalid_request", "max"),
        ("GET", "/v1/events?wait_s=3", None, "http.invalid_request", "wait_s"),
        ("GET", "/v1/events?entity=A|x&after=1", None, "http.invalid_request", "after"),
        ("GET", "/v1/parked/x", None, "http.invalid_request", "id"),
        ("GET", "/v1/parked?max=0", None, "http.invalid_request", "max"),
        ("POST", "/v1/parked/retry", {"entity": 7}, "http.invalid_request", "entity"),
        ("POST", "/v1/parked/retry", {"entity": "A|x", "accept_gap": "yes"}, "http.invalid_request", "accept_gap"),
        ("POST", "/v1/parked/retry", {"entity": "A|x", "force": True}, "http.invalid_request", "force"),
        ("POST", "/v1/parked/retry", [], "http.invalid_request", "body"),
    ],
)
async def test_a_bad_request_is_refused_naming_the_field(
    method: str, path: str, body: object, code: str, named: str
) -> None:
    async with serving() as world:
        status, reported, message = await world.refusal(method, path, body)
        assert (status, reported) == (400, code)
        assert named in message
