"""Real nodes on one PostgreSQL: ranges go where members are, whatever ends a node, and every event takes effect once."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cloud_service.cli import CLOUD
from common.runtime.cli import main as cli
from tests.e2e.processes import Service, Stage

RANGES = 8
ALL = 2 * RANGES  # of both built-in projections


def node(stage: Stage, url: str, name: str) -> Service:
    return stage.cloud(name, journal=url, projection_ranges=RANGES).start()


def held(asked: Service) -> Counter[str]:
    """Ranges by node, those on their way and those of nobody apart."""
    rows = asked.get("/v1/projections")["projections"]
    return Counter("directed" if row["directed"] else row["node"] if row["lease_left_s"] else "nobody" for row in rows)


def until_held(asked: Service, wanted: dict[str, int], *, at_most_s: float) -> None:
    began_s = time.monotonic()
    while (now := held(asked)) != wanted:
        assert time.monotonic() - began_s < at_most_s, now
        time.sleep(0.02)


@contextmanager
def load(asked: Service) -> Iterator[list[int]]:
    """Events of several entities, until the block is left."""
    stop, sent = threading.Event(), [0]

    def append() -> None:
        while not stop.wait(0.02):
            asked.append(3, entity=f"temp{sent[0] % 40}")
            sent[0] += 3

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def assert_exact(asked: Service, sent: int) -> None:
    """The tally has every event once, in order."""
    asked.until("/v1/projections", lambda body: all(row["behind"] == 0 for row in body["projections"]))
    tallies = [asked.ask("GET", f"/v1/tally/Sensor/temp{number}") for number in range(40)]
    assert sum(tally["events"] for status, tally in tallies if status == 200) == sent
    assert all(tally["out_of_order"] == 0 for status, tally in tallies if status == 200)


def test_a_node_that_joins_has_its_share_soon_and_one_that_leaves_hands_it_over(
    postgres_url: str, stage: Stage
) -> None:
    first = node(stage, postgres_url, "n1")
    until_held(first, {"n1": ALL}, at_most_s=20)
    with load(first) as sent:
        second = node(stage, postgres_url, "n2")
        until_held(first, {"n1": RANGES, "n2": RANGES}, at_most_s=20)
        mark = first.mark()
        second.send(signal.SIGTERM)
        until_held(first, {"n1": ALL}, at_most_s=20)
        assert first.said("member.dead", after=mark) == []
        assert second.exit_status() == 0
    assert second.said("member.left", ranges=RANGES)
    assert second.said("projection.fenced") == []
    assert_exact(first, sent[0])


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_what_a_dead_node_had_runs_elsewhere_in_time(postgres_url: str, stage: Stage, end: signal.Signals) -> None:
    first, second = node(stage, postgres_url, "n1"), node(stage, postgres_url, "n2")
    until_held(first, {"n1": RANGES, "n2": RANGES}, at_most_s=20)
    with load(first) as sent:
        second.send(end)
        until_held(first, {"n1": ALL}, at_most_s=30)
        # A machine that stalls for three seconds lets the lease of a killed node lapse too.
        reasons = {"its lease lapsed"} | ({"its session is gone"} if end is signal.SIGKILL else set())
        assert first.wait_for("member.dead")["reason"] in reasons
        if end is signal.SIGSTOP:
            second.send(signal.SIGCONT)
            until_held(first, {"n1": RANGES, "n2": RANGES}, at_most_s=20)
    assert_exact(first, sent[0])


def test_an_operator_drains_a_node_by_command_and_lets_it_work_again(
    postgres_url: str, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = node(stage, postgres_url, "n1"), node(stage, postgres_url, "n2")
    until_held(first, {"n1": RANGES, "n2": RANGES}, at_most_s=30)
    stage.edge("e1", cloud=f"{second.address},{first.address}").start()

    def command(*words: str) -> str:
        status = cli.main(CLOUD, ["nodes", *words, "--http-port", str(first.http_port)], {})
        answer, error = capsys.readouterr()
        assert status == 0, error
        return answer

    with load(first) as sent:
        command("drain", "n2")
        until_held(first, {"n1": ALL}, at_most_s=30)
        states = {one["node"]: one["state"] for one in json.loads(command("list", "--json"))["nodes"]}
        assert states == {"n1": "live", "n2": "drained"}
        # Its edge is sent away as well, to the other address that it knows.
        first.until("/status", lambda status: [one["id"] for one in status["edges"]] == ["e1"])
        command("undrain", "n2")
        until_held(first, {"n1": RANGES, "n2": RANGES}, at_most_s=30)
    assert "n2" in command("list")
    assert_exact(first, sent[0])


def test_one_node_counts_the_losses_of_the_fleet_until_it_dies(postgres_url: str, stage: Stage) -> None:
    nodes = [stage.cloud(name, journal=postgres_url, summary_interval_s=0.2).start() for name in ("n1", "n2")]

    def counting() -> list[Service]:
        return [one for one in nodes if 'backhaul_cloud_fleet_events{part="stored"}' in one.text("/metrics")]

    for one in nodes:
        one.wait_for("node.summary")
    [counter] = counting()
    [other] = (one for one in nodes if one is not counter)
    other.wait_for("node.summary", after=other.mark())
    assert counting() == [counter]
    counter.send(signal.SIGKILL)
    nodes.remove(counter)
    other.wait_for("member.dead")
    other.wait_for("node.summary", after=other.mark())
    other.wait_for("node.summary", after=other.mark())
    assert counting() == [other]
