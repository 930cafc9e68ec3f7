"""An application that follows another edge: what it has read of each sensor, which is more than was sent if any came twice.

``FOLLOWED_ADDRESS`` says where that edge serves its streams.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.journal.statement import Statement
from common.projection.handlers import Event, Handler
from common.runtime.app.application import App, Follow
from common.runtime.app.context import Running
from common.runtime.http.app import json_response


def read(event: Event) -> Statement:
    """How many events came of the sensor, and the sum and the last of their numbers."""
    return Statement(
        "INSERT INTO heard VALUES ($1, 1, $2, $2) ON CONFLICT (sensor) DO UPDATE SET"
        " events = heard.events + 1, total = heard.total + excluded.total, last = excluded.last",
        [(event.envelope.persistence_id, event.envelope.seq_nr)],
    )


def routes(running: Running) -> Sequence[BaseRoute]:
    """`GET /v1/heard`: the table."""

    async def heard(_request: Request) -> Response:
        rows = await running.journal.projections.query("SELECT sensor, events, total, last FROM heard ORDER BY sensor")
        return json_response({"heard": [list(row) for row in rows]})

    return [Route("/v1/heard", heard, methods=["GET"])]


TABLE = (
    "CREATE TABLE heard (sensor TEXT PRIMARY KEY, events BIGINT NOT NULL, total BIGINT NOT NULL, last BIGINT NOT NULL)"
)
app = App(
    follows=[
        Follow(
            stream="Sensor",
            source=os.environ["FOLLOWED_ADDRESS"],
            handler=Handler("heard", [[TABLE]], each=read),
        )
    ],
    routes=routes,
)
