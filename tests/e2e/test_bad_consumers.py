"""Everything wrong that can come on the way down, to and from running services: each has its own code, nobody else feels it.

One cloud and one edge that follows it for most of the file. After each test another event must still get from the cloud
into the edge's inbox, over the same connection.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h2.connection
import pytest

from common.core.flow.messages import Heartbeat
from common.core.subscription.messages import (
    ENTITY_EVENTS_PATH,
    EVENT_PATH,
    LATEST_OFFSET_PATH,
    SUBSCRIBE_PATH,
    ConsumerAck,
    EntityQuery,
    FilterUpdate,
    FromConsumer,
    Replay,
    StreamLimits,
    Subscribe,
)
from common.core.subscription.place import NO_FILTER, NO_RESUME_POINT, FilterState, LogCursor, ResumePoint
from common.transport.codec.subscription import encode_from_consumer
from tests.e2e import strangers
from tests.e2e.processes import Service, Stage, open_stage
from tests.support import questions

LIMITS = StreamLimits(4_000_000, 1_000_000, 500)
GOOD = Subscribe("orders", "stranger", "mine", NO_RESUME_POINT, NO_FILTER, LIMITS, 0)
PATH = "/v1/subscriptions/orders/filter"
FILL_BYTES = 300_000


@dataclass
class Running:
    """A cloud, an edge that follows it, and how many events have passed."""

    cloud: Service
    edge: Service
    published: int = 0

    def publish(self, count: int = 1, size: int = 20) -> None:
        self.cloud.append(count, entity="o1", size=size, entity_type="WorkOrder")
        self.published += count

    def check_works(self) -> None:
        """One more event goes all the way, and all before it were acknowledged by this edge's program."""
        self.publish()
        self.edge.until("/v1/inbox/orders", lambda body: body["inbox"]["last_id"] == self.published)

    def say(self, *messages: FromConsumer | bytes) -> str:
        """The code with which a stream is refused that says this; the cloud's log must have it too."""
        sent = [one if isinstance(one, bytes) else encode_from_consumer(one) for one in messages]
        reported = strangers.refusal_of(self.cloud.grpc_port, SUBSCRIBE_PATH, *sent)
        assert reported.hint, reported
        self.cloud.wait_for("call.refused", code=reported.code)  # said once in a while, as everything that comes again
        return reported.code


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with open_stage(tmp_path_factory.mktemp("bad-consumers")) as stage:
        cloud = stage.cloud(streams="orders=WorkOrder", projections="").start()
        edge = stage.edge(cloud=cloud, subscriptions="orders").start()
        edge.wait_for("subscription.started")
        running = Running(cloud, edge)
        running.publish(10)
        yield running


@pytest.fixture
def running(pair: Running) -> Iterator[Running]:
    yield pair
    pair.check_works()
    [subscription] = [one for one in pair.edge.get("/status")["subscriptions"] if one["name"] == "orders"]
    assert subscription["connects"] == 1, "the link suffered"


def place(running: Running, **changes: object) -> ResumePoint:
    """A consumer's place that fits, with something changed."""
    followed = running.edge.get("/v1/subscriptions")["subscriptions"][0]
    good = ResumePoint(followed["journal_id"], followed["generation_id"], LogCursor(1), FilterState(0, ""))
    return replace(good, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"\xff\xff\xff", "link.malformed"),
        (Heartbeat(1, 1), "link.protocol"),
        (replace(GOOD, protocol_version=99), "subscription.version"),
        (replace(GOOD, consumer_id=""), "subscription.invalid_consumer"),
        (replace(GOOD, consumer_id="a\x00b"), "subscription.invalid_consumer"),
        (replace(GOOD, consumer_id="i" * 300), "subscription.invalid_consumer"),
        (replace(GOOD, subscription="a\x00b"), "link.protocol"),
        (replace(GOOD, stream_id="nothing"), "subscription.no_such_stream"),
        (replace(GOOD, stream_id=""), "subscription.no_such_stream"),
        (replace(GOOD, stream_id="Work|Order"), "subscription.no_such_stream"),
    ],
)
def test_what_is_no_consumer_is_told_so(running: Running, first: FromConsumer | bytes, code: str) -> None:
    assert running.say(first) == code


def test_a_consumer_that_says_nothing_is_let_go(running: Running) -> None:
    assert running.say() == "link.timeout"


