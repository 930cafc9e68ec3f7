"""A fleet's certificate, or a claimed id, against names of others: first events, streams, questions; and the policy's file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.processes import Service, Stage, open_stage
from tests.security.test_rights import command


def stored(cloud: Service) -> set[str]:
    rows: list[dict[str, Any]] = cloud.get("/v1/events?after=0")["events"]
    return {f"{row['entity_type']}|{row['entity_id']}" for row in rows}


def rogue_and_rightful(stage: Stage, cloud: Service) -> tuple[Service, Service]:
    """An edge that was set to write another one's names, and that one."""
    rogue = stage.edge("g7", cloud=cloud, entity_prefix="g2/").start()
    rogue.wait_for("push.started")
    rogue.append(2, entity="x")
    cloud.wait_for("event.parked", code="parked.not_allowed")
    rightful = stage.edge("g2", cloud=cloud).start()
    rightful.wait_for("push.started")
    return rogue, rightful


def test_without_a_file_an_edge_takes_no_name_of_another_and_none_of_the_cloud(tmp_path: Path) -> None:
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud().start()
        rogue, rightful = rogue_and_rightful(stage, cloud)
        rogue.until("/status", lambda body: body["link"]["acked"] == 2)
        assert stored(cloud) == set()
        rightful.append(1, entity="x")
        cloud.until("/status", lambda body: body["journal"]["head"] == 1)
        assert stored(cloud) == {"Sensor|g2/x"}
        assert [row["origin_id"] for row in cloud.get("/v1/parked")["parked"]] == ["g7", "g7"]
        answer = cloud.get("/v1/policy?who=g7&write=Sensor%7Cg2/x")
        assert (answer["allowed"], answer["rule"]) == (False, "own prefix")
        assert cloud.get("/v1/policy?who=g2&write=Sensor%7Cg2/x")["allowed"]
        assert cloud.said("policy.streams_open")


def test_a_changed_file_holds_within_seconds_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[[rule]]\nname = 'gateways'\nwho = 'g*'\nwrite = '*|{id}/*'\nread = 'news'\n")
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud(policy=file).start()
        edge = stage.edge("g7", cloud=cloud, subscriptions="orders").start()
        edge.wait_for("link.needs_operator", code="subscription.no_such_stream")
        edge.append(1)
        cloud.until("/status", lambda body: body["journal"]["head"] == 1)
        assert cloud.get("/v1/policy?who=g7&read=news")["allowed"]
        assert cloud.get("/v1/policy?who=h7&read=news") == {
            "who": "h7",
            "read": "news",
            "rule": "no rule",
            "policy": str(file),
            "allowed": False,
        }
        check = ("policy", "check", "--who", "g7")
        assert command(cloud, *check, "--write", "Sensor|g7/x") == (0, f"allowed by 'gateways' of {file}\n")
        assert command(cloud, *check, "--write", "Sensor|g2/x") == (1, f"not allowed by 'gateways' of {file}\n")
        assert command(cloud, *check, "--read", "orders")[0] == 1
        file.write_text("[[rule]]\nwho = 'g7'\nwrites = '*'")
        cloud.wait_for("policy.refused", code="policy.invalid")
        assert cloud.get("/v1/policy?who=g7&write=Sensor%7Cg7/x")["allowed"]
        file.write_text("[[rule]]\nwho = 'g*'\nwrite = 'Alarm|{id}/*'\n")
        cloud.wait_for("policy.changed", rules=1)
        edge.append(1, entity="y")
        cloud.wait_for("event.parked", code="parked.not_allowed", persistence_id="Sensor|g7/y")


def test_a_wrong_file_keeps_the_service_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[[rules]]")
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud(policy=file)
        cloud.launch()
        assert cloud.exit_status() == 2
        assert cloud.said("service.refused", code="policy.invalid")


def test_a_right_that_is_enforced_nowhere_keeps_an_edge_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[[rule]]\nwho = '*'\nwrite = '*|*'\n")
    with open_stage(tmp_path) as stage:
        edge = stage.edge("g1", cloud="localhost:9", policy=file)
        edge.launch()
        assert edge.exit_status() == 2
        assert "nobody pushes to an edge" in edge.wait_for("service.refused", code="policy.invalid")["reason"]


