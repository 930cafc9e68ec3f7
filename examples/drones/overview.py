"""The overview, in the cloud: one row a drone with the cell it is in, made of coarse events; and a route that shows it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.app import Event, Handler, Running, Statement, json_response
from examples.drones.drone import CellEntered

_TABLE = """CREATE TABLE drone_overview (
    drone TEXT PRIMARY KEY, cell TEXT NOT NULL, changes BIGINT NOT NULL, entered_us BIGINT NOT NULL)"""
_ENTERED = """INSERT INTO drone_overview VALUES ($1, $2, 1, $3)
    ON CONFLICT (drone) DO UPDATE SET cell = excluded.cell, changes = drone_overview.changes + 1,
    entered_us = excluded.entered_us"""
ROWS = "SELECT drone, cell, changes FROM drone_overview ORDER BY drone"


def entered(event: Event) -> Statement | None:
    """A drone (`site/drone`) is in another cell. Not idempotent: it counts, and counts each change once."""
    match event.value:
        case CellEntered(cell):
            return Statement(_ENTERED, [(event.entity_id, cell, event.envelope.timestamp_us)])
    return None


overview = Handler("drone-overview", [[_TABLE]], each=entered, reset=["DELETE FROM drone_overview"])


def routes(running: Running) -> Sequence[BaseRoute]:
    """`GET /v1/overview`, or of one cell: `?cell=5991/1075`."""

    async def answer(request: Request) -> Response:
        cell = request.query_params.get("cell")
        rows = await running.journal.projections.query(ROWS)
        drones = [{"drone": drone, "cell": at, "changes": changes} for drone, at, changes in rows]
        return json_response({"drones": [one for one in drones if cell in {None, one["cell"]}]})

    return [Route("/v1/overview", answer, methods=["GET"])]
