"""What a service answers about its journal over HTTP: events, where one is, parked ones, origins.

The command line asks here, since it never opens the journal of a running service. Numbers and positions are those of
the journal that is asked; `origin_seq_nr` is the number at the origin. What an operator changes is logged
(`operator.…`). Each function gives the routes of one subject, so that a service offers those it has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.journal.history import OriginState
from common.journal.stores.journal import Journal
from common.journal.stores.parked import ParkedRow
from common.runtime.http.app import json_response
from common.runtime.http.event_json import event_as_json, event_place_as_json
from common.runtime.http.events.reading import ROWS_MAX, read_events
from common.runtime.http.fields import check_bare, check_query, entity, invalid, json_object, query_number, whole_number
from common.runtime.http.where import find_event

_log = structlog.get_logger()

_ROWS_DEFAULT: Final = 100
# The journal does not bound these reads in bytes, and an event may have a MiB or more.
_ROWS_A_READ: Final = 20

About = Callable[[int], Awaitable[Mapping[str, object]]]


def read_routes(journal: Journal, about: About | None = None) -> list[BaseRoute]:
    """`GET /v1/where` and `GET /v1/events` (`events.reading`). `about` adds what the service knows of the event at a position."""

    async def where(request: Request) -> Response:
        check_query(request, {"entity", "seq_nr", "origin"})
        persistence_id = entity(request.query_params.get("entity"))
        seq_nr = query_number(request, "seq_nr", None, minimum=1)
        found = await find_event(journal, persistence_id, seq_nr, request.query_params.get("origin", ""))
        position = found.get("position")
        more = await about(position) if about is not None and isinstance(position, int) else {}
        return json_response({**found, **more})

    async def events(request: Request) -> Response:
        return json_response(await read_events(journal, request))

    return [Route("/v1/where", where, methods=["GET"]), Route("/v1/events", events, methods=["GET"])]


MayWrite = Callable[[str, str], bool]
"""Whether an origin may write an entity."""


def parked_routes(journal: Journal, may_write: MayWrite | None = None) -> list[BaseRoute]:
    """`GET /v1/parked`, `GET /v1/parked/{id}`, `POST /v1/parked/retry`, `POST /v1/parked/{id}/discard`.

    With ``may_write`` a retry gives an entity that nobody owns to the first origin that may write it.
    """

    async def listed(request: Request) -> Response:
        check_query(request, {"origin", "after", "max"})
        wanted = query_number(request, "max", _ROWS_DEFAULT, minimum=1, maximum=ROWS_MAX)
        after = query_number(request, "after", 0)
        origin_id = request.query_params.get("origin")
        found: list[dict[str, object]] = []
        while len(found) < wanted:
            page_max = min(_ROWS_A_READ, wanted - len(found))
            rows = await journal.parked.rows(origin_id=origin_id, after_id=after, max_rows=page_max)
            found += [_parked_as_json(row) for row in rows]
            if rows:
                after = rows[-1].id
            if len(rows) < page_max:
                break
        return json_response({"parked": found, "through": after})

    async def one(request: Request) -> Response:
        check_query(request, ())
        row_id = _row_id(request)
        row = await journal.parked.row(row_id)
        if row is None:
            raise _no_parked_row(row_id)
        return json_response({**_parked_as_json(row), "event": event_as_json(row.event)})

    async def retry(request: Request) -> Response:
        body = await json_object(request, {"entity", "accept_gap"})
        persistence_id = entity(body.get("entity"))
        accept_gap = flag(body, "accept_gap")
        asked = partial(_may_write, may_write, persistence_id) if may_write else None
        stored, left = await journal.parked.retry(persistence_id, accept_gap=accept_gap, may_write=asked)
        _log.info(
            "operator.retried_parked", persistence_id=persistence_id, accept_gap=accept_gap, stored=stored, left=left
        )
        return json_response({"entity": persistence_id, "stored": stored, "left": left or None})

    async def discard(request: Request) -> Response:
        await check_bare(request)
        row_id = _row_id(request)
        row = await journal.parked.row(row_id)
        if row is None or not await journal.parked.discard(row_id):
            raise _no_parked_row(row_id)
        _log.warning(
            "operator.discarded_parked",
            row_id=row_id,
            origin_id=row.origin_id,
            persistence_id=row.event.persistence_id,
            seq_nr=row.event.seq_nr,
            code=row.code,
        )
        return json_response({"discarded": _parked_as_json(row)})

    return [
        Route("/v1/parked", listed, methods=["GET"]),
        Route("/v1/parked/retry", retry, methods=["POST"]),
        Route("/v1/parked/{id}", one, methods=["GET"]),
        Route("/v1/parked/{id}/discard", discard, methods=["POST"]),
    ]


def _may_write(may_write: MayWrite, persistence_id: str, origin_id: str) -> bool:
    return may_write(origin_id, persistence_id)


def flag(body: Mapping[str, object], field: str) -> bool:
    """A member that is true or false; false where it is missing."""
    value = body.get(field, False)
    if not isinstance(value, bool):
        raise invalid(field, "must be true or false")
    return value


def _row_id(request: Request) -> int:
    return whole_number("id", request.path_params["id"], 1)


def _no_parked_row(row_id: int) -> BackhaulError:
    return BackhaulError(
        "parked.no_such_row",
        f"there is no parked event {row_id}",
        "list the parked events again: it may have been stored or discarded meanwhile",
        kind=ErrorKind.NOT_FOUND,
    )


def _parked_as_json(row: ParkedRow) -> dict[str, object]:
    place = event_place_as_json(row.event)
    names = ("entity_type", "entity_id", "seq_nr", "event_type")
    return {
        "id": row.id,
        "origin_id": row.origin_id,
        "code": row.code,
        "parked_us": row.parked_us,
        "origin_position": row.event.position,
        **{name: place[name] for name in names},
        "payload_bytes": len(row.event.payload),
    }


def origin_routes(journal: Journal) -> list[BaseRoute]:
    """`GET /v1/origins` and `POST /v1/origins/{id}/readmit`: the logs that are received here."""

    async def listed(request: Request) -> Response:
        check_query(request, ())
        return json_response({"origins": [_origin_as_json(state) for state in await journal.origins.rows()]})

    async def readmit(request: Request) -> Response:
        await check_bare(request)
        origin_id = request.path_params["id"]
        if not await journal.origins.forget_superseded(origin_id):
            raise BackhaulError(
                "origin.unknown",
                f"no edge {origin_id[:80]!r} was ever seen here",
                "list the origins for their ids",
                kind=ErrorKind.NOT_FOUND,
            )
        _log.warning("operator.readmitted_origin", origin_id=origin_id)
        return json_response({"readmitted": origin_id})

    return [
        Route("/v1/origins", listed, methods=["GET"]),
        Route("/v1/origins/{id}/readmit", readmit, methods=["POST"]),
    ]


def _origin_as_json(state: OriginState) -> dict[str, object]:
    return {
        "id": state.origin_id,
        "session": state.session,
        "branch": state.branch,
        "position": state.stored.position,
        "journal_id": state.stored.journal_id,
        "superseded": list(state.superseded),
        "left_behind": [[generation.id, generation.first_position] for generation in state.left_behind],
        "last_seen_us": state.last_seen_us,
    }
