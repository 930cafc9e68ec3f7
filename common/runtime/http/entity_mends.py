"""What an operator decides about an event that an entity cannot take; commands to it then go on.

    POST /v1/mends/skip       {"entity": "Counter|1", "seq_nr": 7}
    POST /v1/mends/replace    {"entity": "Counter|1", "seq_nr": 7, "event_type": "Added", "payload": {"by": 2}}

Nothing is needed to try again: each command makes the state anew. The stored event stays as it is for everybody else.
"""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.events.ids import SEPARATOR
from common.entity import mends, refusals
from common.entity.runtime import Entities
from common.journal.stores.journal import Journal
from common.runtime.http.app import json_response
from common.runtime.http.append import EVENT_VISITS, parse_body
from common.runtime.http.fields import entity, invalid, json_object

_log = structlog.get_logger()

_PLACE = frozenset({"entity", "seq_nr"})
_EVENT = frozenset({"event_type", "payload", "payload_base64", "codec", "metadata"})


def mend_routes(journal: Journal, entities: Entities) -> list[BaseRoute]:
    """The two routes."""

    def place_of(body: dict[str, object]) -> tuple[str, int]:
        persistence_id, seq_nr = entity(body.pop("entity", None)), body.pop("seq_nr", None)
        if type(seq_nr) is not int or not 1 <= seq_nr < 2**63:
            raise invalid("seq_nr", "must be a whole number from 1")
        entity_type = persistence_id.partition(SEPARATOR)[0]
        if entity_type not in entities.definitions:
            raise refusals.unknown_type(entity_type, entities.definitions)
        return persistence_id, seq_nr

    async def skip(request: Request) -> Response:
        persistence_id, seq_nr = place_of(await json_object(request, _PLACE))
        await mends.leave_out(journal, persistence_id, seq_nr)
        _log.warning("operator.skipped_entity_event", persistence_id=persistence_id, seq_nr=seq_nr)
        return json_response({"entity": persistence_id, "seq_nr": seq_nr, "skipped": True})

    async def replace(request: Request) -> Response:
        body = await json_object(request, _PLACE | _EVENT, EVENT_VISITS)
        persistence_id, seq_nr = place_of(body)
        entity_type, _, entity_id = persistence_id.partition(SEPARATOR)
        one = parse_body({**body, "entity_type": entity_type, "entity_id": entity_id}).events
        event = (one.event_type[0], one.codec[0], one.payload[0], one.metadata[0])
        await mends.replace(journal, entities.definitions[entity_type], persistence_id, seq_nr, event)
        _log.warning(
            "operator.replaced_entity_event", persistence_id=persistence_id, seq_nr=seq_nr, event_type=event[0]
        )
        return json_response({"entity": persistence_id, "seq_nr": seq_nr, "event_type": event[0]})

    return [
        Route("/v1/mends/skip", skip, methods=["POST"]),
        Route("/v1/mends/replace", replace, methods=["POST"]),
    ]
