"""A payload leaves as the bytes that it came as: every way in, every storage, every way out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
import trio
from starlette.routing import BaseRoute

from common.core.events.batch import new_events
from common.core.events.json_text import BODY_LEVELS_MAX, PAYLOAD_LEVELS_MAX
from common.core.journal.append import LocalAppend
from common.core.subscription.place import NO_RESUME_POINT, LogCursor
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import ReceivedCommit
from common.runtime.http.app import HttpApp
from common.runtime.http.append import events_route
from common.runtime.http.journal import parked_routes, read_routes
from common.runtime.http.snapshots import snapshot_routes
from common.runtime.http.subscriptions import subscription_routes
from common.runtime.intake import Intake
from common.runtime.intake_grpc import APPEND_PATH, intake_methods
from common.testing.http_in_memory import HttpAnswer, http_request
from common.transport.codec import intake as codec
from common.transport.stream import Caller, PeerInfo, UnaryMethod
from tests.support.builders import Origin, append
from tests.support.subscription.received import NAME, take

TEXTS = {
    "big integer": b"18446744073709551616",
    "long decimal": b'{"v":0.1234567890123456789012345678901234567890}',
    "zeros and exponents": b"[1.10,-0,-0.0,1E+2,1e2]",
    "repeated keys": b'{"a":1,"b":2,"a":3}',
    "order of keys": b'{"z":1,"a":2}',
    "white space": b'{ "a" :\t1 ,\n "b" : [ ] }',
    "escapes": b'"\\u0041\\/\\ud83d\\ude00 \xc3\xa9"',
    "brackets in texts": b'{"]}":"[{\\"}"}',
    "deepest": b'{"x":' * (PAYLOAD_LEVELS_MAX - 1) + b"[]" + b"}" * (PAYLOAD_LEVELS_MAX - 1),
}
# What a deep value is there for another reason than its depth.
_CODE_OF_SHORT = {"criteria": "filter.invalid"}
HEAD = b'"entity_type":"A","entity_id":"1","event_type":"happened"'


@dataclass
class Ways:
    """A journal with its routes and its intake."""

    journal: Journal
    app: HttpApp
    intake: Intake

    async def post(self, body: bytes, **headers: str) -> HttpAnswer:
        return await http_request(self.app, "POST", "/v1/events", body, headers)

    async def get(self, path: str) -> bytes:
        answer = await http_request(self.app, "GET", path)
        assert answer.status == 200, answer.content
        return answer.content


async def single(ways: Ways, payload: bytes) -> None:
    assert (await ways.post(b"{" + HEAD + b',"payload":' + payload + b"}")).status == 201


async def escaped_key(ways: Ways, payload: bytes) -> None:
    assert (await ways.post(b'{"p\\u0061yload" : ' + payload + b" ," + HEAD + b"}")).status == 201


async def batched(ways: Ways, payload: bytes) -> None:
    other = b'{"entity_type":"B","entity_id":"1","event_type":"happened","payload":{"payload":1}}'
    event = b"{" + HEAD + b',"payload":' + payload + b',"metadata":{"payload":"x"}}'
    assert (await ways.post(b'{"events":[' + other + b"," + event + b"]}")).status == 201


async def idempotent(ways: Ways, payload: bytes) -> None:
    body = b"{" + HEAD + b',"payload":' + payload + b"}"
    assert [(await ways.post(body, idempotency_key="k")).status for _ in range(2)] == [201, 200]


async def over_grpc(ways: Ways, payload: bytes) -> None:
    method = intake_methods(ways.intake)[APPEND_PATH]
    assert isinstance(method, UnaryMethod)
    request = LocalAppend(new_events(["A|1"], ["happened"], [payload], codec=["json"]))
    await method.handler(codec.encode_append_request(request), Caller(PeerInfo("test")))


WAYS_IN: list[Callable[[Ways, bytes], Awaitable[None]]] = [single, escaped_key, batched, idempotent, over_grpc]


def routes(journal: Journal, stop: trio.Event) -> list[BaseRoute]:
    return [
        *read_routes(journal),
        *parked_routes(journal),
        *snapshot_routes(journal, 100_000),
        *subscription_routes(journal, {}, stop, heartbeat_s=1.0),
    ]


@pytest.fixture
async def ways(journal: Journal) -> Ways:
    return Ways(journal, HttpApp([], body_max_bytes=100_000), None)  # type: ignore[arg-type]


async def with_intake(ways: Ways, work: Callable[[Ways], Awaitable[None]]) -> None:
    async with open_group_commit(ways.journal.log) as commit:
        ways.intake = Intake(
            commit, entity_prefix="", event_max_bytes=50_000, request_max_events=10, request_max_bytes=100_000
        )
        ways.app = HttpApp([events_route(ways.intake), *routes(ways.journal, trio.Event())], body_max_bytes=100_000)
        await work(ways)


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_what_was_appended_is_read_as_it_came(
    ways: Ways, way_in: Callable[[Ways, bytes], Awaitable[None]]
) -> None:
    async def work(ways: Ways) -> None:
        for number, payload in enumerate(TEXTS.values(), 1):
            if way_in is idempotent and number > 1:
                break
            await way_in(ways, payload)
            [stored] = (await ways.journal.log.read_entity("A|1", number, number, max_events=1)).payload
            assert stored == payload
            for path in (f"/v1/events?entity=A|1&after_seq_nr={number - 1}", "/v1/events?last=1"):
                assert b'"payload":' + payload in await ways.get(path)

    await with_intake(ways, work)


@pytest.mark.parametrize("payload", TEXTS.values(), ids=TEXTS)
async def test_what_came_from_elsewhere_is_shown_as_it_came(ways: Ways, payload: bytes) -> None:
    """Parked rows, inboxes, live answers, snapshots."""

    async def work(ways: Ways) -> None:
        journal = ways.journal
        origin = Origin()
        await origin.dial(journal)
        pushed = origin.batch(("A|1", 5))
        pushed.events.payload, pushed.events.codec = [payload], ["json"]
        await append(journal, pushed)
        [row] = await journal.parked.rows()
        assert b'"payload":' + payload in await ways.get(f"/v1/parked/{row.id}")

        assert (await ways.post(b"{" + HEAD.replace(b'"A"', b'"B"') + b',"payload":1}')).status == 201
        lease = await take(journal)
        place = replace(NO_RESUME_POINT, live=LogCursor(1))
        await journal.subscriptions.commit(NAME, lease, 0, ReceivedCommit(place, inbox=pushed.events, received=1), 60)
        assert b'"payload":' + payload in await ways.get(f"/v1/inbox/{NAME}")

        body = b'{"seq_nr":1,"event_type":"State","payload":' + payload + b"}"
        assert (await http_request(ways.app, "PUT", "/v1/snapshots/B/1", body)).status == 201
        assert b'"payload":' + payload in await ways.get("/v1/snapshots/B/1")

    await with_intake(ways, work)


@pytest.mark.parametrize("levels", [PAYLOAD_LEVELS_MAX + 1, 200, 254, 255, 256, 1_020, 1_023, 1_024, 5_000])
async def test_what_cannot_be_kept_is_refused_with_its_place(ways: Ways, levels: int) -> None:
    async def work(ways: Ways) -> None:
        lease = await take(ways.journal)
        await ways.journal.subscriptions.commit(NAME, lease, 0, ReceivedCommit(NO_RESUME_POINT), 60)
        deep = b"[" * levels + b"]" * levels
        event = b"{" + HEAD + b',"payload":' + deep + b"}"
        for method, path, body, place in (
            ("POST", "/v1/events", event, "payload"),
            ("POST", "/v1/events", b'{"events":[' + event + b"]}", "events[0].payload"),
            ("PUT", "/v1/snapshots/B/1", b'{"seq_nr":1,"event_type":"S","payload":' + deep + b"}", "payload"),
            ("PUT", f"/v1/subscriptions/{NAME}/filter", b'{"criteria":' + deep + b"}", "criteria"),
            ("POST", f"/v1/inbox/{NAME}/ack", b'{"through":' + deep + b"}", "through"),
            ("POST", "/v1/parked/retry", b'{"entity":' + deep + b"}", "entity"),
        ):
            answer = await http_request(ways.app, method, path, body)
            error = answer.json()["error"]
            is_short = levels + 1 <= BODY_LEVELS_MAX and "payload" not in place
            assert (answer.status, error["code"]) == (
                400,
                "http.json_too_deep" if not is_short else _CODE_OF_SHORT.get(place, "http.invalid_request"),
            ), path
            assert is_short or place in error["details"]["field"], path

    await with_intake(ways, work)


@pytest.mark.parametrize(
    "twice", [b'"payload":1,"payload":2', b'"payload":1,"entity_id":"2"', b'"payload":1,"tags":[],"tags":[]']
)
async def test_a_field_of_an_event_that_is_given_twice_is_refused(ways: Ways, twice: bytes) -> None:
    async def work(ways: Ways) -> None:
        event = b"{" + HEAD + b"," + twice + b"}"
        for body, place in ((event, ""), (b'{"events":[' + event + b"]}", "events[0].")):
            answer = await ways.post(body)
            assert (answer.status, answer.json()["error"]["code"]) == (400, "http.invalid_request")
            assert answer.json()["error"]["details"]["field"].startswith(place)
            assert "is given twice" in answer.json()["error"]["message"]

    await with_intake(ways, work)


async def test_a_payload_over_grpc_that_no_reader_could_take_is_shown_in_base64(ways: Ways) -> None:
    async def work(ways: Ways) -> None:
        for payload in (b"[" * 2_000 + b"]" * 2_000, b"[" * 200 + b"]" * 200, b"NaN"):
            await over_grpc(ways, payload)
            assert b'"payload_base64":"' in await ways.get("/v1/events?last=1")

    await with_intake(ways, work)


async def test_refusals_store_nothing(ways: Ways) -> None:
    async def work(ways: Ways) -> None:
        await ways.post(b"{" + HEAD + b',"payload":1,"payload":2}')
        assert (await ways.journal.log.stats()).head_position == 0

    await with_intake(ways, work)
