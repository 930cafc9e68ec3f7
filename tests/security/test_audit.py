"""Every act of an operator leaves its line: who, from where, what, with which result. No route is without one."""

from __future__ import annotations

import ast
from pathlib import Path

from common.core.policy.rights import SAFE_METHODS, Right, is_audited, right_for
from tests.e2e.processes import open_stage

ROOT = Path(__file__).parents[2]
# What the journal itself records, with its content: events, commands, states, snapshots.
OF_PROGRAMS = {
    ("POST", "/v1/events"),
    ("POST", "/v1/entities/{entity_type}/{entity_id:path}/{command}"),
    ("PUT", "/v1/states/{entity_type}/{entity_id:path}"),
    ("DELETE", "/v1/states/{entity_type}/{entity_id:path}"),
    ("PUT", "/v1/snapshots/{type}/{id:path}"),
}
# The classes of routes, and the method of one that names none.
CLASSES = {"Route": "GET", "PromptRoute": "POST"}


def changing_routes() -> set[tuple[str, str]]:
    """Method and path of every route of both services that can change something, as the code has them."""
    found = set()
    for file in [*ROOT.glob("common/**/*.py"), *ROOT.glob("*_service/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and {getattr(base, "id", "") for base in node.bases} & CLASSES.keys():
                assert node.name in CLASSES, f"{node.name}: which method does it have?"
            made = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if not isinstance(node, ast.Call) or made not in CLASSES:
                continue
            path = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}"
                for part in getattr(node.args[0], "values", [node.args[0]])
            )
            methods = next((word.value for word in node.keywords if word.arg == "methods"), None)
            names = ast.literal_eval(methods) if methods is not None else [CLASSES[made]]
            found |= {(name, path) for name in names if name not in SAFE_METHODS}
    return found


def test_every_route_that_changes_something_is_audited_or_recorded_by_the_journal() -> None:
    found = changing_routes()
    assert len(found) > 15
    assert {(method, path) for method, path in found if not is_audited(method, path)} == OF_PROGRAMS
    for method, path in found - OF_PROGRAMS:
        is_of_programs = path.startswith(("/v1/inbox/", "/v1/snapshots/"))
        assert right_for(path) is (Right.PROGRAMS if is_of_programs else Right.OPERATORS), (method, path)
    assert right_for("/v1/what-comes-later") is Right.OPERATORS
    assert right_for("/status") is Right.OPERATORS
    assert right_for("/livez") is Right.PROBES
    assert right_for("/app/shelf") is Right.PROGRAMS


def test_acts_are_written_with_their_result_whatever_the_level_and_never_dropped(tmp_path: Path) -> None:
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud().start()
        assert cloud.ask("PUT", "/v1/log-level", {"level": "error"})[0] == 200
        for _ in range(5):
            assert cloud.ask("POST", "/v1/parked/retry", {"entity": "Sensor|x"})[0] == 200
        assert cloud.ask("POST", "/v1/parked/7/discard", {})[0] == 404
        assert cloud.ask("POST", "/v1/origins/e1/filter", {"criteria": [{"exclude_all": True}]})[0] == 200
        assert cloud.ask("POST", "/v1/nowhere", {})[0] == 404
        event = {"entity_type": "Sensor", "entity_id": "t", "event_type": "Read", "payload": 1}
        assert cloud.ask("POST", "/v1/events", event)[0] == 201
        cloud.wait_for("audit.action", what="POST /v1/origins/e1/filter", result="done", who="127.0.0.1")
        lines = cloud.said("audit.action")
        assert [(line["what"], line["result"]) for line in lines[:-1]] == [
            ("PUT /v1/log-level", "done"),
            *[("POST /v1/parked/retry", "done")] * 5,
            ("POST /v1/parked/7/discard", "parked.no_such_row"),
        ]
        assert lines[1]["asked"] == {"entity": "Sensor|x"}


def test_what_a_policy_refuses_is_written_once_a_minute_for_an_id_and_a_rule(tmp_path: Path) -> None:
    with open_stage(tmp_path) as stage:
        cloud = stage.cloud().start()
        edge = stage.edge("g7", cloud=cloud, entity_prefix="g2/").start()
        edge.append(20, entity="x")
        edge.append(1, entity="y")
        edge.until("/status", lambda body: body["link"]["acked"] == 21)
        line = cloud.wait_for("audit.refused", who="g7", rule="own prefix", result="parked.not_allowed")
        assert line["what"] == "write Sensor|g2/x"
        assert len(cloud.said("audit.refused")) == 1
        for _ in range(3):
            assert cloud.ask("POST", "/v1/parked/retry", {"entity": "S|x"}, headers={"host": "evil.example"})[0] == 403
        cloud.wait_for("audit.refused", rule="door", result="http.host_refused", what="POST /v1/parked/retry")
        assert len(cloud.said("audit.refused", rule="door")) == 1