def test_places_that_are_none_of_this_log_are_told_apart(running: Running) -> None:
    def asked(**changes: object) -> str:
        return running.say(replace(GOOD, place=place(running, **changes)))

    assert asked(journal_id="another") == "subscription.other_journal"
    assert asked(live=LogCursor(10**9)) == "subscription.beyond_head"
    assert asked(generation_id="another") == "subscription.diverged"
    assert asked(live=LogCursor(1, digest="kmade-up")) == "subscription.diverged"
    assert asked(journal_id="") == "subscription.other_journal"


CRITERIA: dict[str, tuple[str, str]] = {
    "no json": ("{not json", "filter.invalid"),
    "no list": ('{"exclude_all": true}', "filter.invalid"),
    "an unknown criterion": ('[{"include_colours": ["red"]}]', "filter.invalid"),
    "ids of another type": ('[{"include_ids": [5]}]', "filter.invalid"),
    "an open bracket": ('[{"include_regex": ["a("]}]', "filter.bad_regex"),
    "a back-reference": (r'[{"include_regex": ["(a)\\1"]}]', "filter.bad_regex"),
    "look-around": ('[{"exclude_regex": ["(?=a)a"]}]', "filter.bad_regex"),
    "one that explodes when it is unrolled": ('[{"include_regex": ["((a{1,99}){1,99}){1,99}"]}]', "filter.bad_regex"),
    "a topic behind #": ('[{"include_topics": ["#/a"]}]', "filter.bad_topic"),
    "a topic with half a +": ('[{"include_topics": ["a+"]}]', "filter.bad_topic"),
    "no topic": ('[{"include_topics": [""]}]', "filter.bad_topic"),
    "too many tags": (json.dumps([{"include_tags": [f"t{n}" for n in range(1_001)]}]), "filter.too_large"),
    "too many expressions": (json.dumps([{"include_regex": [f"a{n}" for n in range(17)]}]), "filter.too_large"),
    "too many criteria": (json.dumps([{"include_tags": ["a"]}] * 1_001), "filter.too_large"),
    "too many bytes": (json.dumps([{"include_tags": ["a" * 200_000]}]), "filter.too_large"),
}


def test_filters_that_cannot_be_are_refused_by_the_source_at_first_and_later(running: Running) -> None:
    wrong = []
    for name, (criteria, code) in CRITERIA.items():
        at_first = running.say(replace(GOOD, requested=FilterState(1, criteria)))
        later = running.say(GOOD, FilterUpdate(1, criteria))
        if (at_first, later) != (code, code):
            wrong.append((name, at_first, later))
    assert wrong == []


def test_filters_that_cannot_be_are_refused_by_the_edge_and_change_nothing(running: Running) -> None:
    wrong, mark = [], running.edge.mark()
    before = running.edge.get("/v1/subscriptions")["subscriptions"][0]["requested"]
    for name, (criteria, code) in CRITERIA.items():
        if name == "no json":
            continue
        status, answer = running.edge.ask("PUT", PATH, {"criteria": json.loads(criteria)})
        error = answer.get("error", {})
        if (status, error.get("code")) != (413 if code == "filter.too_large" else 400, code) or not error.get("hint"):
            wrong.append((name, status, answer))
    assert wrong == []
    assert running.edge.get("/v1/subscriptions")["subscriptions"][0]["requested"] == before
    logged = {line["code"] for line in running.edge.said("http.refused", after=mark)}
    assert logged == {"filter.invalid", "filter.bad_regex", "filter.bad_topic", "filter.too_large"}


def test_an_expression_that_would_take_other_engines_for_ever_takes_nothing(running: Running) -> None:
    """Here it holds up nobody: `running` looks."""
    criteria = '[{"exclude_all": true}, {"include_regex": ["(a+)+(b|a+)*c", "(.*)*(.*)*x"]}]'
    running.cloud.append(5, entity="a" * 200, entity_type="Other")
    reported = running.say(replace(GOOD, requested=FilterState(1, criteria)), ConsumerAck(99))
    assert reported == "link.protocol"  # it got as far as the ack


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ([GOOD], "link.protocol"),
        ([ConsumerAck(10_000)], "link.protocol"),
        ([FilterUpdate(n, "[]") for n in range(1, 41)], "subscription.too_many_updates"),
        ([FilterUpdate(2, "[]"), FilterUpdate(1, "[]")], "link.protocol"),
        ([Replay(f"WorkOrder|o{n}", 1) for n in range(200)], "subscription.too_many_replays"),
        ([Replay("no entity", 1)], "link.protocol"),
        ([Replay("WorkOrder|o1", 0)], "link.protocol"),
        ([b"\x00\xff"], "link.malformed"),
        ([], "subscription.not_acked"),
    ],
    ids=["twice", "acks-ahead", "flood", "old-version", "replays", "no-entity", "from-0", "bytes", "never-acks"],
)
def test_a_consumer_that_does_not_keep_to_the_steps_loses_its_stream(
    running: Running, then: list[FromConsumer | bytes], code: str
) -> None:
    assert running.say(GOOD, *then) == code
    running.cloud.wait_for("consumer.disconnected", consumer_id="stranger", code=code)


