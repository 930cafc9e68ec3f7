"""Who may do what: what the policy says of one id, and the peers that an operator shut out.

    GET  /v1/policy?who=g7&write=Sensor%7Cg2/x
    GET  /v1/identities
    POST /v1/identities/block    {"id": "g7", "reason": "stolen"}
    POST /v1/identities/allow    {"id": "g7"}

A block holds on this node at once, on others within seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import NAME_MAX_BYTES, invisible_problem, text_problem
from common.core.policy.rules import Policy
from common.journal.stores.identities import BlockedIdentity, IdentityStore
from common.runtime.http.app import json_response
from common.runtime.http.fields import check_query, entity, invalid, json_object
from common.runtime.trust import TrustKeeper

_QUESTIONS = ("write", "read")
_REASON_MAX_BYTES: Final = 500


def policy_routes(policy: Callable[[], Policy]) -> Sequence[BaseRoute]:
    """`GET /v1/policy?who=…` with one of `write` and `read`."""

    async def check(request: Request) -> Response:
        check_query(request, {"who", *_QUESTIONS})
        who = request.query_params.get("who")
        if not who:
            raise invalid("who", "is missing")
        asked = [name for name in _QUESTIONS if name in request.query_params]
        if len(asked) != 1:
            raise invalid("write", "or `read` must be given, one of them")
        now = policy()
        rights, what = now.rights_of(who), request.query_params[asked[0]]
        answer: dict[str, object] = {"who": who, asked[0]: what, "rule": rights.rule.name, "policy": now.source}
        if asked[0] == "write":
            answer["allowed"] = rights.may_write(entity(what))
        else:
            wall = rights.wall_of(what)
            answer["allowed"] = wall is not None
            if wall is not None:
                answer["filter"] = wall.filter_for(who).criteria
        return json_response(answer)

    return [Route("/v1/policy", check)]


def identity_routes(identities: IdentityStore, trust: TrustKeeper) -> list[BaseRoute]:
    """The three routes."""

    async def listed(request: Request) -> Response:
        check_query(request, ())
        return json_response({"blocked": [_as_json(row) for row in await identities.blocked()]})

    async def block(request: Request) -> Response:
        body = await json_object(request, {"id", "reason"})
        reason = body.get("reason", "")
        if not isinstance(reason, str) or (reason and text_problem(reason, _REASON_MAX_BYTES)):
            raise invalid("reason", f"must be a plain text of at most {_REASON_MAX_BYTES} bytes")
        row = await identities.block(_id_in(body), reason)
        await trust.look()
        return json_response(_as_json(row))

    async def allow(request: Request) -> Response:
        identity = _id_in(await json_object(request, {"id"}))
        if not await identities.allow(identity):
            raise BackhaulError(
                "identity.not_blocked",
                f"{identity!r} is not blocked",
                "list the blocked identities",
                kind=ErrorKind.NOT_FOUND,
            )
        await trust.look()
        return json_response({"allowed": identity})

    return [
        Route("/v1/identities", listed, methods=["GET"]),
        Route("/v1/identities/block", block, methods=["POST"]),
        Route("/v1/identities/allow", allow, methods=["POST"]),
    ]


def _id_in(body: dict[str, object]) -> str:
    identity = body.get("id")
    if not isinstance(identity, str) or not identity:
        raise invalid("id", "must be a peer's id")
    if problem := text_problem(identity, NAME_MAX_BYTES) or invisible_problem(identity):
        raise invalid("id", problem)
    return identity


def _as_json(row: BlockedIdentity) -> dict[str, object]:
    return {"id": row.id, "reason": row.reason, "blocked_us": row.blocked_us}
