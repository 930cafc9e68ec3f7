"""What the policy says of one id: allowed or not, and by which rule. Nothing is changed by asking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.policy.rules import Policy
from common.runtime.http.app import json_response
from common.runtime.http.fields import check_query, entity, invalid

_QUESTIONS = ("write", "read", "command")


def policy_routes(policy: Callable[[], Policy]) -> Sequence[BaseRoute]:
    """`GET /v1/policy?who=…` with one of `write`, `read` and `command`."""

    async def check(request: Request) -> Response:
        check_query(request, {"who", *_QUESTIONS})
        who = request.query_params.get("who")
        if not who:
            raise invalid("who", "is missing")
        asked = [name for name in _QUESTIONS if name in request.query_params]
        if len(asked) != 1:
            raise invalid("write", "or `read` or `command` must be given, one of them")
        now = policy()
        rights, what = now.rights_of(who), request.query_params[asked[0]]
        answer: dict[str, object] = {"who": who, asked[0]: what, "rule": rights.rule.name, "policy": now.source}
        if asked[0] == "write":
            answer["allowed"] = rights.may_write(entity(what))
        elif asked[0] == "command":
            answer["allowed"] = rights.may_command(what)
        else:
            wall = rights.wall_of(what)
            answer["allowed"] = wall is not None
            if wall is not None:
                answer["filter"] = wall.filter_for(who).criteria
        return json_response(answer)

    return [Route("/v1/policy", check)]
