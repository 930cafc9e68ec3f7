"""A consumer whose process is stopped: what each side's operator reads of it."""

from __future__ import annotations

import signal

from tests.e2e.processes import Stage


def test_a_stopped_consumer_is_let_go_and_says_itself_that_it_stood_still(stage: Stage) -> None:
    cloud = stage.cloud(progress_timeout_s=1.5).start()
    edge = stage.edge(cloud=cloud, subscriptions="WorkOrder", progress_timeout_s=1.5).start()
    cloud.append(3, entity_type="WorkOrder")
    edge.until("/v1/inbox/WorkOrder", lambda body: body["inbox"]["last_id"] == 3)
    mark, mark_there = edge.mark(), cloud.mark()
    edge.send(signal.SIGSTOP)
    cloud.append(3, entity_type="WorkOrder")
    left = cloud.wait_for("consumer.disconnected", after=mark_there, consumer_id="e1")
    assert left["code"] == "subscription.not_acked"
    assert "the consumer was heard of" in left["reason"]
    edge.send(signal.SIGCONT)
    answer = edge.wait_for("link.disconnected", after=mark, subscription="WorkOrder")
    assert "this process stood still for" in answer["reason"], answer
    edge.until("/v1/inbox/WorkOrder", lambda body: body["inbox"]["last_id"] == 6)
