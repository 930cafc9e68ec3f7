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


async def test_a_node_that_is_alone_tells_nobody_until_another_one_is_there(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(hints, "OwnedConnection", Session)
    node = hints.Hints(cast(Sessions, None), HeadSignal(0), ChangeSignal())
    nursery.start_soon(node.run)
    await trio.testing.wait_all_tasks_blocked()
    answer = cast(Session, node._connection).answer
    node.committed(4)
    await trio.sleep(1)
    assert answer == [4]  # nothing is known of members yet
    node.saw_others(False)
    for position in range(5, 105):
        node.committed(position)
        await trio.sleep(0.05)
    assert len(answer) <= 2
    node.saw_others(True)
    await trio.sleep(0.1)
    assert answer[-1] == 104
    node.committed(105)
    await trio.sleep(0.1)
    assert answer[-1] == 105


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


def test_a_look_that_finds_less_than_is_known_is_none() -> None:
    """After a failover that lost commits: who follows the log has to look for itself."""
    signal = HeadSignal(7)
    signal.looked(6)
    assert (signal.position, signal.looks) == (7, 0)
    signal.looked(8)
    assert (signal.position, signal.looks) == (8, 1)
