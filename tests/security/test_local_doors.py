"""A web page and a name that was resolved to loopback, against the HTTP ports of running services."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.processes import Service, open_stage

EVENT = b'{"entity_type": "Sensor", "entity_id": "t", "event_type": "Read", "payload": 1}'
EVIL = "evil.example"
# What a browser sends for a page's fetch with mode no-cors, for a form, and for a page whose name became 127.0.0.1.
PAGE = {"content-type": "text/plain", "origin": f"http://{EVIL}", "host": EVIL, "sec-fetch-site": "cross-site"}
ATTACKS = {
    "a page": (PAGE, 403, "http.host_refused"),
    "a page that asks loopback by name": (PAGE | {"host": "localhost:7580"}, 403, "http.origin_refused"),
    "a page that sends JSON": (
        {"content-type": "application/json", "origin": f"http://{EVIL}", "host": "localhost"},
        403,
        "http.origin_refused",
    ),
    "a browser that sends no origin": (
        {"content-type": "application/json", "host": "localhost", "sec-fetch-site": "cross-site"},
        403,
        "http.origin_refused",
    ),
    "a page in a frame of its own": (
        {"origin": "null", "content-type": "application/json"},
        403,
        "http.origin_refused",
    ),
    "a form of an old browser": ({"content-type": "text/plain"}, 415, "http.body_type_refused"),
    "a form": ({"content-type": "application/x-www-form-urlencoded"}, 415, "http.body_type_refused"),
    "a page of a name that is resolved to loopback": (
        {"content-type": "application/json", "origin": f"http://{EVIL}:7580", "host": f"{EVIL}:7580"},
        403,
        "http.host_refused",
    ),
}
# Of each service: what changes something, and what tells something.
WRITES = {
    "edge": [("/v1/events", EVENT), ("/v1/inbox/Sensor/ack", b'{"through": 1}'), ("/v1/parked/1/discard", b"{}")],
    "cloud": [
        ("/v1/events", EVENT),
        ("/v1/origins/e1/filter", b'{"criteria": [{"exclude_all": true}]}'),
        ("/v1/projections/latest/reset", b'{"confirm": "latest"}'),
        ("/v1/parked/retry", b'{"entity": "Sensor|t"}'),
    ],
}
READS = ["/v1/events?after=0", "/status", "/v1/parked", "/v1/subscriptions", "/v1/where?entity=Sensor%7Ct&seq_nr=1"]


@dataclass
class Pair:
    services: dict[str, Service]

    def state(self) -> list[object]:
        """What the attacks are after."""
        cloud, edge = self.services["cloud"], self.services["edge"]
        return [
            [service.get("/v1/events?after=0")["events"] for service in (cloud, edge)],
            cloud.get("/v1/origins/e1/filter"),
            [row["name"] for row in cloud.get("/v1/projections")["projections"]],
        ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with open_stage(tmp_path_factory.mktemp("doors")) as stage:
        cloud = stage.cloud().start()
        edge = stage.edge(cloud=cloud).start()
        edge.wait_for("push.started")
        edge.append(1)
        cloud.until("/status", lambda body: body["journal"]["head"] == 1)
        yield Pair({"cloud": cloud, "edge": edge})


def test_no_web_page_writes(pair: Pair) -> None:
    before = pair.state()
    wrong = []
    for (name, (headers, status, code)), kind in itertools.product(ATTACKS.items(), WRITES):
        for path, body in WRITES[kind]:
            reported, answer = pair.services[kind].ask("POST", path, body, headers=headers)
            if (reported, answer["error"]["code"]) != (status, code):
                wrong.append((name, kind, path, reported, answer))
    assert not wrong
    assert pair.state() == before
    for service in pair.services.values():
        assert service.said("http.refused", code="http.origin_refused")


def test_a_name_that_was_resolved_to_loopback_reads_nothing_but_probes(pair: Pair) -> None:
    for service, path in itertools.product(pair.services.values(), READS):
        status, answer = service.ask("GET", path, headers={"host": f"{EVIL}:7580"})
        assert (status, answer["error"]["code"]) == (403, "http.host_refused"), path
    for service in pair.services.values():
        assert service.ask("GET", "/livez", headers={"host": "10.1.2.3:7580"})[0] == 200
        assert service.ask("GET", "/readyz", headers={"host": "pod.cluster.example"})[0] == 200


@pytest.mark.parametrize("character", ["\u202e", "\u200b", "\u2066", "\ufeff", "\u00ad"])
def test_an_id_that_looks_like_another_is_refused(pair: Pair, character: str) -> None:
    for service in pair.services.values():
        event = {"entity_type": "Sensor", "entity_id": f"t{character}emp1", "event_type": "Read", "payload": 1}
        status, answer = service.ask("POST", "/v1/events", event)
        assert (status, answer["error"]["code"]) == (400, "entity.invalid_name")
        assert f"U+{ord(character):04X}" in answer["error"]["message"]


def test_names_of_the_setting_are_answered(tmp_path_factory: pytest.TempPathFactory) -> None:
    with open_stage(tmp_path_factory.mktemp("names")) as stage:
        cloud = stage.cloud(http_hosts="cloud.example,other.example").start()
        assert cloud.ask("GET", "/status", headers={"host": "Cloud.Example:7480"})[0] == 200
        assert cloud.ask("GET", "/status", headers={"host": EVIL})[0] == 403
        headers = {"host": "cloud.example", "origin": "https://cloud.example"}
        assert cloud.ask("POST", "/v1/events", EVENT, headers=headers)[0] == 201
