"""The least severe level of log lines, read and changed while the service runs; the next start takes the settings' again."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.runtime.http.app import json_response
from common.runtime.http.fields import check_query, invalid, json_object
from common.runtime.logs.setup import LEVELS, log_level, set_log_level


def log_level_routes() -> Sequence[BaseRoute]:
    """`GET` and `PUT /v1/log-level`."""

    async def show(request: Request) -> Response:
        check_query(request, ())
        return json_response({"level": log_level()})

    async def change(request: Request) -> Response:
        level = (await json_object(request, {"level"})).get("level")
        if level not in LEVELS:
            raise invalid("level", f"must be one of {', '.join(LEVELS)}")
        before = set_log_level(str(level), by="http")
        return json_response({"level": level, "before": before})

    return [Route("/v1/log-level", show), Route("/v1/log-level", change, methods=["PUT"])]
