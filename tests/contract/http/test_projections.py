"""What an operator sees of projections over HTTP on a node that does not run them, on every storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from common.core.events.batch import new_events
from common.core.events.ids import ALL_SLICES, slice_ranges
from common.core.journal.append import LocalAppend
from common.core.journal.range_failure import RangeFailure
from common.core.journal.snapshot import NewSnapshot
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.projection.beginning import covered
from common.projection.handlers import Event, Handler
from common.runtime.http.app import HttpApp
from common.runtime.http.projections import projection_routes
from common.testing.http_in_memory import http_request

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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


async def decide(journal: Journal, handler: Handler, path: str, body: dict[str, object]) -> tuple[int, dict[str, Any]]:
    app = HttpApp(projection_routes(journal, [handler], now_us=lambda: 0), body_max_bytes=10_000)
    answer = await http_request(
        app, "POST", f"/v1/projections/{handler.name}/{path}", {"confirm": handler.name, **body}
    )
    return answer.status, answer.json()


def noting(**options: Any) -> Handler:  # noqa: ANN401
    def nothing(_event: Event) -> None:
        return None

    return Handler("notes", each=nothing, **options)


async def trimmed(journal: Journal, *names: str, begin: int = 0) -> None:
    """A log of which the first two events are deleted, with a projection at its end."""
    batch = new_events(list(names), ["Noted"] * len(names), [b"{}"] * len(names))
    await journal.log.append_group([LocalAppend(batch)])
    await journal.snapshots.put([NewSnapshot("A|covered", 1, "State", "json", b"{}")])
    await journal.projections.declare("notes", [ALL_SLICES], begin)
    await journal.projections.set_paused("notes", True)
    await journal.log.trim(TrimLimit(2, 10))


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [({}, True), ({"snapshots": True}, True), ({"sees_deleted": True}, False)],
)
async def test_a_reset_is_refused_where_the_handler_is_not_led_over_what_is_deleted(
    journal: Journal, options: dict[str, Any], *, is_refused: bool
) -> None:
    await trimmed(journal, "A|covered", "A|gone", "A|covered")
    acts: list[tuple[str, dict[str, object]]] = [("reset", {}), ("move", {"position": 0})]
    for path, body in acts:
        status, answer = await decide(journal, noting(**options), path, body)
        assert status == (409 if is_refused else 200)
        assert not is_refused or answer["error"]["code"] == "projection.history_trimmed"
    assert await covered.settled(journal.projections, "notes", ALL_SLICES) == (0, 0) if not is_refused else True
    status, _ = await decide(journal, noting(**options), "reset", {"accept_trimmed": True})
    assert (status, await covered.settled(journal.projections, "notes", ALL_SLICES)) == (200, (2, 2))


async def test_a_reset_of_one_that_takes_snapshots_needs_no_accept_where_they_stand_for_all_that_is_deleted(
    journal: Journal,
) -> None:
    await trimmed(journal, "A|covered", "A|covered", "A|kept")
    await journal.snapshots.put([NewSnapshot("A|covered", 2, "State", "json", b"{}")])
    assert (await decide(journal, noting(snapshots=True), "reset", {}))[0] == 200
    assert (await decide(journal, noting(), "reset", {}))[0] == 409


async def test_one_that_began_later_is_reset_to_there(journal: Journal) -> None:
    await trimmed(journal, "A|covered", "A|gone", "A|kept", begin=2)
    assert (await decide(journal, noting(), "reset", {}))[0] == 200
    [row] = await journal.projections.rows()
    assert (row.position, row.begin) == (2, 2)


async def test_it_is_moved_to_now_and_behind_an_order_time(journal: Journal) -> None:
    await trimmed(journal, "A|a", "A|b", "A|covered", "A|d")
    at_us = (await journal.log.read(2, max_events=1, max_bytes=1)).events.timestamp_us[0]
    handler = noting()
    assert (await decide(journal, handler, "move", {"position": "now"}))[1]["position"] == 4
    body: dict[str, object] = {"order_time": (EPOCH + timedelta(microseconds=at_us)).isoformat()}
    assert (await decide(journal, handler, "move", body))[1]["position"] == 3
    wrongs: list[dict[str, object]] = [
        {"order_time": "soon"}, {**body, "position": 1}, {"position": "then"}, {},
    ]  # fmt: skip
    for wrong in wrongs:
        assert (await decide(journal, handler, "move", wrong))[0] == 400
