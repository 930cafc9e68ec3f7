"""An application as a user writes one: typed events, a projection of each form, a route of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.journal.statement import Statement
from common.journal.tables import Tables
from common.projection.handlers import Event, Handler, OnFailure
from common.runtime.app.application import App
from common.runtime.app.context import Running
from common.runtime.http.app import json_response


@dataclass(frozen=True)
class Measured:
    """What a sensor says."""

    value: int


def highest(event: Event) -> Statement | None:
    """The highest value of each sensor; a value of 13 cannot be digested."""
    if not isinstance(event.value, Measured):
        return None
    if event.value.value == 13:
        raise ValueError("unlucky")
    return Statement(
        "INSERT INTO highest VALUES ($1, $2)"
        " ON CONFLICT (sensor) DO UPDATE SET value = CASE WHEN excluded.value > highest.value"
        " THEN excluded.value ELSE highest.value END",
        [(event.envelope.persistence_id, event.value.value)],
    )


def steps(tables: Tables, event: Event) -> None:
    """How far a sensor's values went up and down in all: needs the one before."""
    sensor, value = event.envelope.persistence_id, event.value.value
    found = tables.query("SELECT last, way FROM steps WHERE sensor = $1", sensor)
    if found:
        [(last, way)] = found
        tables.execute("UPDATE steps SET last = $2, way = $3 WHERE sensor = $1", sensor, value, way + abs(value - last))
    else:
        tables.execute("INSERT INTO steps VALUES ($1, $2, 0)", sensor, value)


def routes(running: Running) -> Sequence[BaseRoute]:
    """`GET /v1/sensors`: both tables, joined with one of the application as a whole."""

    async def sensors(_request: Request) -> Response:
        rows = await running.journal.projections.query(
            "SELECT steps.sensor, coalesce(highest.value, 0), way, unit FROM steps"
            " LEFT JOIN highest ON highest.sensor = steps.sensor CROSS JOIN units ORDER BY steps.sensor"
        )
        names = ("sensor", "highest", "way", "unit")
        return json_response({"sensors": [dict(zip(names, row, strict=True)) for row in rows]})

    return [Route("/v1/sensors", sensors, methods=["GET"])]


app = App(
    event_types=[Measured],
    migrations=[["CREATE TABLE units (unit TEXT)", "INSERT INTO units VALUES ('mm')"]],
    projections=[
        Handler(
            "highest",
            [["CREATE TABLE highest (sensor TEXT PRIMARY KEY, value BIGINT NOT NULL)"]],
            each=highest,
            on_failure=OnFailure.PARK,
            attempts=1,
            reset=["DELETE FROM highest"],
        ),
        Handler(
            "steps",
            [["CREATE TABLE steps (sensor TEXT PRIMARY KEY, last BIGINT NOT NULL, way BIGINT NOT NULL)"]],
            in_transaction=steps,
            entity_types=frozenset({"Sensor"}),
        ),
    ],
    routes=routes,
)
