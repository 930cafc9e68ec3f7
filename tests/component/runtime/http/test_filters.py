"""What a cloud asks edges to push, over HTTP and by command."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from cloud_service.cli import main as cloud_main
from common.core.push.filter_transition import PushFilter, PushFilterApplied
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.runtime.http.app import HttpApp
from common.runtime.http.filters import filter_routes
from common.runtime.http.serving.server import serve_http
from tests.support.answering import AnsweringService
from tests.support.builders import START_US, Origin, SettableClock, ids

NOTHING = [{"exclude_all": True}]


@dataclass
class World:
    journal: Journal
    client: httpx.AsyncClient
    reported: list[int] = field(default_factory=list)

    async def refresh(self) -> None:
        """Counts what is stored when connected edges are told."""
        self.reported.append(len(await self.journal.push_filters.requested()))

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def post(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        answer = await self.client.post(path, json=body)
        return answer.status_code, answer.json()


@asynccontextmanager
async def serving() -> AsyncIterator[World]:
    new_id = ids()
    async with open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=lambda: next(new_id)) as journal:
        world = World(journal, httpx.AsyncClient())
        app = HttpApp(filter_routes(journal.push_filters, world.refresh), body_max_bytes=500_000)
        async with serve_http(app, "127.0.0.1", 0) as port:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as world.client:
                yield world


async def test_a_filter_is_set_changed_shown_and_withdrawn() -> None:
    async with serving() as world:
        with capture_logs() as logs:
            status, reported = await world.post("/v1/origins/line-*/filter", {"criteria": NOTHING})
            assert (status, reported) == (
                200,
                {"pattern": "line-*", "version": 1, "criteria": NOTHING, "history": "snapshot", "set_us": START_US},
            )
            assert world.reported == [1], "stored before edges are told"
            _, reported = await world.post("/v1/origins/line-*/filter", {"change": [{"include_ids": ["press"]}]})
            assert reported["criteria"] == [*NOTHING, {"include_ids": ["press"]}]
            _, reported = await world.post("/v1/origins/line-7/filter", {"change": [{"exclude_tags": ["debug"]}]})
            assert reported["criteria"] == [{"exclude_tags": ["debug"]}]
        assert [(line["event"], line["pattern"], line["filter_version"]) for line in logs if "pattern" in line] == [
            ("operator.asked_filter", "line-*", 1),
            ("operator.asked_filter", "line-*", 2),
            ("operator.asked_filter", "line-7", 3),
        ]
        listed = (await world.get("/v1/origins/filters"))["filters"]
        assert [(row["pattern"], row["version"]) for row in listed] == [("line-*", 2), ("line-7", 3)]
        assert (await world.get("/v1/origins/line-7/filter"))["asked"]["version"] == 3
        assert (await world.get("/v1/origins/line-8/filter"))["asked"]["version"] == 2
        assert await world.post("/v1/origins/line-7/filter", {"withdraw": True}) == (200, {"withdrawn": "line-7"})
        assert (await world.get("/v1/origins/line-7/filter"))["asked"]["version"] == 2
        assert world.reported == [1, 1, 2, 1]


async def test_how_much_past_is_asked_for_goes_with_a_filter_and_stays_with_changes() -> None:
    async with serving() as world:
        path = "/v1/origins/line-7/filter"
        status, reported = await world.post(path, {"criteria": NOTHING, "history": "full"})
        assert (status, reported["history"]) == (200, "full")
        _, reported = await world.post(path, {"change": [{"include_ids": ["press"]}]})
        assert (reported["version"], reported["history"]) == (2, "full")
        _, reported = await world.post(path, {"change": [{"include_ids": ["press"]}], "history": "none"})
        assert (reported["version"], reported["history"]) == (3, "none")
        _, reported = await world.post(path, {"criteria": NOTHING})
        assert reported["history"] == "snapshot"
        assert (await world.get(path))["asked"] == {"version": 4, "criteria": NOTHING, "history": "snapshot"}
        for body in (
            {"history": "full"},
            {"criteria": NOTHING, "history": "all"},
            {"withdraw": True, "history": "full"},
        ):
            status, _ = await world.post(path, body)
            assert status == 400, body


async def test_how_far_a_change_is_can_be_seen() -> None:
    async with serving() as world:
        edge = Origin()
        await edge.dial(world.journal)
        await edge.push(world.journal, ("A|1", 1), withheld=9)
        narrow = PushFilter(1, '[{"exclude_all":true}]', '[{"exclude_tags":["secret"]}]')
        for change in (
            PushFilterApplied(narrow, 10, needs_backfill=False),
            PushFilterApplied(PushFilter(2), 10, needs_backfill=True),
        ):
            assert await world.journal.push_filters.change("edge-1", edge.session, change) is None
        assert await world.get("/v1/origins/edge-1/filter") == {
            "origin": "edge-1",
            "asked": {"version": 0, "criteria": [], "history": "snapshot"},
            "in_force": {"version": 1, "criteria": NOTHING, "edges_own": [{"exclude_tags": ["secret"]}]},
            "backfilling": {"version": 2, "criteria": [], "edges_own": []},
            "change_position": 10,
            "backfill_position": 0,
        }


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "http.invalid_request"),
        ({"criteria": [], "change": []}, "http.invalid_request"),
        ({"filter": []}, "http.invalid_request"),
        ({"withdraw": 1}, "http.invalid_request"),
        ({"withdraw": True}, "filter.not_asked"),
        ({"criteria": {}}, "filter.invalid"),
        ({"criteria": [{"include_topics": ["#/a"]}]}, "filter.bad_topic"),
        ({"criteria": [{"exclude_regex": ["(a"]}]}, "filter.bad_regex"),
        ({"change": [{"exclude_ids": ["x" * 200 + str(number) for number in range(1_001)]}]}, "filter.too_large"),
    ],
)
async def test_what_is_wrong_changes_nothing(body: object, code: str) -> None:
    async with serving() as world:
        _, answer = await world.post("/v1/origins/edge-1/filter", body)
        assert answer["error"]["code"] == code
        assert await world.journal.push_filters.requested() == []
        assert world.reported == []


async def test_a_pattern_that_fits_nothing_is_refused() -> None:
    async with serving() as world:
        _, answer = await world.post(f"/v1/origins/{'x' * 300}/filter", {"criteria": []})
        assert answer["error"]["code"] == "filter.bad_pattern"


@pytest.fixture
def cloud(service: AnsweringService) -> Callable[..., int]:
    """The command line of a cloud service that answers as a test says."""
    return lambda *words: cloud_main([*words, "--http-port", service.port])


def test_commands(
    service: AnsweringService,
    cloud: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"pattern": "line-*", "version": 3, "criteria": NOTHING, "set_us": 1_700_000_000_123_456}
    service.answer("POST", "/v1/origins/line-%2A/filter", row)
    service.answer("GET", "/v1/origins/line-%2A/filter", {"origin": "line-*", "backfilling": None})
    service.answer("GET", "/v1/origins/filters", {"filters": [row]})

    assert cloud("origins", "filter", "line-*", "--set", json.dumps(NOTHING)) == 0
    assert service.requests[-1][2] == {"criteria": NOTHING}
    assert '[{"exclude_all":true}]' in capsys.readouterr().out
    assert cloud("origins", "filter", "line-*", "--change", '[{"include_ids":["a"]}]', "--json") == 0
    assert service.requests[-1][2] == {"change": [{"include_ids": ["a"]}]}
    assert cloud("origins", "filter", "line-*", "--withdraw") == 0
    assert service.requests[-1][2] == {"withdraw": True}
    assert cloud("origins", "filter", "line-*") == 0
    assert service.requests[-1][0] == "GET"
    assert cloud("origins", "filters") == 0
    assert "line-*" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--set", "{"], ["--set", "{}"], ["--set", "[]", "--withdraw"]])
def test_wrong_usage_is_told_before_anything_is_asked(words: list[str], cloud: Callable[..., int]) -> None:
    assert cloud("origins", "filter", "line-7", *words) == 2
