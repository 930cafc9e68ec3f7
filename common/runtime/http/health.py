"""The pages that tell how a service is: `/livez`, `/readyz`, `/status`, `/metrics`.

Alive means that the event loop answers; it depends on nothing else, so that an orchestrator never restarts a
service because its database or its uplink is away. Ready means that requests are welcome: every named check
passes and the service is not draining.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from common.runtime.http.app import json_response
from common.runtime.http.fields import check_query
from common.runtime.metrics import CONTENT_TYPE, MetricsRegistry

Check = Callable[[], str | None]


class Readiness:
    """The named reasons for which a service is not ready; none of them, and it is."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """`check` is called at each question, must not block, and returns the reason or None."""
        assert name not in self._checks, name
        self._checks[name] = check

    def reasons(self) -> dict[str, str]:
        """Each failing check with its reason."""
        found = {name: check() for name, check in self._checks.items()}
        return {name: reason for name, reason in found.items() if reason is not None}


def health_routes(
    readiness: Readiness, status: Callable[[], Awaitable[Mapping[str, object]]], metrics: MetricsRegistry
) -> list[BaseRoute]:
    """The four routes. `status` gives what `/status` shows as JSON: small, without payloads and secrets.

    Probes and scrapers may put parameters behind their three: no restart for that.
    """

    async def livez(_: Request) -> Response:
        return json_response({"alive": True})

    async def readyz(_: Request) -> Response:
        reasons = readiness.reasons()
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def show_status(request: Request) -> Response:
        check_query(request, ())
        return json_response(await status())

    async def show_metrics(_: Request) -> Response:
        return PlainTextResponse(metrics.exposition(), media_type=CONTENT_TYPE)

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/status", show_status),
        Route("/metrics", show_metrics),
    ]
