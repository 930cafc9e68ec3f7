"""What a cloud answers about its nodes over HTTP, and what an operator decides about them. True on whichever node is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.members.member import Member
from common.journal.stores.journal import Journal
from common.runtime.http.app import json_response
from common.runtime.http.fields import check_bare, check_query

_log = structlog.get_logger()


def node_routes(journal: Journal, now_us: Callable[[], int]) -> Sequence[BaseRoute]:
    """`GET /v1/nodes`, `POST /v1/nodes/{node}/drain` and `…/undrain`."""

    async def listed(request: Request) -> Response:
        check_query(request, ())
        members = (await journal.members.look()).members
        ranges = Counter(row.owner for row in await journal.projections.rows())
        return json_response({"nodes": [node_as_json(one, ranges[one.instance], now_us()) for one in members]})

    async def drain(request: Request) -> Response:
        node = await _set_drained(request, True)
        _log.warning("operator.drained_node", node=node)
        return json_response({"node": node, "drained": True})

    async def undrain(request: Request) -> Response:
        node = await _set_drained(request, False)
        _log.info("operator.undrained_node", node=node)
        return json_response({"node": node, "drained": False})

    async def _set_drained(request: Request, is_drained: bool) -> str:
        await check_bare(request)
        node: str = request.path_params["node"]
        is_known = any(one.report.node == node for one in (await journal.members.look()).members)
        if is_drained and not is_known:
            raise _unknown(node)
        if not await journal.members.set_drained(node, is_drained) and not is_known:
            raise _unknown(node)
        return node

    return [
        Route("/v1/nodes", listed, methods=["GET"]),
        Route("/v1/nodes/{node}/drain", drain, methods=["POST"]),
        Route("/v1/nodes/{node}/undrain", undrain, methods=["POST"]),
    ]


def node_as_json(member: Member, ranges: int, now_us: int) -> dict[str, object]:
    """A node as lists and ``/status`` show it; ``ranges`` is how many it has."""
    report = member.report
    return {
        "node": report.node,
        "instance": member.instance,
        "state": "dead" if not member.is_live else "drained" if member.is_drained else "live",
        "ranges": ranges,
        "edges": report.edges,
        "weight": report.weight,
        "sessions": report.sessions,
        "for_s": round(max(0, now_us - report.started_us) / 1e6, 1),
        "silent_s": round(member.silent_s, 1),
    }


def _unknown(node: str) -> BackhaulError:
    return BackhaulError(
        "node.unknown",
        f"no node is called {node[:80]!r}",
        "list the nodes; one that has not run for a minute is not remembered",
        kind=ErrorKind.NOT_FOUND,
    )
