"""The link over real sockets: lines that stop, crawl, vanish and break; nodes that die; edges that are not alone."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

from examples.support.postgres import Databases
from tests.e2e.lines import Relays
from tests.e2e.processes import Service, Stage

KB100 = 100_000


def connects(edge: Service) -> int:
    count = edge.get("/status")["link"]["connects"]
    assert isinstance(count, int)
    return count


def test_a_stopped_cloud_is_left_in_time_and_gets_everything_once_when_it_goes_on(stage: Stage) -> None:
    cloud, edge = stage.pair(progress_timeout_s=1.0, edge_connect_timeout_s=0.5)
    cloud.send(signal.SIGSTOP)
    stopped_s = time.monotonic()
    edge.append(70, size=KB100)  # more than window and buffers hold
    left = edge.wait_for("link.disconnected", code="link.stalled")
    assert left["heard_s"] - stopped_s < 1.0 * 1.1 + 1.5
    assert edge.get("/status")["link"]["sent"] < 70, "nothing waited: the line was not full"
    edge.wait_for("link.unreachable", code="link.timeout")
    edge.append(1)  # the edge itself goes on
    cloud.send(signal.SIGCONT)
    cloud.delivered(71)


def test_a_line_that_stands_still_with_full_buffers_is_left_in_time(stage: Stage, relays: Relays) -> None:
    cloud = stage.cloud(progress_timeout_s=1.0).start()
    line = relays.open(cloud, rate=20_000_000)
    edge = stage.edge(cloud=line.address, progress_timeout_s=1.0, connect_timeout_s=0.5).start()
    edge.wait_for("push.started")
    line.obey("black-hole")
    held_s = time.monotonic()
    edge.append(70, size=KB100)
    left = edge.wait_for("link.disconnected", code="link.stalled")
    assert left["heard_s"] - held_s < 1.0 * 1.1 + 1.5
    cloud.wait_for("push.disconnected")  # the cloud does not keep a dead edge either
    line.obey("pass")
    cloud.delivered(70)


def test_a_slow_line_is_not_a_dead_one(stage: Stage, relays: Relays) -> None:
    """8 kbit/s and events of 100 kB, faster by 30: an event takes 3.3 s, four times the timeout."""
    cloud = stage.cloud(progress_timeout_s=0.8).start()
    line = relays.open(cloud, rate=30_000)
    edge = stage.edge(cloud=line.address, progress_timeout_s=0.8).start()
    edge.wait_for("push.started")
    began_s = time.monotonic()
    edge.append(1, size=KB100)
    cloud.delivered(1)
    assert time.monotonic() - began_s > 3.0, "the line was not slow"
    assert connects(edge) == 1


def test_resets_lose_and_repeat_nothing(stage: Stage, relays: Relays) -> None:
    cloud = stage.cloud().start()
    line = relays.open(cloud)
    edge = stage.edge(cloud=line.address).start()
    for _ in range(12):
        mark = edge.mark()
        edge.append(25, size=5_000)
        line.obey("reset")
        edge.wait_for("link.connected", after=mark)
    cloud.delivered(12 * 25)
    assert connects(edge) >= 12


def test_with_a_node_killed_the_edges_go_on_with_the_other(stage: Stage, relays: Relays, postgres: Databases) -> None:
    with postgres.fresh() as url:
        nodes = [stage.cloud(name, journal=url) for name in ("north", "south")]
        for node in nodes:
            node.launch()
        for node in nodes:
            node.until_ready()
        line = relays.open(*nodes)
        edges = [stage.edge(name, cloud=line.address) for name in ("e1", "e2")]
        for edge in edges:
            edge.launch()
        for edge in edges:
            edge.until_ready().wait_for("push.started")
        for edge in edges:
            edge.append(50)
        nodes[0].kill()
        for edge in edges:
            edge.append(50)
        nodes[1].delivered(200)
        # `tally` counts what it sees: exactly once also where the projection moved to the node that is left.
        for name in ("e1", "e2"):
            path = f"/v1/tally/Sensor/{name}/temp1"
            counted = nodes[1].until(path, lambda body: body["events"] >= 100)
            assert (counted["events"], counted["out_of_order"]) == (100, 0)
        stage.end()


class TestTwoServicesWithOneId:
    def test_copies_of_one_journal_fence_each_other_rarely_and_loudly(self, stage: Stage) -> None:
        cloud, edge = stage.pair(edge_backoff_max_s=0.2)
        edge.append(3)
        cloud.delivered(3)
        edge.stop()
        twin = stage.edge("e1", cloud=cloud, backoff_max_s=0.2)
        copy_journal(edge.folder, twin.folder)
        edge.start().wait_for("push.started", process=edge.process.pid)
        twin.start().wait_for("push.started")
        fenced = edge.wait_for("link.disconnected", code="push.fenced")
        # Ten times the longest backoff, at least half of it.
        assert fenced["next_try_s"] >= 1.0
        shouted = edge.wait_for("link.needs_operator", code="push.fenced")
        assert shouted["hint"]
        cloud.wait_for("push.cloned", origin_id="e1", level="error")
        twin.wait_for("link.disconnected", code="push.fenced")

    def test_an_old_disk_that_comes_back_is_refused_until_an_operator_lets_it_in(self, stage: Stage) -> None:
        cloud, old = stage.pair(edge_backoff_max_s=0.05)
        old.append(3, entity="kept")
        cloud.delivered(3)
        new = stage.edge("e1", cloud=cloud).start()
        assert new.wait_for("push.started")["resume"] == "new_journal"
        cloud.wait_for("push.rebased", resume="new_journal", origin_id="e1")
        old.wait_for("link.disconnected", code="push.fenced")
        refused = old.wait_for("link.needs_operator", code="push.superseded")
        assert "readmit" in refused["reason"] + refused["hint"]
        # The new journal's numbers begin again; in the cloud the entity goes on where it was.
        new.append(2, entity="kept")
        assert [event["seq_nr"] for event in cloud.delivered(5)] == [1, 2, 3, 4, 5]


def copy_journal(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copy(path, target)


def test_a_paused_projection_does_not_slow_acks(stage: Stage) -> None:
    cloud, edge = stage.pair()
    edge.append(10)
    path = "/v1/tally/Sensor/e1/temp1"
    cloud.until(path, lambda body: body["events"] == 10)
    status, answer = cloud.ask("POST", "/v1/projections/tally/pause")
    assert status == 200, answer
    cloud.wait_for("projection.paused", projection="tally")
    began_s = time.monotonic()
    for _ in range(20):
        edge.append(100)
    edge.until("/status", lambda body: body["link"]["acked"] == 2010, timeout_s=20.0)
    assert time.monotonic() - began_s < 20.0
    assert cloud.get(path)["events"] == 10
    status, answer = cloud.ask("POST", "/v1/projections/tally/resume")
    assert status == 200, answer
    counted = cloud.until(path, lambda body: body["events"] == 2010)
    assert counted["out_of_order"] == 0
