"""Waits that end when they should: epoll's time-outs are rounded up to whole milliseconds, half of one on average.

A load on a schedule that waited so would be late itself, by a tenth of what is measured. Linux's timerfd has no such
grain. Source: timerfd_create(2); ``os`` has it from Python 3.13 on.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1
_COUNT_BYTES = 8


class _Spec(ctypes.Structure):
    """``struct itimerspec``: a period, which is not used, and the time left."""

    _fields_ = [(name, ctypes.c_long) for name in ("period_s", "period_ns", "left_s", "left_ns")]


class Timer:
    """For one task at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def wait_until(self, due_s: float) -> None:
        """Return at ``due_s`` of trio's clock, at once when that is over."""
        left_ns = round((due_s - trio.current_time()) * 1e9)
        if left_ns <= 0:
            await trio.lowlevel.checkpoint()
            return
        spec = _Spec(0, 0, *divmod(left_ns, 1_000_000_000))
        if _LIBC.timerfd_settime(self._descriptor, 0, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await trio.lowlevel.wait_readable(self._descriptor)
        os.read(self._descriptor, _COUNT_BYTES)


@contextmanager
def open_timer() -> Iterator[Timer]:
    """A timer while the block runs."""
    descriptor = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        yield Timer(descriptor)
    finally:
        os.close(descriptor)
