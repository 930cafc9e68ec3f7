"""The least severe level of log lines, read and changed while the service runs; the next start takes the settings' again."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError
from common.runtime.http.app import json_response, read_json
from common.runtime.logs.setup import LEVELS, log_level, set_log_level


def log_level_routes() -> Sequence[BaseRoute]:
    """`GET` and `PUT /v1/log-level`."""

    async def show(_: Request) -> Response:
        return json_response({"level": log_level()})

    async def change(request: Request) -> Response:
        body = await read_json(request)
        level = body.get("level") if isinstance(body, dict) and len(body) == 1 else None
        if level not in LEVELS:
            raise BackhaulError(
                "http.invalid_request",
                "the body is not an object with a level alone",
                f'send {{"level": "debug"}}; levels are {", ".join(LEVELS)}',
                details={"field": "level"},
            )
        before = set_log_level(str(level), by="http")
        return json_response({"level": level, "before": before})

    return [Route("/v1/log-level", show), Route("/v1/log-level", change, methods=["PUT"])]
