"""A cloud's filter for an edge, with real processes: either side is killed in a change, its backfill, and an entity's past."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from examples.support.postgres import Databases
from tests.e2e.processes import Service, Stage

EACH = 120
PAST = 400
REQUEST = 40
RED: list[object] = [{"exclude_all": True}, {"include_tags": ["red"]}]
NOTHING: list[object] = [{"exclude_all": True}]
EVERYTHING: list[object] = []
# By what has been done when it dies: nothing, the change, a backfilled batch, the last one but its ack.
KILLED_AT = (
    "push.before_filter_change",
    "push.after_filter_change",
    "append.before_commit:2",
    "push.before_ack:6",
)


def ask(cloud: Service, criteria: list[object]) -> None:
    status, answer = cloud.ask("POST", "/v1/origins/e1/filter", {"criteria": criteria})
    assert status == 200, answer


def in_force(cloud: Service, criteria: list[object]) -> None:
    def holds(answer: dict[str, object]) -> bool:
        reported = answer["in_force"]
        return answer["backfilling"] is None and isinstance(reported, dict) and reported["criteria"] == criteria

    cloud.until("/v1/origins/e1/filter", holds)


def withheld(stage: Stage, **settings: object) -> tuple[Service, Service]:
    """A cloud that asks for nothing, and an edge that has withheld two entities' events."""
    cloud = stage.cloud("cloud", **settings).start()
    cloud.settings["grpc_port"] = cloud.grpc_port
    ask(cloud, NOTHING)
    edge = stage.edge(cloud=cloud, batch_max_events=40, window_max_batches=1).start()
    in_force(cloud, NOTHING)
    for _ in range(EACH // 20):
        edge.append(20, entity="a")
        edge.append(20, entity="b")
    edge.until("/status", lambda answer: answer["link"]["acked"] == 2 * EACH)
    assert cloud.delivered(0) == []
    return cloud, edge


@pytest.mark.parametrize("fail_point", KILLED_AT)
def test_a_cloud_that_is_killed_in_a_change_goes_on_with_it(stage: Stage, fail_point: str) -> None:
    kill_and_go_on(stage, fail_point)


@pytest.mark.parametrize("fail_point", ["push.after_filter_change", "append.after_commit:3"])
def test_on_postgres_too(stage: Stage, postgres: Databases, fail_point: str) -> None:
    with postgres.fresh() as url:
        kill_and_go_on(stage, fail_point, journal=url)
        stage.end()


def kill_and_go_on(stage: Stage, fail_point: str, **settings: object) -> None:
    cloud, edge = withheld(stage, **settings)
    cloud.stop()
    cloud.launch(prologue=f"import os; os.environ['BACKHAUL_FAIL_POINT'] = {fail_point!r}")
    cloud.until_ready()
    mark = edge.mark()
    edge.wait_for("push.started", after=mark)
    try:
        ask(cloud, EVERYTHING)
    except OSError:
        pass  # it is gone before it could answer, and has stored what was asked
    assert cloud.exit_status() == -signal.SIGKILL
    assert cloud.noise.pop() == f"fail point hit: {fail_point.partition(':')[0]}"
    cloud.start()
    cloud.delivered(2 * EACH)
    in_force(cloud, EVERYTHING)
    edge.append(1, entity="a")
    cloud.delivered(2 * EACH + 1)


def test_an_edge_that_is_killed_in_a_backfill_goes_on_with_it(stage: Stage) -> None:
    cloud, edge = withheld(stage)
    for _ in range(4):
        ask(cloud, [{"exclude_all": True}, {"include_ids": ["e1/b"]}])
        time.sleep(0.02)
        edge.kill()
        edge.start()
        ask(cloud, [{"exclude_all": True}, {"include_ids": ["e1/a"]}])
        time.sleep(0.01)
        edge.kill()
        edge.start()
    ask(cloud, EVERYTHING)
    cloud.delivered(2 * EACH)
    in_force(cloud, EVERYTHING)


def test_the_edges_own_filter_is_obeyed_whatever_the_cloud_asks_for(stage: Stage) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge(cloud=cloud, push_filter='[{"exclude_regex": ["e1/secret.*"]}]').start()
    edge.append(5, entity="secret-1")
    edge.append(5, entity="a")
    cloud.delivered(5)
    ask(cloud, [{"exclude_all": True}, {"include_ids": ["e1/secret-1"]}])
    in_force(cloud, [{"exclude_all": True}, {"include_ids": ["e1/secret-1"]}])
    edge.append(5, entity="secret-1")
    edge.until("/status", lambda answer: answer["link"]["acked"] == 15)
    assert len(cloud.delivered(5)) == 5
    edge.stop()
    edge.start(push_filter="")
    cloud.delivered(15)


# -- the past of entities that enter ------------------------------------------------------------------------------------
def grow(edge: Service, count: int, entity: str, tag: str) -> None:
    status, body = edge.ask("POST", "/v1/events", {"events": [reading(entity, tag)] * count})
    assert status == 201, body


def reading(entity: str, tag: str) -> dict[str, object]:
    return {"entity_type": "Sensor", "entity_id": entity, "event_type": "Read", "payload": "x" * 20, "tags": [tag]}


def withheld_by_tag(stage: Stage, **settings: object) -> tuple[Service, Service]:
    """A cloud that asks for what is red, and an edge whose two entities are blue."""
    cloud = stage.cloud("cloud", **settings).start()
    cloud.settings["grpc_port"] = cloud.grpc_port
    ask(cloud, RED)
    edge = stage.edge(cloud=cloud, batch_max_events=40, window_max_batches=1).start()
    in_force(cloud, RED)
    for _ in range(PAST // REQUEST):
        grow(edge, REQUEST, "a", "blue")
        grow(edge, REQUEST, "b", "blue")
    edge.until("/status", lambda answer: answer["link"]["acked"] == 2 * PAST)
    assert cloud.delivered(0) == []
    return cloud, edge


def check_whole(cloud: Service) -> None:
    """`delivered` has seen that numbers are dense: nothing is missing, and nothing came twice."""
    found = cloud.delivered(2 * PAST + 2)
    for name in ("a", "b"):
        tags = [event["tags"] for event in found if event["entity_id"] == f"e1/{name}"]
        assert tags == [["blue"]] * PAST + [["red"]]


def killed_cloud(stage: Stage, fail_point: str, **settings: object) -> None:
    cloud, edge = withheld_by_tag(stage, **settings)
    cloud.stop()
    cloud.launch(prologue=f"import os; os.environ['BACKHAUL_FAIL_POINT'] = {fail_point!r}")
    cloud.until_ready()
    mark = edge.mark()
    edge.wait_for("push.started", after=mark)
    grow(edge, 1, "a", "red")
    grow(edge, 1, "b", "red")
    assert cloud.exit_status() == -signal.SIGKILL
    assert cloud.noise.pop() == f"fail point hit: {fail_point.partition(':')[0]}"
    cloud.start()
    check_whole(cloud)


# By what of the past is stored when it dies: none, some that is acknowledged, some that is not.
@pytest.mark.parametrize("fail_point", ["append.before_commit", "append.before_commit:4", "push.before_ack:5"])
def test_a_cloud_that_is_killed_in_a_past_goes_on_with_it(stage: Stage, fail_point: str) -> None:
    killed_cloud(stage, fail_point)


@pytest.mark.parametrize("fail_point", ["append.before_commit:3", "append.after_commit:4", "push.before_ack:2"])
def test_a_past_on_postgres_too(stage: Stage, postgres: Databases, fail_point: str) -> None:
    with postgres.fresh() as url:
        killed_cloud(stage, fail_point, journal=url)
        stage.end()


@pytest.mark.parametrize("is_postgres", [False, True])
def test_an_edge_that_is_killed_in_a_past_goes_on_with_it(
    stage: Stage, postgres: Databases, *, is_postgres: bool
) -> None:
    with postgres.fresh() as url:
        cloud, edge = withheld_by_tag(stage, **({"journal": url} if is_postgres else {}))
        edge.stop()
        for count in (1, 3, 7):
            edge.launch(prologue=f"import os; os.environ['BACKHAUL_FAIL_POINT'] = 'push.in_past:{count}'")
            if count == 1:
                edge.until_ready()
                # In one request: were the edge killed between two, one past alone would be too short for all the kills.
                with contextlib.suppress(OSError):  # it may be gone before it answers
                    edge.ask("POST", "/v1/events", {"events": [reading("a", "red"), reading("b", "red")]})
            assert edge.exit_status() == -signal.SIGKILL
            assert edge.noise.pop() == "fail point hit: push.in_past"
        edge.start()
        check_whole(cloud)
        stage.end()


def test_how_much_past_is_asked_with_the_filter(stage: Stage) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge(cloud=cloud).start()
    for history, count in (("none", 1), ("full", 3)):
        status, answer = cloud.ask("POST", "/v1/origins/e1/filter", {"criteria": RED, "history": history})
        assert (status, answer["history"]) == (200, history)
        version = answer["version"]
        cloud.until("/v1/origins/e1/filter", lambda answer: answer["in_force"]["version"] == version)  # noqa: B023
        grow(edge, 2, history, "blue")
        grow(edge, 1, history, "red")
        edge.until("/status", lambda answer: answer["link"]["acked"] == answer["journal"]["head"])
        found = cloud.get("/v1/events?after=0&max=1000")["events"]
        assert len([event for event in found if event["entity_id"] == f"e1/{history}"]) == count
    for body in ({"history": "full"}, {"criteria": RED, "history": "all"}, {"withdraw": True, "history": "full"}):
        status, _ = cloud.ask("POST", "/v1/origins/e1/filter", body)
        assert status == 400
