"""What an operator sees and decides about nodes over HTTP, on every storage."""

from __future__ import annotations

from typing import Any

from cloud_service.node_routes import node_routes
from common.core.events.ids import ALL_SLICES
from common.core.members.member import MemberReport
from common.journal.stores.journal import Journal
from common.runtime.http.app import HttpApp
from common.testing.http_in_memory import http_request
from tests.contract.journals import Storage

STARTED_US = 1_700_000_000_000_000
REPORT = MemberReport("n1/1", "n1", STARTED_US, weight=2, runs=frozenset({"tally"}), sessions=12, edges=7)


async def ask(journal: Journal, method: str, target: str) -> tuple[int, dict[str, Any]]:
    app = HttpApp(node_routes(journal, lambda: STARTED_US + 90_000_000), body_max_bytes=10_000)
    answer = await http_request(app, method, target)
    return answer.status, answer.json()


async def test_nodes_are_listed_with_what_they_have(journal: Journal) -> None:
    await journal.members.renew(REPORT, 30.0)
    await journal.projections.declare("tally", [ALL_SLICES])
    await journal.projections.take_all("n1/1", [("tally", ALL_SLICES)], 30.0)
    status, answer = await ask(journal, "GET", "/v1/nodes")
    [node] = answer["nodes"]
    assert status == 200
    assert node.pop("silent_s") < 30
    assert node == {
        "node": "n1",
        "instance": "n1/1",
        "state": "live",
        "ranges": 1,
        "edges": 7,
        "weight": 2,
        "sessions": 12,
        "for_s": 90.0,
    }


async def test_a_node_is_drained_until_it_is_undrained(journal: Journal) -> None:
    await journal.members.renew(REPORT, 30.0)
    assert await ask(journal, "POST", "/v1/nodes/n1/drain") == (200, {"node": "n1", "drained": True})
    assert await ask(journal, "POST", "/v1/nodes/n1/drain") == (200, {"node": "n1", "drained": True})
    assert [node["state"] for node in (await ask(journal, "GET", "/v1/nodes"))[1]["nodes"]] == ["drained"]
    assert await ask(journal, "POST", "/v1/nodes/n1/undrain") == (200, {"node": "n1", "drained": False})
    assert [node["state"] for node in (await ask(journal, "GET", "/v1/nodes"))[1]["nodes"]] == ["live"]


async def test_a_node_that_is_gone_can_be_undrained_and_one_that_never_was_is_unknown(
    storage: Storage, journal: Journal
) -> None:
    await journal.members.renew(REPORT, 0.05)
    await ask(journal, "POST", "/v1/nodes/n1/drain")
    await storage.pass_time(0.1)
    assert [node["state"] for node in (await ask(journal, "GET", "/v1/nodes"))[1]["nodes"]] == ["dead"]
    await journal.members.forget("n1/1")
    assert (await ask(journal, "POST", "/v1/nodes/n1/undrain"))[0] == 200
    for word in ("drain", "undrain"):
        status, answer = await ask(journal, "POST", f"/v1/nodes/n1/{word}")
        assert (status, answer["error"]["code"]) == (404, "node.unknown")
