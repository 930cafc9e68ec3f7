"""``PUT /v1/snapshots/{type}/{id}``, ``GET`` and ``DELETE`` of the same, and lists: snapshots taken by a program.

    {"seq_nr": 42, "event_type": "State", "payload": {"celsius": 21.5}}

``seq_nr`` is the journal's number of the last event that the snapshot includes. Optional: ``codec`` with
``payload_base64`` instead of ``payload``, ``metadata``, ``tags`` for when that event is no longer there, and
``says_last_event``: true if it says no more than that event, so that it may be seen where the event may be. Storing one
of a lower number than the stored one changes nothing and is no error; one of the same number takes its place.
"""

from __future__ import annotations

from dataclasses import replace

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import SEPARATOR, persistence_id
from common.core.events.rules import problems
from common.core.journal.snapshot import NewSnapshot, Snapshot, no_snapshot, snapshot_batch
from common.journal.stores.journal import Journal
from common.runtime.admitted import ALL_ADMITTED, Admitted
from common.runtime.http.app import json_response
from common.runtime.http.append import EVENT_VISITS, parse_body
from common.runtime.http.event_json import event_as_json
from common.runtime.http.fields import check_query, invalid, json_object, query_number

_log = structlog.get_logger()

_ROWS_MAX = 1_000
_PAGE_BYTES = 4 * 1024 * 1024
_KEYS = frozenset({"seq_nr", "event_type", "payload", "payload_base64", "codec", "tags", "metadata", "says_last_event"})


def snapshot_routes(
    journal: Journal, event_max_bytes: int, entity_prefix: str = "", admitted: Admitted = ALL_ADMITTED, kept: int = 1
) -> list[BaseRoute]:
    """The routes. Of entities that the application decides it takes the snapshots itself.

    An id that no entity has is looked for with ``entity_prefix``, as the intake stores it. ``kept`` are kept of an entity.
    """

    async def named(request: Request) -> str:
        entity_type, entity_id = request.path_params["type"], request.path_params["id"]
        name = persistence_id(entity_type, entity_id)
        if entity_prefix and await journal.log.entity_head(name) is None:
            return persistence_id(entity_type, f"{entity_prefix}{entity_id}")
        return name

    async def put(request: Request) -> Response:
        check_query(request, ())
        admitted.check_entity(request.path_params["type"])
        body = await json_object(request, _KEYS, EVENT_VISITS)
        seq_nr = body.pop("seq_nr", None)
        if type(seq_nr) is not int or not 1 <= seq_nr < 2**63:
            raise invalid("seq_nr", "must be a whole number from 1")
        says_last_event = body.pop("says_last_event", False)
        if not isinstance(says_last_event, bool):
            raise invalid("says_last_event", "must be true or false")
        new = replace(_as_new(await named(request), seq_nr, body, event_max_bytes), says_last_event=says_last_event)
        [stored] = await journal.snapshots.put([new], keep=kept, replaces=True)
        entity_type, _, entity_id = new.persistence_id.partition(SEPARATOR)
        return json_response(
            {"entity_type": entity_type, "entity_id": entity_id, "seq_nr": seq_nr, "stored": stored},
            status=201 if stored else 200,
        )

    async def get(request: Request) -> Response:
        check_query(request, {"seq_nr", "all"})
        name = await named(request)
        found = await journal.snapshots.kept(name)
        if not found:
            raise no_snapshot(name)
        if "all" in request.query_params:
            return json_response({"snapshots": [_listed(one) for one in found]})
        seq_nr = query_number(request, "seq_nr", found[0].seq_nr, minimum=1)
        snapshot = next((one for one in found if one.seq_nr == seq_nr), None)
        if snapshot is None:
            raise no_snapshot(name, seq_nr)
        shown = event_as_json(snapshot_batch([snapshot]).envelope(0))
        about = {"taken_position": snapshot.taken_position, "says_last_event": snapshot.says_last_event}
        return json_response(shown | about)

    async def delete(request: Request) -> Response:
        check_query(request, {"seq_nr"})
        admitted.check_entity(request.path_params["type"])
        name, seq_nr = await named(request), query_number(request, "seq_nr", None, minimum=1)
        await journal.snapshots.delete(name, seq_nr)
        _log.warning("snapshot.deleted", persistence_id=name, seq_nr=seq_nr)
        return json_response({"entity": name, "seq_nr": seq_nr, "deleted": True})

    async def listed(request: Request) -> Response:
        check_query(request, {"type", "after", "max"})
        kind = request.query_params.get("type")
        found = await journal.snapshots.page(
            request.query_params.get("after", ""),
            max_rows=query_number(request, "max", 100, minimum=1, maximum=_ROWS_MAX),
            max_bytes=_PAGE_BYTES,
            entity_types=frozenset([kind] if kind else []),
        )
        through = found[-1].persistence_id if found else request.query_params.get("after", "")
        return json_response({"snapshots": [_listed(one) for one in found], "through": through})

    return [
        Route("/v1/snapshots", listed, methods=["GET"]),
        Route("/v1/snapshots/{type}/{id:path}", put, methods=["PUT"]),
        Route("/v1/snapshots/{type}/{id:path}", get, methods=["GET"]),
        Route("/v1/snapshots/{type}/{id:path}", delete, methods=["DELETE"]),
    ]


def _listed(snapshot: Snapshot) -> dict[str, object]:
    """A snapshot in a list: all but its content."""
    entity_type, _, entity_id = snapshot.persistence_id.partition(SEPARATOR)
    return {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "seq_nr": snapshot.seq_nr,
        "position": snapshot.position,
        "event_type": snapshot.event_type,
        "payload_bytes": len(snapshot.payload),
        "taken_position": snapshot.taken_position,
        "says_last_event": snapshot.says_last_event,
    }


def _as_new(name: str, seq_nr: int, body: dict[str, object], event_max_bytes: int) -> NewSnapshot:
    entity_type, _, entity_id = name.partition(SEPARATOR)
    events: EventBatch = parse_body({**body, "entity_type": entity_type, "entity_id": entity_id}).events
    found = problems(events, event_max_bytes)
    if found:
        code, what = found[0]
        kind = ErrorKind.TOO_LARGE if code == "events.too_large" else None
        raise BackhaulError(code, f"the snapshot's {what}", "nothing was stored: mend the request", kind=kind)
    return NewSnapshot(
        name, seq_nr, events.event_type[0], events.codec[0], events.payload[0], events.tags[0], events.metadata[0]
    )
