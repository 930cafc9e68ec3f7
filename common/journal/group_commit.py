"""One writer for many callers: what queues while a commit runs is the next commit.

A group that is large already does not gain by waiting: it is handed to the journal while the one before it commits, so
that the storage need not wait for it to be made ready. The journal stores groups in the order in which they are handed over.

A synced commit costs about the same for one event and for a thousand, so callers share it: latency stays that of one
or two commits and throughput grows with load. Which requests may share a group is a pure rule (``CommitGroup``), the same
on every storage: two that touch one entity may only when both are plain local appends, whose numbers simply go on.

Callers that ask again as soon as they are answered would fall into two halves, each of which is answered while the other
is committed. So after a commit that answered several the loop turns twice before the next one begins: nothing to an idle
loop, and in a busy one all who are ready come along.

In a busy service the next group begins no sooner than a few milliseconds after the last one began
(``core.flow.moderation``); in one that is not, and for a lone caller, at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

import outcome
import trio

from common.core.errors import BackhaulError
from common.core.flow.measures import LatencyHistogram
from common.core.flow.moderation import Moderation
from common.core.journal.append import AppendOutcome, AppendRequest, LocalAppend
from common.journal.stores.log import LogStore

GROUP_MAX_ROWS = 4_000
GROUP_MAX_BYTES = 8 * 1024 * 1024
AHEAD_MIN_ROWS = 1_000
QUEUE_MAX_REQUESTS = 10_000
QUEUE_MAX_BYTES = 64 * 1024 * 1024
_GROUPS_AT_A_TIME = 2
_SEVERAL = 4
# Larger groups cost more to store than to sync: who comes back late is better off with the next one.
_RETURN_MAX_ROWS = 256
# Turns of trio's loop until everybody who was answered has run: in the first, some run after the one who waits for them.
_TURNS_TO_RETURN = 2


class CommitGroup:
    """The requests of one commit while it is being filled; pure."""

    def __init__(self) -> None:
        self._rows = 0
        self._bytes = 0
        self._exclusive: set[str] = set()
        self._plain: set[str] = set()
        self._origins: set[str] = set()
        self._append_ids: set[str] = set()

    def admit(self, request: AppendRequest, weight: int) -> bool:
        """Take the request into the group, or say that it must wait for the next one."""
        rows = request.rows
        if self._rows and (self._rows + rows > GROUP_MAX_ROWS or self._bytes + weight > GROUP_MAX_BYTES):
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
        self._rows += rows
        self._bytes += weight
        return True


AfterGroup = Callable[[], object]
"""What a request wants done when all of its group know their outcomes. Equal ones of a group are called once."""

OnSettled = Callable[[outcome.Outcome[AppendOutcome]], AfterGroup | None]


class Submitted:
    """A request in the queue; its place in the log's order is taken.

    ``on_settled`` is called with the outcome by the task that committed: it must be quick and not raise, and so must what
    it returns.
    """

    def __init__(self, request: AppendRequest, on_settled: OnSettled | None = None) -> None:
        self.request = request
        self.weight = request.events.byte_size()
        self._on_settled = on_settled
        self._done: trio.Event | None = None
        self._result: outcome.Outcome[AppendOutcome] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is there."""
        return self._result is not None

    async def wait(self) -> AppendOutcome:
        """The outcome, after the synced commit. Raises what the journal raised for the whole group."""
        if self._result is None:
            self._done = self._done or trio.Event()
            await self._done.wait()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        assert self._result is not None
        return self._result.unwrap()

    def settle(self, result: outcome.Outcome[AppendOutcome]) -> AfterGroup | None:
        """Tell who waits, once; returns what is to be called after the group."""
        if self._result is not None:
            return None
        self._result = result
        if self._done is not None:
            self._done.set()
        return self._on_settled(result) if self._on_settled is not None else None


