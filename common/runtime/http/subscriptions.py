"""What this service receives of other services, over its HTTP port: subscriptions, their filters, and their inboxes.

A program in any language fetches the rows of an inbox in order, works on them, and acknowledges the last ``id`` it is done
with; only then they are freed. ``GET /v1/inbox/{stream}`` answers a page, at once or as soon as there is one; with
``Accept: text/event-stream`` it goes on for ever, resumable by ``Last-Event-ID``. Fetching frees nothing, so a program
that died gets the same rows again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Final

import orjson
import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.filters.predicates import Filter, parse_filter
from common.core.subscription.place import FilterState, LogCursor, Subscription
from common.core.subscription.restarts import begins_again, lower_starts
from common.journal.head_signal import HeadSignal
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import InboxRow, InboxStats
from common.runtime.http.app import json_response
from common.runtime.http.event_json import event_as_json
from common.runtime.http.fields import check_bare, check_query, invalid, json_object, query_number, whole_number
from common.runtime.http.sse import HEARTBEAT, EventStreamResponse, EventStreams, as_event
from common.transport.subscription.state import SubscriptionState

_log = structlog.get_logger()

_ROWS_MAX: Final = 1_000
_ROWS_DEFAULT: Final = 100
_ANSWER_BYTES_MAX: Final = 1024 * 1024
_WAIT_MAX_S: Final = 2
_AWAITING_SHOWN: Final = 100
# A live answer looks so often without having been prompted, and whether the service stops.
_LOOK_S: Final = 0.5
STREAMS_MAX: Final = 32


States = Mapping[str, SubscriptionState]


def subscription_routes(journal: Journal, states: States, stop: trio.Event, *, heartbeat_s: float) -> list[BaseRoute]:
    """The routes. ``states`` has the subscriptions that run here, ``stop`` ends live answers."""
    streams = EventStreams(STREAMS_MAX)

    async def known(request: Request) -> str:
        name: str = request.path_params["stream"]
        if name not in states and await journal.subscriptions.get(name) is None:
            raise BackhaulError(
                "subscription.unknown",
                f"there is no subscription {name[:80]!r} here",
                "list the subscriptions for their names",
                kind=ErrorKind.NOT_FOUND,
            )
        return name

    async def inbox(request: Request) -> Response:
        live = "text/event-stream" in request.headers.get("accept", "")
        check_query(request, {"after"} if live else {"after", "max", "wait_s"})
        name = await known(request)
        after = query_number(request, "after", 0)
        if live:
            last = request.headers.get("last-event-id")
            after = whole_number("Last-Event-ID", last, 0) if last is not None else after
            return EventStreamResponse(
                streams, _Tail(journal, name, after, stop, heartbeat_s, _committed(states, name)).run
            )
        return json_response(await _page(journal, name, after, request, _committed(states, name)))

    async def ack(request: Request) -> Response:
        body = await json_object(request, {"through"})
        name = await known(request)
        through = body.get("through")
        if type(through) is not int or not 0 <= through < 2**63:
            raise invalid("through", "must be the id of a row, a whole number from 0")
        freed = await journal.subscriptions.ack_inbox(name, through)
        return json_response({"freed": freed, **_inbox_as_json(await journal.subscriptions.inbox_stats(name))})

    async def listed(request: Request) -> Response:
        check_query(request, ())
        return json_response({"subscriptions": await subscriptions_as_json(journal, states)})

    async def change(request: Request) -> Response:
        body = await json_object(request, {"criteria"})
        name = await known(request)
        if "criteria" not in body:
            raise invalid("criteria", "is missing")
        wanted = parse_filter(orjson.dumps(body["criteria"]))
        await check_restarts(journal, states, name, wanted)
        requested = await journal.subscriptions.set_requested(name, wanted.criteria)
        if name in states:
            states[name].filter_changed()
        _log.info("operator.changed_filter", subscription=name, filter_version=requested.version)
        return json_response({"subscription": name, "requested": _filter_as_json(requested)})

    async def forget(request: Request) -> Response:
        await check_bare(request)
        name = await known(request)
        stats = await journal.subscriptions.inbox_stats(name)
        await journal.subscriptions.forget(name)
        _log.warning("operator.forgot_subscription", subscription=name, inbox_rows=stats.rows)
        return json_response({"subscription": name, "forgotten": True, "inbox_rows": stats.rows})

    return [
        Route("/v1/inbox/{stream}", inbox, methods=["GET"]),
        Route("/v1/inbox/{stream}/ack", ack, methods=["POST"]),
        Route("/v1/subscriptions", listed, methods=["GET"]),
        Route("/v1/subscriptions/{stream}/filter", change, methods=["PUT"]),
        Route("/v1/subscriptions/{stream}/forget", forget, methods=["POST"]),
    ]


async def check_restarts(journal: Journal, states: States, name: str, wanted: Filter) -> None:
    """Refuse a filter with which entities would begin again where that is not taken.

    Raises:
        BackhaulError: ``subscription.restart_refused``.
    """
    state, stored = states.get(name), await journal.subscriptions.get(name)
    if stored is None or state is None or state.takes_restarts:
        return
    place = stored.place
    starts = lower_starts(parse_filter((place.next or place.applied).criteria), wanted)
    first = begins_again(starts, await journal.subscriptions.known(name, list(starts)))
    if first:
        entity, number = next(iter(first.items()))
        raise BackhaulError(
            "subscription.restart_refused",
            f"{entity} is known beyond {number} and would begin again, which {name} does not take",
            "give its handler restarts=True, or include the id without from_seq_nr",
            kind=ErrorKind.CONFLICT,
        )


def _committed(states: States, name: str) -> HeadSignal:
    """Raised by each commit that may have brought rows; never, where nobody brings any."""
    return states[name].committed if name in states else HeadSignal()


async def _page(journal: Journal, name: str, after: int, request: Request, committed: HeadSignal) -> dict[str, object]:
    wanted = query_number(request, "max", _ROWS_DEFAULT, minimum=1, maximum=_ROWS_MAX)
    wait_s = query_number(request, "wait_s", 0, maximum=_WAIT_MAX_S)
    until = trio.current_time() + wait_s
    while True:
        heard = committed.position
        rows = await journal.subscriptions.inbox(name, after, max_rows=wanted, max_bytes=_ANSWER_BYTES_MAX)
        left_s = until - trio.current_time()
        if rows or left_s <= 0:
            break
        await committed.wait_above(heard, min(left_s, _LOOK_S))
    stats = await journal.subscriptions.inbox_stats(name)
    return {
        "events": [_row_as_json(row) for row in rows],
        "through": rows[-1].id if rows else after,
        **_inbox_as_json(stats),
    }


class _Tail:
    """One live answer: the rows behind an id, then those that come."""

    def __init__(
        self, journal: Journal, name: str, after: int, stop: trio.Event, heartbeat_s: float, committed: HeadSignal
    ) -> None:
        self._journal = journal
        self._name = name
        self._after = after
        self._stop = stop
        self._heartbeat_s = heartbeat_s
        self._committed = committed

    async def run(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Until the service stops; the reader's end cancels it."""
        spoke_at = trio.current_time()
        await write(HEARTBEAT)
        while not self._stop.is_set():
            heard = self._committed.position
            rows = await self._journal.subscriptions.inbox(
                self._name, self._after, max_rows=_ROWS_DEFAULT, max_bytes=_ANSWER_BYTES_MAX
            )
            if rows:
                self._after = rows[-1].id
                await write(b"".join(as_event(row.id, orjson.dumps(_row_as_json(row))) for row in rows))
                spoke_at = trio.current_time()
                continue
            if trio.current_time() >= spoke_at + self._heartbeat_s:
                await write(HEARTBEAT)
                spoke_at = trio.current_time()
            await self._committed.wait_above(heard, _LOOK_S)


