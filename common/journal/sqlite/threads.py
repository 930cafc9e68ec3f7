"""The journal's own threads, each with a pipe by which it says that its work is done.

trio's worker threads answer through the loop's entry queue, which takes two turns more of a loop that may be busy. Here
the waiting task goes on in the turn in which the pipe is found readable: a commit at a busy edge is then answered sooner,
and crossing over costs less than half.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio

from common.journal.sqlite.connection import Runner

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREADS = 2  # one for the writer, one for the reader
_DONE = b"\0"


@asynccontextmanager
async def open_storage_threads() -> AsyncIterator[Runner]:
    """What runs blocking calls, two at a time; a third waits. All must have ended when the block is left."""
    threads = [_StorageThread() for _ in range(_THREADS)]
    idle = list(threads)
    freed = trio.lowlevel.ParkingLot()

    async def run_in_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not idle:
            await freed.park()
        thread = idle.pop()
        try:
            return await thread.run(fn, *args)
        finally:
            idle.append(thread)
            freed.unpark()

    try:
        yield run_in_thread
    finally:
        for thread in threads:
            thread.end()


class _StorageThread:
    """One thread that does one thing at a time."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._done, self._tell = os.pipe()
        self._result: outcome.Outcome[Any] | None = None
        # Should the process end in the middle, the storage is as safe as after a power cut.
        self._thread = threading.Thread(target=self._serve, name="backhaul-storage", daemon=True)
        self._thread.start()

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call ``fn`` in the thread and wait for it; a cancellation waits too."""
        self._work.put(lambda: fn(*args))
        with trio.CancelScope(shield=True):  # as long as the storage takes
            await trio.lowlevel.wait_readable(self._done)
        os.read(self._done, len(_DONE))
        result, self._result = self._result, None
        assert result is not None
        value: T = result.unwrap()
        return value

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            self._result = outcome.capture(work)
            del work  # what it holds must not live on until the next one
            os.write(self._tell, _DONE)

    def end(self) -> None:
        """Let the thread end, which has nothing to do, and wait for that."""
        self._work.put(None)
        self._thread.join()
        os.close(self._done)
        os.close(self._tell)
