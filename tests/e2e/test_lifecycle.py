"""How services begin and end: drained in time, cut short by a second signal, restarted where they were."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time

from examples.support.postgres import Databases
from tests.e2e.lines import Relays
from tests.e2e.processes import PATIENCE_S, Stage


def test_a_node_that_is_asked_to_stop_sends_its_edges_on_and_ends_well(
    stage: Stage, relays: Relays, postgres: Databases
) -> None:
    with postgres.fresh() as url:
        leaving = stage.cloud("leaving", journal=url).start()
        staying = stage.cloud("staying", journal=url)
        staying.launch()
        line = relays.open(leaving, staying.until_ready())
        edges = [stage.edge(name, cloud=line.address) for name in ("e1", "e2")]
        for edge in edges:  # one after the other: the relay sends one to each node
            edge.start().wait_for("push.started")
        moving = edges[0]
        leaving.wait_for("push.connected", origin_id=moving.name)
        mark = moving.mark()
        for edge in edges:
            edge.append(50, size=20_000)
        began_s = time.monotonic()
        assert leaving.stop() < 8.0
        moving.wait_for("push.draining", after=mark)
        assert moving.wait_for("link.disconnected", after=mark)["code"] == "link.drained"
        # The node asks for a second; the rest is the edge's and the machine's.
        assert moving.wait_for("link.connected", after=mark)["heard_s"] - began_s < 4.0
        staying.wait_for("push.connected", origin_id=moving.name)
        staying.delivered(100)
        assert not leaving.said("service.drain_timed_out")
        stage.end()


def test_a_node_under_which_a_later_version_changes_the_tables_drains_and_says_why(
    stage: Stage, relays: Relays, postgres: Databases
) -> None:
    with postgres.fresh() as url:
        outdated = stage.cloud("outdated", journal=url).start()
        line = relays.open(outdated)
        edge = stage.edge(cloud=line.address).start()
        edge.wait_for("push.started")
        edge.append(5)
        outdated.delivered(5)
        mark = edge.mark()
        Databases(url).run(
            "ALTER FUNCTION backhaul.append_batch RENAME TO append_batch_2;"
            "ALTER FUNCTION backhaul.append_plain RENAME TO append_plain_2;"
            " INSERT INTO backhaul.schema_version SELECT max(version) + 1, 'next' FROM backhaul.schema_version"
        )
        status, body = outdated.try_append(1)
        assert (status, body["error"]["code"]) == (503, "journal.schema_newer")
        edge.append(5)
        outdated.wait_for("service.outdated", code="journal.schema_newer")
        edge.wait_for("link.disconnected", after=mark)
        outdated.wait_for("service.refused", code="journal.schema_newer")
        assert outdated.exit_status() == 2
        for service in (outdated, edge):
            assert "journal.broken" not in str(service.lines)
        # Another node, of a version that knows the tables, goes on with what this one has not taken.
        Databases(url).run(
            "ALTER FUNCTION backhaul.append_batch_2 RENAME TO append_batch;"
            "ALTER FUNCTION backhaul.append_plain_2 RENAME TO append_plain;"
            " DELETE FROM backhaul.schema_version WHERE name = 'next'"
        )
        following = stage.cloud("following", journal=url, grpc_port=outdated.grpc_port).start()
        following.delivered(10)
        stage.end()


def test_an_edge_that_is_asked_to_stop_answers_what_it_was_asked_before(stage: Stage) -> None:
    cloud, edge = stage.pair()
    event = {"entity_type": "Sensor", "entity_id": "temp1", "event_type": "Read", "payload": 1}
    body = json.dumps({"events": [event] * 20}).encode()
    head = (
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as open_requests:
        asking = [
            open_requests.enter_context(socket.create_connection(("127.0.0.1", edge.http_port), PATIENCE_S))
            for _ in range(5)
        ]
        for line in asking:
            line.sendall(head.encode() + body[:50])
        edge.get("/livez")  # accepted after those above
        began_s = time.monotonic()
        edge.send(signal.SIGTERM)
        edge.wait_for("service.stopping")
        for line in asking:
            line.sendall(body[50:])
        answers = [line.recv(65536).split(b"\r\n", 1)[0] for line in asking]
    assert edge.exit_status() == 0
    assert time.monotonic() - began_s < 20.0
    assert answers == [b"HTTP/1.1 201 "] * 5
    assert edge.start().get("/status")["journal"]["head"] == 100
    cloud.delivered(100)


def test_an_edge_that_is_asked_to_stop_leaves_the_cloud_in_good_order(stage: Stage) -> None:
    cloud, edge = stage.pair()
    edge.append(5)
    cloud.delivered(5)
    assert edge.stop() < 8.0
    assert cloud.wait_for("push.disconnected")["code"] == "link.ended"
    assert edge.wait_for("link.left")["position"] == 5


def test_a_second_signal_ends_a_service_at_once(stage: Stage) -> None:
    cloud = stage.cloud(drain_s=30).start()
    with socket.create_connection(("127.0.0.1", cloud.http_port)) as holding:
        # An unfinished request keeps it from ending.
        holding.sendall(
            b"POST /v1/parked/retry HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        cloud.get("/livez")
        cloud.send(signal.SIGTERM)
        cloud.wait_for("service.stopping", signal="SIGTERM")
        began_s = time.monotonic()
        cloud.send(signal.SIGINT)
        assert cloud.exit_status() == 1
    assert time.monotonic() - began_s < 20.0
    cloud.wait_for("service.killed", signal="SIGINT")


def test_a_restarted_cloud_goes_on_where_it_was_and_edges_come_back_by_themselves(stage: Stage, relays: Relays) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge(cloud=cloud).start()
    edge.append(10)
    cloud.delivered(10)
    port = cloud.grpc_port
    cloud.kill()
    edge.append(10)
    edge.wait_for("link.unreachable", code="link.refused")
    cloud.start(grpc_port=port)
    cloud.delivered(20)
    assert edge.said("push.started")[-1]["resume"] == "resume"
    counted = cloud.until("/v1/tally/Sensor/e1/temp1", lambda body: body["events"] >= 20)
    assert (counted["events"], counted["out_of_order"]) == (20, 0)