class GroupCommit:
    """The queue before a journal. Started by its owner with ``run``; callers use ``append`` or ``submit``."""

    def __init__(self, log: LogStore, *, spacing_max_s: float = 0.0, load: Callable[[], float] = lambda: 0.0) -> None:
        """``spacing_max_s`` bounds the moderation, 0 = none; ``load`` is the share of a processor that the loop wants."""
        self._log = log
        self._load = load
        self.moderation = Moderation(spacing_max_s)
        self._is_filling = False
        self._filled = trio.lowlevel.ParkingLot()
        self._committing = 0
        """Requests of the groups that are with the journal."""
        self._queue: deque[Submitted] = deque()
        self._queued_bytes = 0
        self._queued_rows = 0
        self._under_way: list[list[Submitted]] = []
        """The groups that are with the journal, in the order in which it stores them."""
        self._retrying = 0
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self.on_full: Callable[[int], object] = lambda _: None
        """Called when there was no room for a group: bytes of its largest request, 0 if it was the disk that had none."""
        self.refused_bytes: int | None = None
        """Bytes of the smallest request of the last group, if the journal did not take it; None when it did."""
        self.commits = 0
        self.events = 0
        self.latency = LatencyHistogram()

    @property
    def queued(self) -> int:
        """Requests that wait for the next commit."""
        return len(self._queue)

    async def append(self, request: AppendRequest) -> AppendOutcome:
        """Store ``request`` with the next group; returns after the synced commit.

        Cancelled while queued: it may still be stored. A caller that must know uses an append id and repeats.
        """
        return await (await self.submit(request)).wait()

    async def submit(self, request: AppendRequest) -> Submitted:
        """Take a place in the queue; what one task submits is stored in that order. A full queue makes the caller wait.

        Raises ``journal.closing`` once the service stops.
        """
        submitted = Submitted(request)
        await self.wait_room()
        self._enqueue(submitted)
        return submitted

    async def wait_room(self) -> None:
        """Return when the queue takes a request. Raises ``journal.closing`` once the service stops."""
        while not self._is_closed and self.is_full:
            await self._room.park()
        if self._is_closed:
            raise _closing()

    def submit_nowait(self, request: AppendRequest, on_settled: OnSettled) -> bool:
        """Take a place in the queue at once, or none when it is full; ``on_settled`` gets the outcome, once.

        Raises ``journal.closing`` once the service stops.
        """
        if self._is_closed:
            raise _closing()
        if self.is_full:
            return False
        self._enqueue(Submitted(request, on_settled))
        return True

    @property
    def is_full(self) -> bool:
        """Whether the queue takes no request now."""
        return len(self._queue) >= QUEUE_MAX_REQUESTS or self._queued_bytes >= QUEUE_MAX_BYTES

    def _enqueue(self, submitted: Submitted) -> None:
        self._queue.append(submitted)
        self._queued_bytes += submitted.weight
        self._queued_rows += submitted.request.rows
        self.moderation.arrived(len(self._queue) + self._committing)
        if self._may_take():
            self._work.unpark()
        elif self._is_filling and self._is_enough:
            self._filled.unpark()

    async def run(self) -> None:
        """Commit groups until cancelled; callers left waiting then get ``journal.closing``."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(_GROUPS_AT_A_TIME):
                    nursery.start_soon(self._commit_groups)
        finally:
            self._is_closed = True
            self._room.unpark_all()
            left = [*self._queue]
            self._queue.clear()
            _settle((submitted, outcome.Error(_closing())) for submitted in left)

    def _may_take(self) -> bool:
        if not self._queue or self._retrying or self._is_filling:
            return False
        committing = len(self._under_way)
        return not committing or (committing < _GROUPS_AT_A_TIME and self._queued_rows >= AHEAD_MIN_ROWS)

    async def _commit_groups(self) -> NoReturn:
        while True:
            while not self._may_take():
                await self._work.park()
            if not self._under_way:
                await self._let_group_fill()
            # A function of its own: a group that is stored is not kept in memory until the next one comes.
            await self._commit_next()

    @property
    def _is_enough(self) -> bool:
        return self.moderation.is_enough(len(self._queue), self._queued_rows)

    async def _let_group_fill(self) -> None:
        """Wait for more, if the service is busy and there is somebody to wait for."""
        begin_at_s = self.moderation.begin_at_s(self._load(), len(self._queue), self._queued_rows)
        if begin_at_s <= trio.current_time():
            return
        self._is_filling = True
        try:
            with trio.move_on_at(begin_at_s):
                while not self._is_enough:
                    await self._filled.park()
        finally:
            self._is_filling = False

    async def _commit_next(self) -> None:
        # No checkpoint between taking a group and handing it over: that keeps the order.
        taken = self._take()
        self._under_way.append(taken)
        self._committing += len(taken)
        self.moderation.began(trio.current_time(), _events(taken))
        try:
            await self._commit(taken)
            if len(self._under_way) == 1 and len(taken) >= _SEVERAL and _rows(taken) <= _RETURN_MAX_ROWS:
                for _ in range(_TURNS_TO_RETURN):
                    await trio.lowlevel.checkpoint()
        finally:
            self._under_way.remove(taken)
            self._committing -= len(taken)

    def _take(self) -> list[Submitted]:
        """The longest prefix of the queue that may share a commit: order of arrival is order in the log."""
        group, taken = CommitGroup(), []
        while self._queue and group.admit(self._queue[0].request, self._queue[0].weight):
            taken.append(self._queue.popleft())
            self._queued_bytes -= taken[-1].weight
            self._queued_rows -= taken[-1].request.rows
        assert taken, "the first request of a group is always admitted"
        self._room.unpark_all()
        return taken

    async def _commit(self, taken: list[Submitted]) -> None:
        began_s = trio.current_time()
        try:
            outcomes = await self._log.append_group([submitted.request for submitted in taken])
            self.commits += 1
            self.refused_bytes = None
            self.latency.add(trio.current_time() - began_s)
            self.events += _events(taken)
            _settle(zip(taken, map(outcome.Value, outcomes), strict=True))
        except BackhaulError as error:
            if error.code in {"journal.full", "journal.disk_full"}:
                is_capped = error.code == "journal.full"
                self.on_full(max(submitted.weight for submitted in taken) if is_capped else 0)
            self.refused_bytes = min(submitted.weight for submitted in taken)
            if error.code in {"journal.broken", "projection.statement_failed"} and len(taken) > 1:
                await self._commit_one_by_one(taken)
            _settle((submitted, outcome.Error(error)) for submitted in taken)
        finally:
            if any(not submitted.is_settled for submitted in taken):  # cancelled in the middle
                _settle((submitted, outcome.Error(_closing())) for submitted in taken)

    async def _commit_one_by_one(self, taken: list[Submitted]) -> None:
        """The storage refused the group and kept nothing: it may be one request's fault, and only that one's.

        Meanwhile no group is taken. One that was handed over behind this one is stored first: what it would overtake is
        refused. Pushed events, and those with an expected number, look after their order themselves.
        """
        behind = self._under_way[self._under_way.index(taken) + 1 :]
        overtaking = {name for group in behind for each in group for name in each.request.events.persistence_id}
        self._retrying += 1
        try:
            for submitted in taken:
                request = submitted.request
                if _is_plain(request) and not overtaking.isdisjoint(request.events.persistence_id):
                    _settle([(submitted, outcome.Error(_overtaken()))])
                else:
                    await self._commit([submitted])
        finally:
            self._retrying -= 1


def _settle(settled: Iterable[tuple[Submitted, outcome.Outcome[AppendOutcome]]]) -> None:
    """Tell who waits, and then do once what they want done after it."""
    after = dict.fromkeys([submitted.settle(result) for submitted, result in settled])
    for finish in after:
        if finish is not None:
            finish()


def _is_plain(request: AppendRequest) -> bool:
    """Whether the numbers of its events simply go on."""
    return isinstance(request, LocalAppend) and not request.expected


def _events(taken: Sequence[Submitted]) -> int:
    return sum(len(submitted.request.events) for submitted in taken)


def _rows(taken: Sequence[Submitted]) -> int:
    return sum(submitted.request.rows for submitted in taken)


def _closing() -> BackhaulError:
    return BackhaulError(
        "journal.closing", "the service is stopping", "repeat the append when it is back", retry_after_s=1.0
    )


def _overtaken() -> BackhaulError:
    return BackhaulError(
        "journal.unavailable",
        "another request of the same commit could not be stored, and later events of this one's entities were",
        "nothing of the request was stored: append it again if it may come after those",
        retry_after_s=1.0,
    )


@asynccontextmanager
async def open_group_commit(
    log: LogStore, *, spacing_max_s: float = 0.0, load: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[GroupCommit]:
    """The one writer of ``log`` while the block runs; callers that still wait then get ``journal.closing``.

    ``spacing_max_s`` and ``load`` are those of ``GroupCommit``.
    """
    commit = GroupCommit(log, spacing_max_s=spacing_max_s, load=load)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit.run)
        yield commit
        nursery.cancel_scope.cancel()
