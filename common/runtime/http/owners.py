"""Which origin owns an entity, decided by an operator.

    POST /v1/owners/transfer    {"entity": "Sensor|g2/x", "to": "g9"}, or {"prefix": "Sensor|g2/", "to": "g9"}

`to` is an edge that dialled here once, or "" for this service's own programs. What is parked of the new owner is judged again
in the same transaction; the old owner's events are parked from then on. The policy must let the new owner write the
entity. A prefix is done page by page, each entity in a transaction of its own: repeating the request goes on where it ended.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.journal.append import LOCAL_OWNER
from common.core.journal.ownership import Transfer
from common.journal.stores.journal import Journal
from common.runtime.http.app import json_response
from common.runtime.http.fields import entity, invalid, json_object
from common.runtime.http.journal import flag
from common.runtime.policy import PolicyKeeper

_log = structlog.get_logger()

_PAGE: Final = 200


def owner_routes(journal: Journal, policy: PolicyKeeper) -> list[BaseRoute]:
    """The one route."""

    async def transfer(request: Request) -> Response:
        body = await json_object(request, {"entity", "prefix", "to", "accept_gap", "after"})
        to, accept_gap = body.get("to"), flag(body, "accept_gap")
        if not isinstance(to, str):
            raise invalid("to", 'must be an edge\'s id, or "" for this service')
        if ("entity" in body) == ("prefix" in body):
            raise invalid("entity", "or `prefix` must be given, one of them")
        if "entity" in body:
            name = entity(body["entity"])
            return json_response({"entity": name, **await moved(name, to, accept_gap=accept_gap)})
        prefix, after = body["prefix"], body.get("after", "")
        if not isinstance(prefix, str) or "|" not in prefix or not isinstance(after, str):
            raise invalid("prefix", "must be a text like EntityType|prefix, and `after` an entity")
        names = await journal.parked.names(prefix, after=after, max_rows=_PAGE)
        done = [{"entity": name, **await moved(name, to, accept_gap=accept_gap)} for name in names]
        return json_response({"transferred": done, "through": names[-1] if len(names) == _PAGE else None})

    async def moved(name: str, to: str, *, accept_gap: bool) -> dict[str, Any]:
        rights = policy().rights_of(to)
        if to != LOCAL_OWNER and not rights.may_write(name):
            raise _not_allowed(name, to, rights.rule.name)
        outcome: Transfer = await journal.parked.transfer(name, to, accept_gap=accept_gap)
        _log.warning(
            "operator.transferred_entity",
            persistence_id=name,
            old_owner=outcome.old_owner,
            owner=to,
            stored=outcome.stored,
            left=outcome.left,
        )
        return {"old_owner": outcome.old_owner, "owner": to, "stored": outcome.stored, "left": outcome.left or None}

    return [Route("/v1/owners/transfer", transfer, methods=["POST"])]


def _not_allowed(name: str, to: str, rule: str) -> BackhaulError:
    return BackhaulError(
        "entity.owner_not_allowed",
        f"{to[:80]!r} may not write {name[:200]}: the policy's {rule!r} does not give it",
        "let it write the entity in the policy file first, or see `cloud-service policy check`",
        kind=ErrorKind.FORBIDDEN,
    )
