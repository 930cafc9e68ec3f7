"""How much of a processor the event loop's thread wants: what it ran, and what it waited for one.

Linux counts both for each thread (``schedstat``). Waiting belongs to it: beside other processes, or under a container's
quota, a loop that gets half a processor and would use more is as busy as one that uses a whole one. Where there is no
such file, the thread's own processor time has to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from common.core.flow.moderation import LoadMeter

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
_READ_BYTES: Final = 128


@contextmanager
def open_loop_load(path: str = _SCHEDSTAT) -> Iterator[Callable[[], float]]:
    """The load of the thread that enters the block, from 0 to 1, for this thread to ask; it is measured when asked for."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield _asked(LoadMeter(), time.thread_time)
        return
    try:

        def wanted_s() -> float:
            ran, waited, *_ = os.pread(file, _READ_BYTES, 0).split()
            return (int(ran) + int(waited)) / 1e9

        yield _asked(LoadMeter(), wanted_s)
    finally:
        os.close(file)


def _asked(meter: LoadMeter, wanted_s: Callable[[], float]) -> Callable[[], float]:
    def load() -> float:
        now_s = trio.current_time()
        if meter.is_due(now_s):
            meter.measured(now_s, wanted_s())
        return meter.load

    return load
