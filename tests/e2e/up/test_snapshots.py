"""Snapshots in the place of events on the way up, with real processes: either side is killed in the middle."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from examples.support.postgres import Databases
from tests.e2e.processes import Service, Stage

EACH = 400
EVERY = 10
AFTER = 5
PAYLOAD = 5_000


def cloud_away(stage: Stage, **settings: object) -> Service:
    """A cloud that has been there once: its edges know the address."""
    cloud = stage.cloud("cloud", **settings).start()
    cloud.settings["grpc_port"] = cloud.grpc_port
    cloud.stop()
    return cloud


def snapshot_taken(edge: Service, entity: str, seq_nr: int) -> None:
    edge.until("/v1/snapshots?type=Sensor", lambda answer: (f"e1/{entity}", seq_nr) in _latest(answer))


def _latest(answer: dict[str, Any]) -> set[tuple[str, int]]:
    return {(row["entity_id"], row["seq_nr"]) for row in answer["snapshots"]}


def behind(stage: Stage, **settings: object) -> tuple[Service, Service]:
    """An edge with a long backlog of two entities, each with a snapshot and some events after it, and no cloud."""
    cloud = cloud_away(stage, **settings)
    edge = stage.edge(cloud=cloud, snapshot_every=f"Sensor={EVERY}", batch_max_events=40, window_max_batches=1).start()
    for _ in range(EACH // 40):
        edge.append(40, entity="a")
        edge.append(40, entity="b")
    for name in ("a", "b"):
        snapshot_taken(edge, name, EACH)
        edge.append(AFTER, entity=name)
    edge.stop()
    edge.settings["push_snapshots_if_behind"] = EACH
    return cloud, edge


def check_from_snapshots(cloud: Service) -> None:
    """`delivered` has seen that no event came twice."""
    found = cloud.delivered(2 * (1 + AFTER))
    for name in ("a", "b"):
        rows = [event for event in found if event["entity_id"] == f"e1/{name}"]
        assert [row["origin_seq_nr"] for row in rows] == [*range(EACH, EACH + AFTER + 1)]
        assert ["backhaul.replaces" in row["metadata"] for row in rows] == [True] + [False] * AFTER
        for number in (1, EACH // 2, EACH - 1):
            assert cloud.get(f"/v1/where?entity=Sensor%7Ce1/{name}&seq_nr={number}&origin=e1")["state"] == "replaced"
    assert cloud.get("/v1/parked")["parked"] == []


@pytest.mark.parametrize("is_postgres", [False, True])
def test_an_edge_that_is_killed_while_it_starts_from_snapshots_goes_on(
    stage: Stage, postgres: Databases, *, is_postgres: bool
) -> None:
    with postgres.fresh() as url:
        cloud, edge = behind(stage, **({"journal": url} if is_postgres else {}))
        cloud.start()
        for count in (1, 2, 4):
            edge.launch(prologue=f"import os; os.environ['BACKHAUL_FAIL_POINT'] = 'push.in_snapshots:{count}'")
            assert edge.exit_status() == -signal.SIGKILL
            assert edge.noise.pop() == "fail point hit: push.in_snapshots"
        edge.start()
        check_from_snapshots(cloud)
        stage.end()


@pytest.mark.parametrize("fail_point", ["append.before_commit:3", "append.after_commit:2", "push.before_ack:4"])
def test_a_cloud_that_is_killed_in_the_middle_goes_on(stage: Stage, fail_point: str) -> None:
    cloud, edge = behind(stage)
    cloud.launch(prologue=f"import os; os.environ['BACKHAUL_FAIL_POINT'] = {fail_point!r}")
    cloud.until_ready()
    edge.start()
    assert cloud.exit_status() == -signal.SIGKILL
    assert cloud.noise.pop() == f"fail point hit: {fail_point.partition(':')[0]}"
    cloud.start()
    check_from_snapshots(cloud)


def test_what_an_edge_drops_at_its_cap_is_replaced_where_a_snapshot_stands_for_it(stage: Stage) -> None:
    cloud = cloud_away(stage)
    edge = stage.edge(
        cloud=cloud,
        snapshot_every=f"Sensor={EVERY}",
        journal_max_bytes=1536 * 1024,
        on_full="drop_oldest",
        plain_types="Sensor",
        retention_interval_s=0.05,
        batch_max_events=20,
        window_max_batches=1,
    ).start()
    appended = 0
    while not edge.said("journal.dropping"):
        status, body = edge.try_append(20, entity="a", size=PAYLOAD)
        appended += 20 if status == 201 else 0
        assert status in (201, 507), body
        assert appended < 100_000
    snapshot_taken(edge, "a", appended)
    edge.append(AFTER, entity="a")
    edge.until("/v1/where?entity=Sensor%7Ce1/a&seq_nr=1", lambda answer: answer["state"] == "deleted")
    edge.stop()
    cloud.start()
    edge.launch(prologue="import os; os.environ['BACKHAUL_FAIL_POINT'] = 'push.in_snapshots'")
    assert edge.exit_status() == -signal.SIGKILL
    assert edge.noise.pop() == "fail point hit: push.in_snapshots"
    edge.start()
    found = cloud.delivered(1 + AFTER)
    assert [event["origin_seq_nr"] for event in found] == [*range(appended, appended + AFTER + 1)]
    for number in (1, appended // 2, appended - 1):
        assert cloud.get(f"/v1/where?entity=Sensor%7Ce1/a&seq_nr={number}&origin=e1")["state"] == "replaced"
    shown = cloud.until("/v1/fleet/e1", lambda answer: answer["parts"]["stored"] == 1 + AFTER)
    assert (shown["is_lost"], shown["parts"]["replaced"], shown["parts"]["dropped"]) == ("nothing", appended - 1, 0)
