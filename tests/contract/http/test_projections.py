"""What an operator sees of projections over HTTP on a node that does not run them, on every storage."""

from __future__ import annotations

from common.core.events.ids import slice_ranges
from common.core.journal.range_failure import RangeFailure
from common.journal.stores.journal import Journal
from common.runtime.http.app import HttpApp
from common.runtime.http.projections import projection_routes
from common.testing.http_in_memory import http_request

FAILURE = RangeFailure("projection.handler_failed", "field 'celsius' must be a number", 8, 4, 1_700_000_000_000_000)


async def test_a_range_that_fails_on_another_node_says_why(journal: Journal) -> None:
    low, high = slice_ranges(2)
    await journal.projections.acquire("tally", low, "n2/1", 60)
    lease = await journal.projections.acquire("tally", high, "n2/1", 60)
    assert lease is not None
    await journal.projections.set_failing(lease, FAILURE)
    app = HttpApp(projection_routes(journal, now_us=lambda: 0), body_max_bytes=10_000)
    answer = await http_request(app, "GET", "/v1/projections")
    names = ("slices", "node", "state", "error_code", "error", "error_position", "attempts", "failing_since_us")
    assert [[row[name] for name in names] for row in answer.json()["projections"]] == [
        [str(low), "n2", None, None, None, None, None, None],
        [str(high), "n2", "failing", FAILURE.code, FAILURE.reason, 8, 4, FAILURE.since_us],
    ]
