"""A journal whose commits take their time, for what is decided while one runs."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from common.core.journal.append import Appended, AppendOutcome, AppendRequest

COMMIT_S = 1.0


class SlowJournal:
    """Takes ``COMMIT_S`` for each group and remembers it; answers with positions, or raises what it was given."""

    def __init__(self) -> None:
        self.groups: list[list[AppendRequest]] = []
        self.error: Exception | None = None
        self.position = 0
        self._lock = trio.Lock()

    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        async with self._lock:
            await trio.sleep(COMMIT_S)
        if self.error:
            raise self.error
        self.groups.append(list(requests))
        outcomes: list[AppendOutcome] = []
        for request in requests:
            outcomes.append(Appended(self.position + 1, list(range(len(request.events)))))
            self.position += len(request.events)
        return outcomes

    def names(self) -> list[list[str]]:
        """The first entity of each request, by group."""
        return [[request.events.persistence_id[0] for request in group] for group in self.groups]
