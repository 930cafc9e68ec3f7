"""What a route does not read is refused and not ignored, at every route of both services: nothing misspelt is without effect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest
from starlette.routing import Route
from trio.testing import MockClock

from common.app import App, DurableState
from common.runtime.http.app import HttpApp
from common.testing import open_world
from common.testing.world import Service
from tests.support.entities import Counters

# Probes and scrapers may have parameters of their own.
OPEN = {"/livez", "/readyz", "/metrics"}
PARAMETERS = {"entity_type": "Counter", "command": "Add", "stream": "orders"}


@dataclass(frozen=True)
class Setting:
    celsius: float


class Settings(DurableState[Setting]):
    entity_type = "Settings"


APP = App(entities=[Counters], states=[Settings])


def routes_of(service: Service) -> Iterator[tuple[str, str]]:
    """Method and path of every route, with something in the place of its parameters."""
    for route in cast(HttpApp, service._app)._router.routes:
        assert isinstance(route, Route), "a further class of routes: how are its parameters known?"
        path = route.path.replace("/v1/states/{entity_type}", "/v1/states/Settings")
        path = re.sub(r"\{(\w+)(:path)?\}", lambda found: PARAMETERS.get(found[1], "1"), path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield method, path


@pytest.mark.parametrize("kind", ["edge", "cloud"])
async def test_an_unknown_parameter_is_refused(autojump_clock: MockClock, kind: str) -> None:
    async with open_world(edge_app=APP, cloud_app=APP) as world:
        service = world.cloud if kind == "cloud" else world.edges["edge-1"]
        asked = [one for one in routes_of(service) if one[1] not in OPEN]
        assert ("POST", "/v1/events") in asked
        for method, path in asked:
            answer = await service.http(method, f"{path}?unheard_of=1", {} if method in ("POST", "PUT") else None)
            error = answer.json().get("error", {})
            assert (answer.status, error.get("code")) == (400, "http.invalid_request"), (method, path, error)
            assert error["details"] == {"field": "unheard_of"}, (method, path, error)
        for path in OPEN:
            assert (await service.http("GET", f"{path}?verbose=1")).status == 200


@pytest.mark.parametrize("kind", ["edge", "cloud"])
async def test_an_unknown_member_of_a_body_is_refused(autojump_clock: MockClock, kind: str) -> None:
    async with open_world(edge_app=APP, cloud_app=APP) as world:
        service = world.cloud if kind == "cloud" else world.edges["edge-1"]
        for method, path in routes_of(service):
            if method not in ("POST", "PUT"):
                continue
            answer = await service.http(method, path, {"unheard_of": 1})
            error = answer.json().get("error", {})
            assert (answer.status, error.get("code")) == (400, "http.invalid_request"), (method, path, error)
            assert error["details"]["field"] in ("unheard_of", "events[0].unheard_of"), (method, path, error)
