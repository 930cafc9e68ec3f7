"""A cloud's filter for an edge, with real processes: either side is killed between the change, the backfill and its end."""

from __future__ import annotations

import signal
import time

import pytest

from examples.support.postgres import Databases
from tests.e2e.processes import Service, Stage

EACH = 120
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
