"""One writer for many callers: what queues while a commit runs is the next commit. No timer.

A synced commit costs about the same for one event and for a thousand, so callers share it: latency stays that of one
or two commits and throughput grows with load. Which requests may share a group is a pure rule (``Group``), the same
on every storage: two that touch one entity may only when both are plain local appends, whose numbers simply go on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import outcome
import trio

from common.core.append import AppendOutcome, AppendRequest, LocalAppend
from common.core.errors import BackhaulError
from common.journal.interface import Journal

GROUP_MAX_EVENTS = 4_000
GROUP_MAX_BYTES = 8 * 1024 * 1024
QUEUE_MAX_REQUESTS = 10_000


@dataclass(slots=True, eq=False)
class _Waiting:
    request: AppendRequest
    weight: int
    done: trio.Event = field(default_factory=trio.Event)
    result: outcome.Outcome[AppendOutcome] | None = None


class Group:
    """The requests of one commit while it is being filled; pure."""

    def __init__(self) -> None:
        self._events = 0
        self._bytes = 0
        self._exclusive: set[str] = set()
        self._plain: set[str] = set()
        self._origins: set[str] = set()
        self._append_ids: set[str] = set()

    def admit(self, request: AppendRequest, weight: int) -> bool:
        """Take the request into the group, or say that it must wait for the next one."""
        n = len(request.events)
        if self._events and (self._events + n > GROUP_MAX_EVENTS or self._bytes + weight > GROUP_MAX_BYTES):
            return False
        entities = set(request.events.persistence_id)
        if isinstance(request, LocalAppend):
            if request.append_id and request.append_id in self._append_ids:
                return False
            plain = not request.expected
            entities.update(request.expected)
        else:
            if request.origin_id in self._origins:
                return False
            entities.update(stated.persistence_id for stated in request.ranges)
            plain = False
        if entities & self._exclusive or (not plain and entities & self._plain):
            return False
        (self._plain if plain else self._exclusive).update(entities)
        if isinstance(request, LocalAppend):
            self._append_ids.add(request.append_id)
        else:
            self._origins.add(request.origin_id)
        self._events += n
        self._bytes += weight
        return True


class GroupCommit:
    """The queue before a journal. Started by its owner with ``run``; callers use ``append``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._queue: deque[_Waiting] = deque()
        self._arrived = trio.Event()
        self._room = trio.CapacityLimiter(QUEUE_MAX_REQUESTS)
        self.commits = 0
        self.events = 0

    @property
    def queued(self) -> int:
        """Requests that wait for the next commit."""
        return len(self._queue)

    async def append(self, request: AppendRequest) -> AppendOutcome:
        """Store ``request`` with the next group; returns after the synced commit.

        Cancelled while queued: it may still be stored. A caller that must know uses an append id and repeats.
        A full queue makes the caller wait. Raises what the journal raised for the whole group.
        """
        waiting = _Waiting(request, request.events.byte_size())
        async with self._room:
            self._queue.append(waiting)
            self._arrived.set()
            await waiting.done.wait()
        assert waiting.result is not None
        return waiting.result.unwrap()

    async def run(self) -> None:
        """Commit groups until cancelled; callers left waiting then are told ``journal.closing``."""
        try:
            while True:
                if not self._queue:
                    self._arrived = trio.Event()
                    await self._arrived.wait()
                await self._commit(self._take())
        finally:
            closing = BackhaulError(
                "journal.closing",
                "the service is stopping",
                "repeat the append when it is back",
                retry_after_s=1.0,
            )
            for waiting in self._queue:
                waiting.result = outcome.Error(closing)
                waiting.done.set()
            self._queue.clear()

    def _take(self) -> list[_Waiting]:
        """The longest prefix of the queue that may share a commit: order of arrival is order in the log."""
        group, taken = Group(), []
        while self._queue and group.admit(self._queue[0].request, self._queue[0].weight):
            taken.append(self._queue.popleft())
        assert taken, "the first request of a group is always admitted"
        return taken

    async def _commit(self, taken: list[_Waiting]) -> None:
        try:
            outcomes = await self._journal.append_group([waiting.request for waiting in taken])
        except BackhaulError as error:
            for waiting in taken:
                waiting.result = outcome.Error(error)
        else:
            self.commits += 1
            for waiting, told in zip(taken, outcomes, strict=True):
                waiting.result = outcome.Value(told)
                self.events += len(waiting.request.events)
        finally:
            for waiting in taken:
                if waiting.result is None:
                    waiting.result = outcome.Error(
                        BackhaulError(
                            "journal.closing",
                            "the service is stopping",
                            "repeat the append",
                            retry_after_s=1.0,
                        )
                    )
                waiting.done.set()
