"""Calling an application's functions: in a thread, under a deadline, and with every failure reported with its place.

What such a function does is nobody's fault but its own and concerns its projection only, so here it becomes one of a
few coded errors that name the place in the application's code: it raised (``projection.handler_failed``), took too
long (``projection.handler_timeout``), or returned something else than was asked (``projection.handler_returned``).
The exception's text is left out: it may quote a payload.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar

import trio

from common.core.errors import FOREIGN, BackhaulError, ErrorKind
from common.watchdog import Watchdog

T = TypeVar("T")


class HandlerExecutor(Protocol):
    """How plain functions are called: one after the other, each under a deadline."""

    def __call__(self, fn: Callable[[], T], deadline_s: float, what: Callable[..., Any]) -> Awaitable[T]:
        """The result of ``fn``, which calls the application's function ``what``.

        Raises ``projection.handler_timeout``, and what ``fn`` raises.
        """


async def call_inline(fn: Callable[[], T], deadline_s: float, what: Callable[..., Any]) -> T:
    """For functions known to be quick, and under a mock clock, which does not wait for threads."""
    began_s = trio.current_time()
    result = fn()
    if trio.current_time() - began_s > deadline_s:
        raise timed_out(what, deadline_s, place_of(what))
    return result


class ThreadExecutor:
    """Calls in a worker thread, so that a slow function holds up nobody but its own projection.

    A thread cannot be ended: a function that is still running after its deadline is left alone, its result unused, and
    the next call waits for it within its own deadline. So there is never more than one thread a range.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)
        self._thread: int | None = None

    async def __call__(self, fn: Callable[[], T], deadline_s: float, what: Callable[..., Any]) -> T:
        """See ``HandlerExecutor``."""

        def run() -> T:
            self._thread = threading.get_ident()
            try:
                return fn()
            finally:
                self._thread = None

        with trio.move_on_after(deadline_s):
            return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)
        raise timed_out(what, deadline_s, place_of_thread(self._thread, what))


def timed_out(what: Callable[..., Any], deadline_s: float, place: str) -> BackhaulError:
    """The error for a function that has not returned in time."""
    return BackhaulError(
        "projection.handler_timeout",
        f"{name_of(what)} has not returned within {deadline_s:g} s; it is at {place}",
        "make the handler quicker, its groups smaller, or its deadline_s longer",
        kind=ErrorKind.INTERNAL,
        details={"place": place},
    )


def raised(what: Callable[..., Any], error: BaseException) -> BackhaulError:
    """The error for a function that raised."""
    place = place_of_traceback(error.__traceback__, what)
    kind = f"{error.code} ({error.message})" if isinstance(error, BackhaulError) else type(error).__name__
    return BackhaulError(
        "projection.handler_failed",
        f"{name_of(what)} raised {kind} at {place}",
        "mend the handler; the projection then goes on from this event",
        kind=ErrorKind.INTERNAL,
        details={"place": place},
    )


def returned_wrong(what: Callable[..., Any], returned: object, expected: str) -> BackhaulError:
    """The error for a function whose result is of no use."""
    if isinstance(returned, Coroutine):
        returned.close()
    place = place_of(what)
    return BackhaulError(
        "projection.handler_returned",
        f"{name_of(what)} at {place} returned {type(returned).__name__} instead of {expected}",
        "mend the handler; the projection then goes on from this event",
        kind=ErrorKind.INTERNAL,
        details={"place": place},
    )


async def call_async(
    fn: Callable[[], Awaitable[None]], deadline_s: float, what: Callable[..., Any], watchdog: Watchdog
) -> None:
    """Await an async function of the application's, under a deadline; the watchdog names it when it holds the loop.

    Raises:
        BackhaulError: ``projection.handler_failed``, ``projection.handler_timeout``, ``projection.handler_returned``.
    """
    with trio.move_on_after(deadline_s) as deadline:
        try:
            coroutine = fn()
            if not isinstance(coroutine, Coroutine):
                raise returned_wrong(what, coroutine, "a coroutine: write it as an async function")
            await _watched(coroutine, place_of(what), watchdog)
        except BackhaulError as error:
            if error.code == "projection.handler_returned":
                raise
            raise raised(what, error) from error
        except FOREIGN as error:
            raise raised(what, error) from error
    if deadline.cancelled_caught:
        raise timed_out(what, deadline_s, place_of(what))


@types.coroutine
def _watched(coroutine: Coroutine[Any, Any, None], place: str, watchdog: Watchdog) -> Generator[Any, Any, None]:
    """The same coroutine, watched during each of its steps: nothing else runs meanwhile."""
    step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        watchdog.begin(place)
        try:
            waits_for = step()
        except StopIteration:
            return
        finally:
            watchdog.end()
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001  handed on: it is meant for the coroutine
            thrown = error
            step = lambda: coroutine.throw(thrown)  # noqa: E731, B023
        else:
            step = lambda: coroutine.send(sent)  # noqa: E731, B023


# -- places in the application's code -----------------------------------------------------------------------------
def name_of(what: Callable[..., Any]) -> str:
    """A function by its module and name."""
    what = _written(what)
    return f"{getattr(what, '__module__', '?')}.{getattr(what, '__qualname__', type(what).__qualname__)}"


def _written(what: Callable[..., Any]) -> Callable[..., Any]:
    """What the application wrote, without arguments that were put to it."""
    return what.func if isinstance(what, partial) else what


def place_of(what: Callable[..., Any]) -> str:
    """Where a function is written, as ``file:line``."""
    what = _written(what)
    code = getattr(what, "__code__", None) or getattr(type(what).__call__, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "an unknown place"


def place_of_traceback(traceback: TracebackType | None, what: Callable[..., Any]) -> str:
    """Where an error left the application's own code, as near to its cause as that code goes."""
    lines = []
    while traceback is not None:
        lines.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _nearest(lines[::-1], what)


def place_of_thread(thread: int | None, what: Callable[..., Any]) -> str:
    """Where a running thread is within the application's code."""
    frame = sys._current_frames().get(thread) if thread is not None else None
    lines = []
    while frame is not None:
        lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _nearest(lines, what)


def _nearest(innermost_first: list[tuple[str, int]], what: Callable[..., Any]) -> str:
    own_file = place_of(what).rpartition(":")[0]
    for file, line in innermost_first:
        if file == own_file:
            return f"{file}:{line}"
    return place_of(what)
