"""`GET /v1/fleet` and `GET /v1/fleet/{id}`: the edges over all nodes, and whether anything of them is lost.

While the database is away the last answer's rows are shown, with `stale` saying why and `as_of_us` from when they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.fleet.facts import EdgeFacts, from_json
from common.core.fleet.losses import PARTS, parts_of, verdict
from common.core.fleet.view import SORTS, FleetQuery, SeenEdge, page, shown, totals
from common.journal.kept_lease import KeptLease
from common.journal.stores.fleet import FleetRow
from common.journal.stores.journal import Journal
from common.runtime.http.app import json_response
from common.runtime.http.fields import check_query, invalid, query_number
from common.runtime.metrics import MetricsRegistry

LEASE: Final = "fleet-losses"
ANSWER_WITHIN_S: Final = 2.0
_PAGE_MAX: Final = 1_000
_RANGES_SHOWN: Final = 200


class FleetView:
    """What the routes show."""

    def __init__(self, journal: Journal, now_us: Callable[[], int], *, node: str, owner: str, lease_s: float) -> None:
        self._journal = journal
        self._lease = KeptLease(journal.leases, LEASE, owner, lease_s)
        self._now_us = now_us
        self._node = node
        self._edges: list[SeenEdge] = []
        self._nodes: Mapping[str, int] = {}
        self._as_of_us = 0
        self._parts: Mapping[str, int] = {}

    def register(self, metrics: MetricsRegistry) -> None:
        """Offer what became of all edges' events to Prometheus, as of the last `count_losses`; no series without one."""
        metrics.gauges(
            "fleet_events",
            "Events of all edges over all nodes, by what became of them; of the node that counts them.",
            "part",
            lambda: self._parts,
        )

    async def count_losses(self) -> None:
        """Count what became of all edges' events, if this node holds the lease: it reads every entity's head.

        Raises what the journal raises; the numbers are the former ones then.
        """
        if not await self._lease.is_ours():
            self._parts = {}
            return
        await self._refresh()
        self._parts = (await self._fleet_losses())["parts"]

    def routes(self) -> list[BaseRoute]:
        """The two."""
        return [
            Route("/v1/fleet", self._list, methods=["GET"]),
            Route("/v1/fleet/{id}", self._show, methods=["GET"]),
        ]

    async def _refresh(self) -> dict[str, object]:
        """Read all edges, or say why those of the last time are shown. Raises when there was no last time."""
        reason: BackhaulError | None = None
        with trio.move_on_after(ANSWER_WITHIN_S) as waiting:
            try:
                rows = await self._journal.fleet.rows()
                self._nodes = await self._journal.fleet.nodes() | {self._node: self._now_us()}
                self._edges, self._as_of_us = [_seen(row) for row in rows], self._now_us()
            except BackhaulError as error:
                reason = error
        if waiting.cancelled_caught:
            reason = BackhaulError(
                "journal.unavailable", "the database does not answer", "ask again", kind=ErrorKind.UNAVAILABLE
            )
        if reason is not None and not self._as_of_us:
            raise reason
        return {"as_of_us": self._as_of_us, "stale": reason and f"{reason.message} [{reason.code}]"}

    async def _list(self, request: Request) -> Response:
        check_query(request, ("behind", "offline", "sort", "after", "max", "losses"))
        query = FleetQuery(
            behind=_is_set(request, "behind"),
            offline=_is_set(request, "offline"),
            sort=_sort(request),
            after=query_number(request, "after", 0),
            most=query_number(request, "max", 100, minimum=1, maximum=_PAGE_MAX),
        )
        known = await self._refresh()
        rows, fitting = page(self._edges, self._nodes, query, self._as_of_us)
        answer = {
            "totals": totals(self._edges, self._nodes, self._as_of_us),
            "edges": rows,
            "fitting": fitting,
            "next": query.after + len(rows) if query.after + len(rows) < fitting else None,
        }
        if _is_set(request, "losses"):
            answer["losses"] = await self._fleet_losses()
        return json_response(answer | known)

    async def _fleet_losses(self) -> dict[str, Any]:
        parts = dict.fromkeys(PARTS, 0)
        lost = []
        for origin_id, of_edge in (await self._losses(None)).items():
            for part, count in of_edge.items():
                parts[part] += count
            if verdict(of_edge) == "lost":
                lost.append(origin_id)
        return {"is_lost": verdict(parts), "parts": parts, "edges_with_losses": lost[:_PAGE_MAX]}

    async def _losses(self, origin_id: str | None) -> dict[str, dict[str, int]]:
        facts = {edge.origin_id: edge.facts for edge in self._edges}
        positions = {state.origin_id: state.stored.position for state in await self._journal.origins.rows()}
        return {
            one.origin_id: parts_of(
                one.stored,
                one.parked,
                one.stated,
                facts.get(one.origin_id, EdgeFacts()),
                positions.get(one.origin_id, 0),
            )
            for one in await self._journal.fleet.tallies(origin_id)
        }

    async def _show(self, request: Request) -> Response:
        check_query(request, ())
        origin_id = request.path_params["id"]
        known = await self._refresh()
        edge = next((edge for edge in self._edges if edge.origin_id == origin_id), None)
        if edge is None:
            raise BackhaulError(
                "origin.unknown",
                f"no edge {origin_id[:80]!r} was ever connected since this view exists",
                "list the fleet, or the origins, for their ids",
                kind=ErrorKind.NOT_FOUND,
            )
        answer = shown(edge, self._nodes, self._as_of_us)
        if known["stale"] is None:
            answer |= await self._details(edge)
        return json_response(answer | known)

    async def _details(self, edge: SeenEdge) -> dict[str, Any]:
        fleet = self._journal.fleet
        parts = (await self._losses(edge.origin_id)).get(edge.origin_id, dict.fromkeys(PARTS, 0))
        return {
            "is_lost": verdict(parts),
            "parts": parts,
            "ranges": [
                {
                    "entity": one.stated.persistence_id,
                    "from_seq_nr": one.stated.from_seq_nr,
                    "to_seq_nr": one.stated.to_seq_nr,
                    "reason": one.stated.reason,
                    "received_us": one.received_us,
                }
                for one in await fleet.stated(edge.origin_id, _RANGES_SHOWN)
            ],
            "gone": [
                {"journal_id": name, "from_position": first, "to_position": last}
                for name, first, last in edge.facts.gone
            ],
            "timeline": [
                {"at_us": note.at_us, "what": note.kind} | _shown(note.kind, from_json(note.facts))
                for note in await fleet.notes(edge.origin_id)
            ],
        }


def _shown(kind: str, facts: EdgeFacts) -> dict[str, object]:
    is_end = kind == "disconnected"  # the facts of what comes after it have the end before
    return {
        "stored": facts.stored,
        "lag_events": facts.lag,
        "code": facts.end_code if is_end else "",
        "reason": facts.end_reason if is_end else "",
        "used_bytes": facts.used_bytes,
    }


def _seen(row: FleetRow) -> SeenEdge:
    try:
        facts = from_json(row.facts)
    except (orjson.JSONDecodeError, TypeError, ValueError, AttributeError):  # written by hand, or by a later version
        facts = EdgeFacts()
    return SeenEdge(row.origin_id, row.node, row.at_us, facts)


def _is_set(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise invalid(name, "must be true or false")
    return value == "true"


def _sort(request: Request) -> str:
    sort = request.query_params.get("sort", "id")
    if sort not in SORTS:
        raise invalid("sort", f"must be one of {', '.join(SORTS)}")
    return sort
