"""Hints between nodes: each head that a node has made is told to the others."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing

from common.journal.change_signal import ChangeSignal
from common.journal.head_signal import HeadSignal
from common.journal.postgres.connection import Sessions
from common.journal.postgres.nodes import hints


class Session:
    """Remembers what was asked of the server."""

    answer: list[int]

    def __init__(self, *_: object, **__: object) -> None:
        self.answer = []

    async def run(self, fn: Any, position: int) -> None:  # noqa: ANN401  one of two functions
        await trio.lowlevel.checkpoint()
        if fn is hints._notify:
            self.answer.append(position)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_head_that_is_lower_than_before_is_told_too(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """After a failover that lost commits: or the others would only hear again when the old head is passed."""
    monkeypatch.setattr(hints, "OwnedConnection", Session)
    node = hints.Hints(cast(Sessions, None), HeadSignal(0), ChangeSignal())
    nursery.start_soon(node.run)
    await trio.testing.wait_all_tasks_blocked()
    for position in (4, 9, 6, 7):
        node.committed(position)
        await trio.sleep(1)
    assert cast(Session, node._connection).answer == [4, 9, 6, 7]
