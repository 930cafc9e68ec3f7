"""A journal's way to its database in memory: the value that its parts share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from common.journal.change_signal import ChangeSignal
from common.journal.commit_feed import CommitFeed
from common.journal.head_signal import HeadSignal
from common.journal.memory.state import MemoryDatabase, MemoryState


class MemoryConnections:
    """One open journal on a database that several may share; ``commit_delay_s`` is what a commit takes."""

    def __init__(self, database: MemoryDatabase, now_us: Callable[[], int], commit_delay_s: float = 0.0) -> None:
        self.database = database
        self.now_us = now_us
        self.commit_delay_s = commit_delay_s
        self.generations = database.state.generations
        """As of opening, or as last read."""
        self.head_signal = HeadSignal(database.state.head_position)
        self.feed = CommitFeed()
        self.members_changed = ChangeSignal()
        self.member_locks: set[str] = set()
        """Members that these connections renew."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryState]:
        """A draft to change; leaving commits it, an error or a cancellation before the commit leaves no trace."""
        database = self.database
        async with database.lock:
            draft = database.state.draft()
            with database.tables.transaction():
                yield draft
                await trio.sleep(self.commit_delay_s)
            before, database.state = database.state, draft
            if self.feed.is_wanted:
                self.feed.give(draft.log.slice(bisect_right(draft.log.position, before.head_position), len(draft.log)))
            if draft.head_position != before.head_position:  # as elsewhere: another commit reveals no other node's
                for head_signal in database.head_signals:
                    head_signal.raise_to(draft.head_position)
            if _owners(before) != _owners(draft):
                for signal in database.member_signals:
                    signal.fire()
        await trio.lowlevel.checkpoint()


def _owners(state: MemoryState) -> tuple[object, ...]:
    """What a prompt to members is about."""
    return (
        [(key, row.owner, row.paused, row.epoch, row.is_directed) for key, row in state.projections.items()],
        [(entry.report.instance, entry.report.weight, entry.report.runs) for entry in state.members.values()],
        state.drained,
    )
