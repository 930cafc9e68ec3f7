"""docs/http.md names every request that either service answers, and no other."""

from __future__ import annotations

import re

import pytest
from starlette.routing import BaseRoute, Route
from trio.testing import MockClock

from common.runtime.app.application import App
from common.runtime.http.app import HttpApp
from common.testing import open_world
from tests.component.testing.test_world import Notes
from tests.support.entities import Counters
from tests.support.paths import DOCS

PAGE = DOCS / "http.md"
_ROW = re.compile(r"\| `(GET|PUT|POST|DELETE) (\S+)` \| (both|cloud|edge) \|")


def requests_of(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """Method and path of each, as the page writes them."""
    return {
        (method, re.sub(r":\w+\}", "}", route.path))
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }


async def test_the_page_has_every_request_and_says_who_answers_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    served: list[list[BaseRoute]] = []
    plain = HttpApp.__init__

    def noted(self: HttpApp, routes: list[BaseRoute], **settings: object) -> None:
        served.append(routes)
        plain(self, routes, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(HttpApp, "__init__", noted)
    app = App(entities=[Counters], states=[Notes])
    async with open_world(edge_app=app, cloud_app=app):
        pass
    [one, other] = map(requests_of, served)
    cloud, edge = (one, other) if ("GET", "/v1/origins") in one else (other, one)
    answer = _ROW.findall(PAGE.read_text())
    for who, answers in (("cloud", cloud), ("edge", edge)):
        assert {(method, path) for method, path, where in answer if where in ("both", who)} == answers, who
    assert len(answer) == len(set(answer))
