"""An edge that serves streams, against other edges of its fleet: their certificates open nothing, a policy opens what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from common.border import open_loop
from common.core.addresses import Address
from common.core.errors import BackhaulError
from common.core.push.messages import PUSH_PATH
from common.core.subscription.messages import ENTITY_EVENTS_PATH, LATEST_OFFSET_PATH, EntityQuery
from common.runtime.intake_grpc import APPEND_PATH
from common.transport.grpc import TlsFiles
from common.transport.grpc.client import open_channel
from tests.e2e.processes import PATIENCE_S, Service, Stage, open_stage
from tests.e2e.test_edge_serves import free_port
from tests.support.certificates import Authority
from tests.support.questions import encode_entity_events_request, encode_latest_offset_request

RULES = """
[[rule]]
name = "neighbours"
who = ["g2", "g3"]
read = [{ stream = "Sensor", filter = [{ exclude_all = true }, { include_tags = ["for-{id}"] }] }]
"""


class Neighbourhood:
    """An edge g1 that serves its streams over TLS, without a cloud to be reached, and the certificates of its fleet."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder, self.stage = folder, stage
        self.authority = Authority(folder / "ca")
        self.port = free_port()
        self.policy = folder / "policy.toml"

    def tls(self, name: str, *names: str) -> dict[str, Any]:
        files = self.authority.files(name, name, *names)
        return {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}

    def source(self, **settings: object) -> Service:
        identity = {**self.tls("g1", "localhost"), "tls_many_ids": True}
        return self.stage.edge(
            "g1", cloud="localhost:9", serve=f"localhost:{self.port}", **identity, **settings
        ).start()

    def reader(self, name: str, certificate: str = "", stream: str = "Sensor") -> Service:
        follows = f"{stream}@localhost:{self.port}"
        return self.stage.edge(
            name, cloud="localhost:9", subscriptions=follows, **self.tls(certificate or name)
        ).start()

    def asked(self, path: str, request: bytes, certificate: str) -> str:
        """The code that one call of a stranger's is answered with, '' for an answer."""
        files = self.authority.files(certificate, certificate)

        async def ask() -> str:
            async with (
                open_loop(),
                open_channel(
                    Address("localhost", self.port),
                    tls=TlsFiles(files.certificate, files.key, files.ca),
                    connect_timeout_s=PATIENCE_S,
                    message_max_bytes=1024 * 1024,
                    user_timeout_s=PATIENCE_S,
                ) as channel,
            ):
                try:
                    await channel.unary(path, request, PATIENCE_S)
                except BackhaulError as error:
                    return error.code
                return ""

        return trio.run(ask)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Neighbourhood]:
    with open_stage(tmp_path) as stage:
        yield Neighbourhood(tmp_path, stage)


def measure(source: Service, *tags: str) -> None:
    event = {"entity_type": "Sensor", "entity_id": tags[0], "event_type": "Read", "payload": 1, "tags": list(tags)}
    assert source.ask("POST", "/v1/events", {"events": [event]})[0] == 201


def test_without_a_policy_no_neighbour_reads_anything(fleet: Neighbourhood) -> None:
    source = fleet.source()
    measure(source, "for-g2")
    neighbour = fleet.reader("g2")
    neighbour.wait_for("link.needs_operator", code="subscription.no_such_stream")
    source.wait_for("audit.refused", who="g2", what="read Sensor", result="subscription.no_such_stream")
    for stream in ("Sensor", "Nothing"):  # what is there and what is not are answered alike
        latest = encode_latest_offset_request(EntityQuery(stream, "g2"))
        assert fleet.asked(LATEST_OFFSET_PATH, latest, "g2") == "subscription.no_such_stream"
        entity = encode_entity_events_request(EntityQuery(stream, "g2", "Sensor|g1/for-g2"))
        assert fleet.asked(ENTITY_EVENTS_PATH, entity, "g2") == "subscription.no_such_stream"


def test_the_streams_port_has_neither_intake_nor_push(fleet: Neighbourhood) -> None:
    source = fleet.source()
    for path in (APPEND_PATH, PUSH_PATH, "/backhaul.v1.Operators/Everything"):
        assert fleet.asked(path, b"", "g2") == "link.unknown_method"
    assert source.get("/v1/events?after=0")["head"] == 0
    # An edge that takes another edge for its cloud keeps what it has.
    lost = fleet.stage.edge("g3", cloud=f"localhost:{fleet.port}", **fleet.tls("g3")).start()
    lost.append(2)
    lost.wait_for("link.unreachable", code="link.unknown_method")
    assert lost.get("/v1/events?after=0")["head"] == 2


def test_a_policy_opens_to_each_neighbour_its_own_and_closes_while_connected(fleet: Neighbourhood) -> None:
    fleet.policy.write_text(RULES)
    source = fleet.source(policy=fleet.policy)
    for tag in ("for-g2", "for-g3", "secret"):
        measure(source, tag)
    readers = {name: fleet.reader(name) for name in ("g2", "g3")}
    for name, reader in readers.items():
        page = reader.until("/v1/inbox/Sensor?after=0&wait_s=2", lambda body: len(body["events"]) == 1)
        assert [row["entity_id"] for row in page["events"]] == [f"g1/for-{name}"]
    # A name of the other's in the request, and a certificate of its own: it is the certificate that counts.
    thief = fleet.reader("g2", certificate="g4")
    thief.wait_for("link.needs_operator", code="auth.identity_mismatch")
    source.wait_for("audit.refused", rule="certificate", result="auth.identity_mismatch")
    stranger = fleet.reader("g4")
    stranger.wait_for("link.needs_operator", code="subscription.no_such_stream")
    source.wait_for("audit.refused", who="g4", what="read Sensor", rule="no rule")
    assert (
        fleet.asked(LATEST_OFFSET_PATH, encode_latest_offset_request(EntityQuery("Sensor", "g3")), "g2")
        == "auth.identity_mismatch"
    )
    fleet.policy.write_text(RULES.replace('["g2", "g3"]', '["g3"]'))
    source.wait_for("policy.changed")
    readers["g2"].wait_for("link.disconnected")
    readers["g2"].wait_for("link.needs_operator", code="subscription.no_such_stream")
    mark = readers["g3"].mark()
    measure(source, "for-g3")
    readers["g3"].until("/v1/inbox/Sensor?after=1&wait_s=2", lambda body: len(body["events"]) == 1)
    assert not readers["g3"].said("link.needs_operator", after=mark)


def test_a_blocked_neighbour_is_cut_off_by_the_edge_itself(fleet: Neighbourhood) -> None:
    fleet.policy.write_text(RULES)
    source = fleet.source(policy=fleet.policy)
    measure(source, "for-g2")
    reader = fleet.reader("g2")
    reader.until("/v1/inbox/Sensor?after=0&wait_s=2", lambda body: len(body["events"]) == 1)
    assert source.ask("POST", "/v1/identities/block", {"id": "g2", "reason": "stolen"})[0] == 200
    reader.wait_for("link.disconnected", code="auth.refused")
    source.wait_for("consumer.disconnected", code="auth.refused")
    measure(source, "for-g2")
    reader.wait_for("link.needs_operator", code="auth.refused")
    assert len(reader.get("/v1/inbox/Sensor?after=0")["events"]) == 1
