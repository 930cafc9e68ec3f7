"""What a cloud asks edges to push, over HTTP: set for an edge or a pattern of edges, looked at, withdrawn.

What is set is stored before it is answered and sent to the edges that are connected here at once; other nodes see it
within a poll. Criteria are those of ``core.criteria``; a refused one changes nothing. Changes are logged (`operator.…`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.filters.past import Past
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.push.filter_transition import PushFilter
from common.core.push.requested_filter import RequestedFilter, check_pattern, filter_for
from common.journal.stores.push_filters import PushFilterStore
from common.runtime.http.app import json_response
from common.runtime.http.fields import check_query, invalid, json_object

_log = structlog.get_logger()

_ACTIONS: Final = ("criteria", "change", "withdraw")
_HISTORIES: Final = tuple(past.value for past in Past)


def filter_routes(journal: PushFilterStore, refresh: Callable[[], Awaitable[None]]) -> list[BaseRoute]:
    """`GET /v1/origins/filters`, `GET` and `POST /v1/origins/{id}/filter`. ``refresh`` sends it to connected edges."""

    async def listed(request: Request) -> Response:
        check_query(request, ())
        return json_response({"filters": [_asked_as_json(asked) for asked in await journal.requested()]})

    async def shown(request: Request) -> Response:
        check_query(request, ())
        origin_id = request.path_params["id"]
        asked = filter_for(origin_id, await journal.requested())
        place = await journal.state(origin_id)
        return json_response(
            {
                "origin": origin_id,
                "asked": {
                    "version": asked.version,
                    "criteria": orjson.loads(asked.criteria),
                    "history": asked.history.value,
                },
                "in_force": _filter_as_json(place.new if place.is_settled else place.old),
                "backfilling": None if place.is_settled else _filter_as_json(place.new),
                "change_position": place.change_position,
                "backfill_position": place.backfill_position,
            }
        )

    async def change(request: Request) -> Response:
        pattern = request.path_params["id"]
        check_pattern(pattern)
        body = await json_object(request, (*_ACTIONS, "history"))
        if len(body.keys() & set(_ACTIONS)) != 1:
            raise invalid("body", f"must have one of {', '.join(_ACTIONS)}")
        answer = await _withdraw(journal, pattern, body) if "withdraw" in body else await _ask(journal, pattern, body)
        await refresh()
        return json_response(answer)

    return [
        Route("/v1/origins/filters", listed, methods=["GET"]),
        Route("/v1/origins/{id}/filter", shown, methods=["GET"]),
        Route("/v1/origins/{id}/filter", change, methods=["POST"]),
    ]


async def _ask(journal: PushFilterStore, pattern: str, body: dict[str, object]) -> dict[str, Any]:
    history = body.get("history")
    if "criteria" in body:
        wanted, past = parse_filter(orjson.dumps(body["criteria"])), Past.SNAPSHOT
    else:
        before = {asked.pattern: asked for asked in await journal.requested()}.get(pattern)
        known, past = (parse_filter(before.criteria), before.history) if before else (EVERY_ENTITY, Past.SNAPSHOT)
        wanted = known.changed(orjson.dumps(body["change"]))
    if history is not None:
        if history not in _HISTORIES:
            raise invalid("history", f"must be one of {', '.join(_HISTORIES)}")
        past = Past(history)
    asked = await journal.ask(pattern, wanted.criteria, past)
    _log.info("operator.asked_filter", pattern=pattern, filter_version=asked.version)
    return _asked_as_json(asked)


async def _withdraw(journal: PushFilterStore, pattern: str, body: dict[str, object]) -> dict[str, Any]:
    if body["withdraw"] is not True:
        raise invalid("withdraw", "must be true")
    if "history" in body:
        raise invalid("history", "goes with criteria or a change")
    if not await journal.withdraw(pattern):
        raise BackhaulError(
            "filter.not_asked",
            f"no filter is asked of {pattern[:80]!r}",
            "list the filters for their patterns",
            kind=ErrorKind.NOT_FOUND,
        )
    _log.info("operator.withdrew_filter", pattern=pattern)
    return {"withdrawn": pattern}


def _asked_as_json(asked: RequestedFilter) -> dict[str, Any]:
    return {
        "pattern": asked.pattern,
        "version": asked.version,
        "criteria": orjson.loads(asked.criteria),
        "history": asked.history.value,
        "set_us": asked.set_us,
    }


def _filter_as_json(one: PushFilter) -> dict[str, Any]:
    return {
        "version": one.version,
        "criteria": orjson.loads(one.criteria),
        "edges_own": orjson.loads(one.producer),
    }
