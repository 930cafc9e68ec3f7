"""An edge that others follow: told to its operator, and left in order when it stops."""

from __future__ import annotations

import socket

from tests.e2e.lines import Relays
from tests.e2e.processes import Service, Stage


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_edge_shows_who_follows_it_and_sends_them_on_when_it_stops(stage: Stage) -> None:
    port = free_port()
    cloud = stage.cloud().start()
    source = stage.edge("source", cloud=cloud, serve=f"127.0.0.1:{port}").start()
    reader = stage.edge("reader", cloud=cloud, subscriptions=f"Sensor@127.0.0.1:{port}").start()
    source.append(3)
    page = reader.until("/v1/inbox/Sensor?after=0&wait_s=2", lambda body: len(body["events"]) == 3)
    assert [row["entity_id"] for row in page["events"]] == ["source/temp1"] * 3
    [consumer] = source.get("/status")["consumers"]
    assert (consumer["consumer"], consumer["stream"], consumer["position"]) == ("reader", "Sensor", 3)
    metrics = source.text("/metrics")
    assert "backhaul_edge_consumers_connected 1" in metrics
    assert "backhaul_edge_firehose_subscribers 1" in metrics
    mark = reader.mark()
    assert source.stop() < 8.0
    left = reader.wait_for("link.disconnected", after=mark, subscription="Sensor")
    assert left["code"] == "link.drained"
    # A cut: what is appended after the restart goes on behind what was read.
    source.start()
    source.append(2)
    page = reader.until("/v1/inbox/Sensor?after=3&wait_s=2", lambda body: len(body["events"]) == 2)
    assert [row["seq_nr"] for row in page["events"]] == [4, 5]
    stage.end()


def heard(reader: Service, *wanted: tuple[str, int]) -> None:
    """Wait until the reader's projection has so many events of these sensors, each once and in order."""
    rows = [[f"Sensor|source/{name}", n, n * (n + 1) // 2, n] for name, n in wanted]
    reader.until("/v1/heard", lambda body: body["heard"] == rows)


def test_a_projection_follows_another_edge_through_a_cut_and_a_kill(stage: Stage, relays: Relays) -> None:
    """The application's own ``Follow``: its tables and its place in the other edge's log move together."""
    port = free_port()
    cloud = stage.cloud().start()
    source = stage.edge("source", cloud=cloud, serve=f"127.0.0.1:{port}").start()
    line = relays.open(port)
    reader = stage.edge("reader", cloud=cloud, app="tests.support.apps.following:app")
    where = f"import os; os.environ['FOLLOWED_ADDRESS'] = '{line.address}'"
    reader.launch(prologue=where)
    reader.until_ready()
    source.append(30)
    heard(reader, ("temp1", 30))
    line.obey("black-hole")
    mark = reader.mark()
    source.append(20)
    source.append(5, entity="temp2")
    line.obey("reset")
    heard(reader, ("temp1", 50), ("temp2", 5))
    assert reader.wait_for("link.disconnected", after=mark, subscription="Sensor")["code"].startswith("link.")
    source.append(50)
    reader.kill()
    source.append(10, entity="temp2")
    reader.launch(prologue=where)
    reader.until_ready()
    heard(reader, ("temp1", 100), ("temp2", 15))
    # The cloud has the same events of its own: who follows an edge takes nothing from it.
    cloud.delivered(115)
