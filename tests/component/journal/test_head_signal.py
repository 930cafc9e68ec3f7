"""Hints that a log has grown: each head that a node has made is told to the others, and wakes those to whom it is news."""

from __future__ import annotations

from collections.abc import Callable
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


async def test_only_those_to_whom_a_position_is_news_are_woken(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """One of them learns of positions elsewhere: it is asked what it knows when a higher one comes, not before."""
    signal, known, woken = HeadSignal(0), 0, list[str]()

    async def wait(name: str, ask: Callable[[], int]) -> None:
        await signal.wait_news(ask, 10.0)
        woken.append(name)

    nursery.start_soon(wait, "follows by itself", lambda: known)
    nursery.start_soon(wait, "has seen 0", lambda: 0)
    nursery.start_soon(wait, "has seen 8", lambda: 8)
    await trio.testing.wait_all_tasks_blocked()
    known = 5
    signal.raise_to(5)
    await trio.testing.wait_all_tasks_blocked()
    assert woken == ["has seen 0"]
    signal.raise_to(8)
    await trio.testing.wait_all_tasks_blocked()
    assert woken == ["has seen 0", "follows by itself"]
    signal.put_back(2)
    signal.raise_to(3)
    await trio.sleep(9.9)
    assert len(woken) == 2
    await trio.sleep(0.2)
    assert len(woken) == 3
