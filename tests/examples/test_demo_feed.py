"""The programs beside the demo's edges: who pauses them and sees no POST in flight may kill the edge and compare counts."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import ClassVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from examples.demo import feed
from examples.demo.series import Reading, Series

POSTS, PACE_S = 60, 6.0


class Client:
    """An edge that answers at once; ``keys`` are those of all POSTs."""

    keys: ClassVar[list[str]] = []

    def __init__(self, _port: object) -> None:
        self.keys.clear()

    async def post(self, _path: str, body: dict[str, list[object]], *, key: str) -> object:
        self.keys.append(key)
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(status=201, body={"first_position": len(self.keys), "repeated": False})

    def close(self) -> None: ...


async def test_no_post_leaves_after_a_pause_that_found_none_in_flight(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program and who pauses wake in one turn of the loop, in an order that chance decides each time."""
    monkeypatch.setattr(feed, "HttpClient", Client)
    readings = tuple(Reading("s.csv", row, f"2026-01-01 00:00:00,{row}") for row in range(1, POSTS + 1))
    one = feed.Feed("edge-a", [Series("s.csv", "sensor-1", readings)])
    first_s = trio.current_time() + random.Random(1).uniform(0, 0.1)
    found_none = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: one.run(lambda: 1, pace_s=PACE_S, chance=random.Random(1)))
        for index in range(POSTS):
            await trio.sleep_until(first_s + index * (PACE_S / POSTS))
            one.pause()
            if not one.in_flight:
                found_none += 1
                before = len(Client.keys)
                await wait_all_tasks_blocked()
                assert len(Client.keys) == before
            one.resume()
            await wait_all_tasks_blocked()
    assert found_none
    assert len(one.answered) == POSTS