def test_a_consumer_that_never_reads_hurts_nobody_and_is_let_go(running: Running) -> None:
    mark = running.cloud.mark()
    with never_reading(running.cloud.grpc_port):
        running.cloud.wait_for("consumer.connected", after=mark, consumer_id="stranger")
        running.publish(10, size=FILL_BYTES // 10)
        for _ in range(3):
            running.check_works()
        gone = running.cloud.wait_for("consumer.disconnected", after=mark, consumer_id="stranger")
    assert gone["code"] in ("link.stalled", "subscription.not_acked")


@contextmanager
def never_reading(port: int) -> Iterator[None]:
    """A stream whose consumer says Subscribe and then leaves its socket, and HTTP/2's window, as they are."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": SUBSCRIBE_PATH,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    connection.send_headers(1, list(headers.items()))
    message = encode_from_consumer(GOOD)
    connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message)
    with socket.create_connection(("127.0.0.1", port), strangers.TIMEOUT_S) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(connection.data_to_send())
        yield


@pytest.mark.parametrize(
    ("path", "request_bytes", "code"),
    [
        (LATEST_OFFSET_PATH, EntityQuery("nothing", "stranger"), "subscription.no_such_stream"),
        (LATEST_OFFSET_PATH, EntityQuery("orders", ""), "subscription.invalid_consumer"),
        (LATEST_OFFSET_PATH, b"\xff\xff", "link.malformed"),
        (ENTITY_EVENTS_PATH, EntityQuery("orders", "stranger", "no entity", 1), "subscription.invalid_query"),
        (ENTITY_EVENTS_PATH, EntityQuery("orders", "stranger", "WorkOrder|o1", 0), "subscription.invalid_query"),
        (ENTITY_EVENTS_PATH, EntityQuery("orders", "stranger", "WorkOrder|o1", 5, 4), "subscription.invalid_query"),
        (EVENT_PATH, EntityQuery("orders", "stranger", "WorkOrder|none", 1, 1), "subscription.no_such_event"),
        (EVENT_PATH, EntityQuery("orders", "stranger", "Sensor|o1", 1, 1), "subscription.no_such_event"),
    ],
)
def test_questions_that_have_no_answer(
    running: Running, path: str, request_bytes: EntityQuery | bytes, code: str
) -> None:
    encode = {
        LATEST_OFFSET_PATH: questions.encode_latest_offset_request,
        ENTITY_EVENTS_PATH: questions.encode_entity_events_request,
        EVENT_PATH: questions.encode_event_request,
    }[path]
    data = request_bytes if isinstance(request_bytes, bytes) else encode(request_bytes)
    assert strangers.refusal_of(running.cloud.grpc_port, path, data).code == code
    running.cloud.wait_for("call.refused", code=code)


class TestPrograms:
    """Beside the edge, at its HTTP port."""

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "code"),
        [
            ("GET", "/v1/inbox/nothing", None, 404, "subscription.unknown"),
            ("GET", "/v1/inbox/orders?after=-1", None, 400, "http.invalid_request"),
            ("GET", "/v1/inbox/orders?max=0", None, 400, "http.invalid_request"),
            ("POST", "/v1/inbox/nothing/ack", {"through": 1}, 404, "subscription.unknown"),
            ("POST", "/v1/inbox/orders/ack", {"through": 10**9}, 409, "inbox.ack_beyond"),
            ("POST", "/v1/inbox/orders/ack", {"through": -1}, 400, "http.invalid_request"),
            ("POST", "/v1/inbox/orders/ack", {"through": True}, 400, "http.invalid_request"),
            ("POST", "/v1/inbox/orders/ack", {}, 400, "http.invalid_request"),
            ("PUT", "/v1/subscriptions/nothing/filter", {"criteria": []}, 404, "subscription.unknown"),
            ("PUT", PATH, {}, 400, "http.invalid_request"),
            ("PUT", PATH, {"criteria": [], "colour": 1}, 400, "http.invalid_request"),
            ("POST", "/v1/subscriptions/nothing/forget", {}, 404, "subscription.unknown"),
        ],
    )
    def test_are_told_what_is_wrong(
        self, running: Running, method: str, path: str, body: object, status: int, code: str
    ) -> None:
        reported, answer = running.edge.ask(method, path, body)
        assert (reported, answer["error"]["code"]) == (status, code), answer

    def test_a_flood_of_filters_is_coalesced_and_the_last_one_counts(self, running: Running) -> None:
        everything = [{"include_topics": ["#"]}]
        for number in range(60):
            assert running.edge.ask("PUT", PATH, {"criteria": [{"exclude_tags": [f"t{number}"]}]})[0] == 200
        assert running.edge.ask("PUT", PATH, {"criteria": everything})[0] == 200

        def is_applied(body: dict[str, object]) -> bool:
            subscriptions = body["subscriptions"]
            assert isinstance(subscriptions, list)
            [one] = subscriptions
            return bool(one["applied"] == one["requested"] and one["requested"]["criteria"] == everything)

        running.edge.until("/v1/subscriptions", is_applied)


# -- services that meet the wrong source ---------------------------------------------------------------------------
def test_an_edge_that_asks_for_a_stream_nobody_serves_says_so_and_follows_the_others(stage: Stage) -> None:
    cloud = stage.cloud(streams="orders=WorkOrder").start()
    edge = stage.edge(cloud=cloud, subscriptions="orders,nothing").start()
    reported = edge.wait_for("link.needs_operator", code="subscription.no_such_stream")
    assert (reported["subscription"], reported["level"]) == ("nothing", "error")
    cloud.append(3, entity_type="WorkOrder")
    edge.until("/v1/inbox/orders", lambda body: body["inbox"]["last_id"] == 3)
    edge.append(1)
    edge.until("/status", lambda body: body["link"]["acked"] == 1)


def test_an_edge_whose_source_is_another_one_stops_and_begins_anew_when_it_is_told_to(stage: Stage) -> None:
    cloud = stage.cloud().start()
    cloud.settings["grpc_port"] = cloud.grpc_port
    edge = stage.edge(cloud=cloud, subscriptions="WorkOrder").start()
    cloud.append(3, entity_type="WorkOrder")
    edge.until("/v1/inbox/WorkOrder", lambda body: body["inbox"]["last_id"] == 3)
    cloud.stop()
    for file in cloud.folder.glob("*.db*"):
        file.unlink()
    cloud.start()
    cloud.append(2, entity_type="WorkOrder")
    assert edge.wait_for("link.needs_operator", code="subscription.other_journal")["hint"]
    assert edge.get("/v1/inbox/WorkOrder")["inbox"]["last_id"] == 3
    edge.stop()
    edge.start(on_diverged="restart")
    edge.wait_for("subscription.restarted", code="subscription.other_journal", inbox_rows=3)
    # Rows that nobody has acknowledged stay, and the numbering goes on: programs ask for what is behind the last they saw.
    inbox = edge.until("/v1/inbox/WorkOrder?after=3", lambda body: len(body["events"]) == 2)["inbox"]
    assert (inbox["first_id"], inbox["last_id"]) == (1, 5)


def test_an_edge_whose_source_was_restored_from_a_backup_stops_there(stage: Stage, tmp_path: Path) -> None:
    cloud = stage.cloud().start()
    cloud.settings["grpc_port"] = cloud.grpc_port
    edge = stage.edge(cloud=cloud, subscriptions="WorkOrder").start()
    cloud.append(3, entity_type="WorkOrder")
    cloud.stop()
    backup = tmp_path / "backup"
    backup.mkdir()
    for file in cloud.folder.glob("*.db"):
        shutil.copy(file, backup)
    cloud.start()
    cloud.append(3, entity_type="WorkOrder")
    edge.until("/v1/inbox/WorkOrder", lambda body: body["inbox"]["last_id"] == 6)
    cloud.stop()
    for file in cloud.folder.glob("*.db*"):
        file.unlink()
    for file in backup.iterdir():
        shutil.copy(file, cloud.folder)
    mark = edge.mark()
    cloud.start()
    cloud.append(5, entity_type="WorkOrder")
    edge.wait_for("link.needs_operator", after=mark, code="subscription.diverged")
    assert edge.get("/v1/inbox/WorkOrder")["inbox"]["last_id"] == 6
