"""What programs may ask a cloud node: the built-in projections, by entity."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import persistence_id
from common.journal.stores.journal import Journal
from common.projection.latest import latest_of
from common.projection.tally import tally_of
from common.runtime.http.app import json_response
from common.runtime.http.event_json import event_as_json
from common.runtime.http.fields import check_query


def projection_query_routes(journal: Journal, projections: frozenset[str]) -> list[BaseRoute]:
    """``GET /v1/latest/{type}/{id}`` and ``GET /v1/tally/{type}/{id}``, for those that run."""

    async def latest(request: Request) -> Response:
        entity_type, entity_id = _entity(request)
        event = await latest_of(journal.projections, entity_type, entity_id)
        if event is None:
            raise _unknown(entity_type, entity_id)
        return json_response(event_as_json(event))

    async def tally(request: Request) -> Response:
        entity_type, entity_id = _entity(request)
        found = await tally_of(journal.projections, persistence_id(entity_type, entity_id))
        if found is None:
            raise _unknown(entity_type, entity_id)
        return json_response(
            {
                "entity_type": entity_type,
                "entity_id": entity_id,
                "events": found.events,
                "checksum": found.checksum,
                "first_seq_nr": found.first_seq_nr,
                "last_seq_nr": found.last_seq_nr,
                "out_of_order": found.out_of_order,
            }
        )

    handlers = {"latest": latest, "tally": tally}
    return [
        Route(f"/v1/{name}/{{entity_type}}/{{entity_id:path}}", handler)
        for name, handler in handlers.items()
        if name in projections
    ]


def _entity(request: Request) -> tuple[str, str]:
    check_query(request, ())
    return request.path_params["entity_type"], request.path_params["entity_id"]


def _unknown(entity_type: str, entity_id: str) -> BackhaulError:
    return BackhaulError(
        "entity.unknown",
        f"no event of {entity_type}|{entity_id} has been projected",
        "check the name (edge entities carry the edge's prefix), or ask again in a moment",
        kind=ErrorKind.NOT_FOUND,
    )