def test_an_entity_goes_to_its_rightful_owner_with_all_that_was_parked(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[[rule]]\nwho = 'g*'\nwrite = '*|*'\n")
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud(policy=file).start()
        rogue = stage.edge("g7", cloud=cloud, entity_prefix="g2/").start()
        rogue.append(2, entity="x")
        cloud.until("/status", lambda body: body["journal"]["head"] == 2)
        rightful = stage.edge("g2", cloud=cloud).start()
        rightful.append(3, entity="x")
        cloud.wait_for("event.parked", code="parked.foreign_owner")
        rightful.until("/status", lambda body: body["link"]["acked"] == 3)
        file.write_text("[[rule]]\nwho = 'g*'\nwrite = '*|{id}/*'\n")
        cloud.wait_for("policy.changed")
        status, answer = cloud.ask("POST", "/v1/owners/transfer", {"entity": "Sensor|g2/x", "to": "g7"})
        assert (status, answer["error"]["code"]) == (403, "entity.owner_not_allowed")
        status, answer = cloud.ask("POST", "/v1/owners/transfer", {"prefix": "Sensor|g2/", "to": "g2"})
        assert status == 200
        moved = {"entity": "Sensor|g2/x", "old_owner": "g7", "owner": "g2", "stored": 3, "left": None}
        assert answer == {"transferred": [moved], "through": None}
        rightful.append(1, entity="x")
        cloud.until("/status", lambda body: body["journal"]["head"] == 6)
        assert cloud.said("operator.transferred_entity", old_owner="g7", owner="g2", stored=3)
        assert cloud.said("audit.action", what="POST /v1/owners/transfer", result="entity.owner_not_allowed")


def test_a_retry_settles_what_the_policy_allows_now(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[[rule]]\nwho = 'g*'\nwrite = 'Alarm|{id}/*'\n")
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud(policy=file).start()
        edge = stage.edge("g2", cloud=cloud).start()
        edge.append(2, entity="x")
        edge.until("/status", lambda body: body["link"]["acked"] == 2)
        retry = ("POST", "/v1/parked/retry", {"entity": "Sensor|g2/x"})
        assert cloud.ask(*retry)[1] == {"entity": "Sensor|g2/x", "stored": 0, "left": "parked.not_allowed"}
        file.write_text("[[rule]]\nwho = 'g*'\nwrite = '*|{id}/*'\n")
        cloud.wait_for("policy.changed")
        assert cloud.ask(*retry)[1] == {"entity": "Sensor|g2/x", "stored": 2, "left": None}
        assert stored(cloud) == {"Sensor|g2/x"}


def test_an_edge_takes_no_entity_of_the_clouds_own_stream(tmp_path: Path) -> None:
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud().start()
        rogue = stage.edge("g7", cloud=cloud, entity_prefix="").start()
        rogue.append(1, entity="order-1", entity_type="Order")
        rogue.until("/status", lambda body: body["link"]["acked"] == 1)
        cloud.wait_for("audit.refused", who="g7", what="write Order|order-1", result="parked.not_allowed")
        event = {
            "entity_type": "Order",
            "entity_id": "order-1",
            "event_type": "Placed",
            "payload": 1,
            "expected_seq_nr": 0,
        }
        assert cloud.ask("POST", "/v1/events", event)[0] == 201
        assert stored(cloud) == {"Order|order-1"}


def _has_parked(count: int, body: dict[str, Any]) -> bool:
    return len(body["parked"]) == count


def test_a_quota_of_the_policy_bounds_what_one_id_parks(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[[rule]]\nwho = 'g7'\nquota = {parked_events = 3}\n[[rule]]\nwho = '*'\nwrite = '*|{id}/*'\n")
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud(policy=file).start()
        greedy = stage.edge("g7", cloud=cloud, batch_max_events=1).start()
        for count in range(1, 4):  # one by one: batches that queue are one commit, refused whole beyond the quota
            greedy.append(1)
            cloud.until("/v1/parked", partial(_has_parked, count))
        greedy.append(1)
        greedy.wait_for("link.needs_operator", code="push.blocked")
        stage.edge("g8", cloud=cloud).start().append(1)
        cloud.until("/status", lambda body: body["journal"]["head"] == 1)
        assert len(cloud.get("/v1/parked")["parked"]) == 3
