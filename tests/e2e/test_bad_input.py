"""Everything wrong that can come to running services: each is told by a stable code, and they go on working.

One cloud and one edge for the whole file. After each test another event must still get from the edge to the cloud.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from common.core.events.batch import new_events
from common.core.flow.messages import Heartbeat
from common.core.journal.append import LocalAppend
from common.core.journal.history import Generation, History
from common.core.push.messages import PUSH_PATH, Hello
from common.generated.backhaul import v1 as wire
from common.journal.sqlite import open_sqlite_journal
from common.runtime.intake_grpc import APPEND_PATH, APPEND_STREAM_PATH
from common.transport.codec import push as codec
from common.transport.codec.intake import encode_append_request
from tests.e2e import strangers
from tests.e2e.processes import Service, open_stage

EVENT_MAX = 10_000


@dataclass
class Running:
    """A connected pair, and how many events have passed."""

    cloud: Service
    edge: Service
    passed: int = 0

    def check_works(self) -> None:
        """One more event goes all the way."""
        self.edge.append(1, entity="canary")
        self.passed += 1
        self.edge.until("/status", lambda body: body["link"]["acked"] == self.passed == body["journal"]["head"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with open_stage(tmp_path_factory.mktemp("bad-input")) as stage:
        limits: dict[str, Any] = {"event_max_bytes": EVENT_MAX, "batch_max_events": 50, "request_max_bytes": 200_000}
        cloud = stage.cloud().start()
        edge = stage.edge(cloud=cloud, **limits).start()
        edge.wait_for("push.started")
        yield Running(cloud, edge)


@pytest.fixture
def running(pair: Running) -> Iterator[Running]:
    yield pair
    pair.check_works()
    assert pair.edge.get("/status")["link"]["connects"] == 1, "the link suffered"


def event(**changes: object) -> dict[str, object]:
    """A good event with something changed; what is changed to None is left out."""
    good: dict[str, object] = {"entity_type": "Sensor", "entity_id": "t", "event_type": "Read", "payload": 1}
    return {key: value for key, value in (good | changes).items() if value is not None}


BODIES: dict[str, tuple[object, int, str]] = {
    "not json": (b"{not json", 400, "http.malformed_json"),
    "nothing": (b"", 400, "http.malformed_json"),
    "not utf-8": (b'{"entity_type": "\xff"}', 400, "http.malformed_json"),
    "not a number": (b'{"events": [NaN]}', 400, "http.malformed_json"),
    "too deep": (b"[" * 100_000, 400, "http.json_too_deep"),
    "half a surrogate pair": (b'{"entity_type": "\\ud800"}', 400, "http.malformed_json"),
    "a list": ([event()], 400, "http.invalid_request"),
    "events no list": ({"events": {}}, 400, "http.invalid_request"),
    "an event no object": ({"events": [event(), 7]}, 400, "http.invalid_request"),
    "an unknown field": (event(colour="red"), 400, "http.invalid_request"),
    "an unknown field beside": ({"events": [event()], "atomic": True}, 400, "http.invalid_request"),
    "a field missing": (event(event_type=None), 400, "http.invalid_request"),
    "an id of another type": (event(entity_id=5), 400, "http.invalid_request"),
    "tags of another type": (event(tags="a,b"), 400, "http.invalid_request"),
    "a number for true": (event(expected_seq_nr=True), 400, "http.invalid_request"),
    "a number below zero": (event(expected_seq_nr=-1), 400, "http.invalid_request"),
    "a time without zone": (event(event_time="2026-05-04T03:02:01"), 400, "http.invalid_request"),
    "no base64": (event(payload=None, payload_base64="!"), 400, "http.invalid_request"),
    "a separator in metadata": (event(metadata={"a": "b\x1fc"}), 400, "http.invalid_request"),
    "no event": ({"events": []}, 400, "events.none"),
    "a time before all times": (event(event_time="0001-01-01T00:00:00Z"), 400, "events.invalid"),
    "too many tags": (event(tags=[f"t{n}" for n in range(33)]), 400, "events.invalid"),
    "a long tag": (event(tags=["t" * 257]), 400, "events.invalid"),
    "a control character in a type": (event(event_type="a\x07b"), 400, "events.invalid"),
    "a control character in an id": (event(entity_id="a\x00b"), 400, "entity.invalid_name"),
    "a separator in an id": (event(entity_id="a|b"), 400, "entity.invalid_name"),
    "a long id": (event(entity_id="é" * 129), 400, "entity.invalid_name"),
    "an id too long with its prefix": (event(entity_id="i" * 254), 400, "entity.invalid_name"),
    "an empty id": (event(entity_id=""), 400, "entity.invalid_name"),
    "an event over the limit": (event(payload="x" * EVENT_MAX), 413, "events.too_large"),
    "too many events": ({"events": [event()] * 51}, 413, "events.too_many"),
    "a body over the limit": (b" " * 200_001, 413, "http.body_too_large"),
    "an unexpected number": (event(expected_seq_nr=7), 409, "append.wrong_expected_seq_nr"),
    "a number beyond 64 bits": (event(expected_seq_nr=2**70), 400, "http.invalid_request"),
}


def test_each_bad_body_is_refused_with_its_code_and_stores_nothing(running: Running) -> None:
    wrong = []
    for name, (body, status, code) in BODIES.items():
        reported, answer = running.edge.ask("POST", "/v1/events", body)
        error = answer.get("error", {})
        if (reported, error.get("code")) != (status, code) or not error.get("hint") or "Traceback" in str(answer):
            wrong.append((name, reported, answer))
    assert wrong == []
    assert running.edge.get("/status")["journal"]["head"] == running.passed
    logged = {line["code"] for line in running.edge.said("http.refused")}
    assert logged >= {code for _, _, code in BODIES.values()}


def test_a_key_used_again_with_another_body_is_an_error(running: Running) -> None:
    ask = running.edge.ask
    first = ask("POST", "/v1/events", event(), headers={"Idempotency-Key": "k"})
    again = ask("POST", "/v1/events", event(), headers={"Idempotency-Key": "k"})
    assert (first[0], again[0], again[1]["repeated"]) == (201, 200, True)
    running.passed += 1
    status, body = ask("POST", "/v1/events", event(payload=2), headers={"Idempotency-Key": "k"})
    assert (status, body["error"]["code"]) == (409, "append.id_reused")
    status, body = ask("POST", "/v1/events", event(), headers={"Idempotency-Key": "k" * 300})
    assert (status, body["error"]["code"]) == (400, "append.invalid_key")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "http.no_such_path"),
        ("DELETE", "/v1/events", 405, "http.method_not_allowed"),
        ("GET", "/v1/events?after=-1", 400, "http.invalid_request"),
        ("GET", "/v1/events?colour=red", 400, "http.invalid_request"),
        ("GET", "/v1/where?entity=Sensor&seq_nr=1", 400, "entity.invalid_name"),
        ("GET", "/v1/where?entity=Sensor%7Ct&seq_nr=x", 400, "http.invalid_request"),
        ("POST", "/v1/parked/99/discard", 404, "parked.no_such_row"),
    ],
)
def test_wrong_questions_are_refused_by_both(running: Running, method: str, path: str, status: int, code: str) -> None:
    for service in (running.edge, running.cloud):
        if service is running.cloud and method == "DELETE":
            continue
        reported, answer = service.ask(method, path, b"" if method == "POST" else None)
        assert (reported, answer["error"]["code"]) == (status, code), (service.name, answer)


def append_request(**columns: object) -> bytes:
    """A columnar append, as a client in another language may get it wrong."""
    good: dict[str, Any] = {"persistence_id": ["Sensor|t"], "event_type": ["Read"], "payload": [b"1"]}
    return bytes(wire.AppendRequest(events=wire.EventBatch(**(good | columns))))


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (append_request(payload=[]), "events.ragged"),
        (append_request(event_type=["Read", "Read"]), "events.ragged"),
        (append_request(tag_count=[2], tag=["only one"]), "events.ragged"),
        (append_request(tag_count=[-1]), "events.ragged"),
        (append_request(metadata_count=[1], metadata_key=["k"]), "events.ragged"),
        (append_request(event_time_us=[1, 2]), "events.ragged"),
        (append_request(persistence_id=["no separator"]), "entity.invalid_name"),
        (append_request(persistence_id=["Sensor|a\x00"]), "entity.invalid_name"),
        (append_request(payload=[bytes(EVENT_MAX + 1)]), "events.too_large"),
        (append_request(event_time_us=[-5]), "events.invalid"),
        (b"\xff\xff\xff\xff", "link.malformed"),
        (b"", "events.none"),
        (bytes(200_001), "link.message_too_large"),
    ],
)
def test_bad_columns_are_refused_over_grpc(running: Running, request_bytes: bytes, code: str) -> None:
    reported = strangers.refusal_of(running.edge.grpc_port, APPEND_PATH, request_bytes)
    assert (reported.code, bool(reported.hint)) == (code, True)
    running.edge.wait_for("call.refused", code=code)


def hello(**changes: object) -> bytes:
    history = History("j", (Generation("g", 1),), 0)
    good: dict[str, Any] = {"origin_id": "x", "instance": "i", "history": history, "clock_us": 1}
    return codec.encode_from_edge(Hello(**(good | changes)))


@pytest.mark.parametrize(
    ("path", "messages", "code"),
    [
        (PUSH_PATH, [b"\xff\xff\xff"], "link.malformed"),
        (PUSH_PATH, [codec.encode_from_edge(Heartbeat(1, 1))], "link.protocol"),
        (PUSH_PATH, [hello(origin_id="a\x00b")], "push.invalid_origin"),
        (PUSH_PATH, [hello(origin_id="")], "push.invalid_origin"),
        (PUSH_PATH, [hello(origin_id="i" * 300)], "push.invalid_origin"),
        (PUSH_PATH, [hello(protocol_version=99)], "push.version"),
        (PUSH_PATH, [hello(), hello()], "link.protocol"),
        (PUSH_PATH, [], "link.timeout"),
        ("/backhaul.v1.Push/Nothing", [], "link.not_backhaul"),
    ],
)
def test_what_is_no_edge_is_told_so_by_the_cloud(running: Running, path: str, messages: list[bytes], code: str) -> None:
    reported = strangers.refusal_of(running.cloud.grpc_port, path, *messages)
    assert reported.code in (code, "link.unknown_method"), reported


class TestNoise:
    """Bytes that are no gRPC, at both gRPC ports and the HTTP ports."""

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            bytes(range(256)) * 40,
            strangers.PREFACE + b"\x00" * 3 + b"garbage" * 50,
            strangers.PREFACE + strangers.EMPTY_SETTINGS + strangers.FRAME_OF_16_MIB,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        ],
        ids=["http-1", "bytes", "frames-of-garbage", "frame-of-16-mib", "tls"],
    )
    def test_at_a_grpc_port_ends_that_connection_only(self, running: Running, data: bytes) -> None:
        for service in (running.edge, running.cloud):
            strangers.say(service.grpc_port, data)
            service.wait_for("grpc.garbage", level="warning")

    @pytest.mark.parametrize("data", [strangers.PREFACE + strangers.EMPTY_SETTINGS, b"\x16\x03\x01" + bytes(99)])
    def test_at_an_http_port_is_answered_or_dropped(self, running: Running, data: bytes) -> None:
        for service in (running.edge, running.cloud):
            strangers.say(service.http_port, data)
            service.wait_for("http.malformed", level="warning")

    def test_a_message_that_says_it_has_4_gib_is_refused_at_its_prefix(self, running: Running) -> None:
        for service, path in ((running.edge, APPEND_STREAM_PATH), (running.cloud, PUSH_PATH)):
            answer = strangers.call_with_prefix(service.grpc_port, path, b"\x00\xff\xff\xff\xff")
            assert answer["backhaul-code"] == "link.message_too_large", answer
            assert answer["grpc-status"] == "8"


def test_a_refused_request_on_a_stream_ends_nothing(running: Running) -> None:
    good = encode_append_request(LocalAppend(new_events(["Sensor|s"], ["Read"], [b"1"])))
    bad = append_request(payload=[])
    answers = strangers.answers_of(running.edge.grpc_port, APPEND_STREAM_PATH, good, bad, good)
    assert [wire.AppendReply().parse(answer).error_code for answer in answers] == ["", "events.ragged", ""]
    running.passed += 2


class TestWhatIsNoCloud:
    """An edge that was given a wrong address says what it met there, keeps taking events, and keeps trying."""

    def test_is_named_by_the_edge(self, tmp_path: Path) -> None:
        with contextlib.ExitStack() as around:
            stage = around.enter_context(open_stage(tmp_path))
            nobody = socket.create_server(("127.0.0.1", 0))
            nothing = f"127.0.0.1:{nobody.getsockname()[1]}"
            nobody.close()
            met = {
                "silent": (around.enter_context(strangers.silent_server()), "link.timeout", "info"),
                "web": (around.enter_context(strangers.web_server()), "link.not_backhaul", "warning"),
                "nobody": (nothing, "link.refused", "info"),
                "nameless": ("backhaul.invalid:7443", "link.unreachable", "info"),
            }
            edges = {name: stage.edge(name, cloud=address, insecure=True) for name, (address, _, _) in met.items()}
            for edge in edges.values():
                edge.launch()
            for name, (_, code, level) in met.items():
                edges[name].until_ready().append(1)
                assert edges[name].wait_for("link.unreachable", code=code)["level"] == level
            for edge in edges.values():
                assert edge.stop() < 8


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory, pair: Running) -> Iterator[dict[str, Service]]:
    """Services that must not start, each for its reason, all started at once."""
    folder = tmp_path_factory.mktemp("refusals")
    newer = folder / "newer.db"
    trio.run(make_journal, newer)
    with contextlib.closing(sqlite3.connect(newer)) as database:
        database.execute("INSERT INTO schema_version SELECT 9999, 'from the future', 0")
        database.commit()
    foreign = folder / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
    (folder / "text.db").write_text("no database, just a text that is long enough to be read\n" * 100)
    taken = pair.edge.http_port
    with open_stage(folder) as stage:
        cases = {
            "settings.unknown_key": stage.edge(cloud="127.0.0.1:1", colour="red"),
            "settings.invalid_value": stage.edge(cloud="127.0.0.1:0x1"),
            "settings.plaintext_refused": stage.edge(cloud="cloud.example.com:7443"),
            "settings.unknown_projection": stage.cloud(projections="latest,soonest"),
            "journal.not_a_journal directory": stage.edge(cloud="127.0.0.1:1", journal=folder),
            "journal.not_a_journal text": stage.edge(cloud="127.0.0.1:1", journal=folder / "text.db"),
            "journal.not_a_journal foreign": stage.cloud(journal=foreign),
            "journal.schema_newer": stage.edge(cloud="127.0.0.1:1", journal=newer),
            "journal.no_directory": stage.edge(cloud="127.0.0.1:1", journal=folder / "none" / "j.db"),
            # Root may write anywhere but here.
            "journal.not_writable": stage.edge(cloud="127.0.0.1:1", journal="/proc/j.db"),
            "journal.in_use": stage.edge(cloud="127.0.0.1:1", journal=pair.edge.folder / "edge-journal.db"),
            "journal.cap_too_small": stage.edge(cloud="127.0.0.1:1", journal_max_bytes="256KiB"),
            "http.cannot_listen": stage.edge(cloud="127.0.0.1:1", http_port=taken),
            "listen.failed": stage.cloud(grpc_port=taken),
            "tls.files_unreadable": stage.cloud(
                tls_ca=folder / "text.db", tls_cert=folder / "text.db", tls_key=folder / "text.db"
            ),
        }
        for service in cases.values():
            service.launch()
        yield cases


async def make_journal(path: Path) -> None:
    async with open_sqlite_journal(path, now_us=lambda: 1, new_id=lambda: uuid.UUID(int=1).hex):
        pass


# A warning of the settings, of which a service that starts with them has the same.
_MAY_PRECEDE: Final = frozenset({"policy.streams_open"})


def test_a_service_that_must_not_start_ends_with_2_and_one_line_that_says_why(refusals: dict[str, Service]) -> None:
    wrong = []
    for case, service in refusals.items():
        status = service.exit_status()
        complaints = [line for line in service.lines if line["level"] in ("error", "warning")]
        lines = [line for line in complaints if line["event"] not in _MAY_PRECEDE]
        codes = [line.get("code") for line in lines]
        if status != 2 or codes != [case.split()[0]] or not lines[0]["hint"] or service.noise:
            wrong.append((case, status, codes, service.last_words()))
    assert wrong == []


def test_what_was_refused_is_as_it_was(refusals: dict[str, Service], running: Running) -> None:
    """And the service whose file or port another one wanted goes on: `running` looks."""
    for service in refusals.values():
        service.exit_status()
    folder = Path(str(refusals["journal.schema_newer"].settings["journal"])).parent
    assert (folder / "text.db").read_text().startswith("no database")
    with contextlib.closing(sqlite3.connect(folder / "foreign.db")) as database:
        assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("songs",)]