async def subscriptions_as_json(journal: Journal, states: States) -> list[dict[str, object]]:
    """Every subscription, also one that was configured and has not received anything yet."""
    stored = {state.name: state for state in await journal.subscriptions.rows()}
    shown: list[dict[str, object]] = []
    for name in sorted(states.keys() | stored.keys()):
        state = stored.get(name)
        awaiting = await journal.subscriptions.awaiting(name, _AWAITING_SHOWN) if state else []
        shown.append(
            {
                "name": name,
                "state": states[name].state if name in states else None,
                **(_place_as_json(state) if state else {}),
                "awaiting": len(awaiting),
                **_inbox_as_json(await journal.subscriptions.inbox_stats(name)),
            }
        )
    return shown


def _place_as_json(state: Subscription) -> dict[str, object]:
    place = state.place
    return {
        "journal_id": place.journal_id,
        "generation_id": place.generation_id,
        "position": place.live.position,
        "scanning": _scan_as_json(place.live),
        "applied": _filter_as_json(place.applied),
        "requested": _filter_as_json(state.requested),
        "backfill_position": place.backfill.position if place.backfill else None,
        "next": _filter_as_json(place.next) if place.next else None,
        "received": state.received,
        "revision": state.revision,
        "updated_us": state.updated_us,
    }


def _scan_as_json(cursor: LogCursor) -> dict[str, object] | None:
    return asdict(cursor.scan) if cursor.scan else None


def _filter_as_json(state: FilterState) -> dict[str, object]:
    return {"version": state.version, "criteria": orjson.Fragment(state.criteria) if state.criteria else []}


def _inbox_as_json(stats: InboxStats) -> dict[str, object]:
    return {"inbox": asdict(stats)}


def _row_as_json(row: InboxRow) -> dict[str, object]:
    return {"id": row.id, "leaving": row.leaving, "replaces": row.replaces, **event_as_json(row.event)}
