"""What this process's own commits stored, handed over as it was stored: the short way from a commit to who follows the log.

Batches come right after their commit, in commit order, with final positions, times and numbers, as a read would return
them. Some may be left out (another process's commits, an outcome that was never learned): positions tell, and reading
the log gives the rest. None is ever given twice, altered or invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.core.events.batch import EventBatch


class CommitFeed:
    """Given to by the journal, read by followers of the same process while the batches are in memory anyway."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[EventBatch], None]] = []

    @property
    def is_wanted(self) -> bool:
        """Whether anybody listens: otherwise the journal need not make the batches."""
        return bool(self._listeners)

    @contextmanager
    def listen(self, take: Callable[[EventBatch], None]) -> Iterator[None]:
        """Call ``take`` with every batch while the block runs. It must be quick, must not raise, and must not change one."""
        self._listeners.append(take)
        try:
            yield
        finally:
            self._listeners.remove(take)

    def give(self, events: EventBatch) -> None:
        """Hand a commit's events over, if it stored any."""
        if events:
            for take in tuple(self._listeners):
                take(events)
