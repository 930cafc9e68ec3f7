"""trio-asyncio's loop, replaced by one that takes fewer turns of trio's loop; see docs/decisions/0018-eager-loop.md.

Touched: what a subclass of `TrioEventLoop` overrides and reads (`_queue_handle`, `_io_task`, `_main_loop_one`, `_timers`,
`_nursery`, `_q_send`), the handles' `_run`, `_scope`, `_raise`, `_started`, `_callback` and `_context`, the loop that
`open_loop` makes (in a copy of that function), and sniffio's name of the library that runs. Guard tests:
tests/component/test_border.py, tests/component/private/test_surface.py.
"""

from __future__ import annotations

import asyncio
import heapq
import warnings
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from typing import Any, TypeVar, TypeVarTuple

import trio

from common.private.asyncio import make_ssl_transport
from common.private.surface import require, require_used, with_globals

with warnings.catch_warnings():
    # Its import touches child watchers, which CPython 3.12 deprecated and 3.14 removes.
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio
    import trio_asyncio._base
    import trio_asyncio._handles
    from trio_asyncio._async import TrioEventLoop

aio_as_trio = trio_asyncio.aio_as_trio
trio_as_aio = trio_asyncio.trio_as_aio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_base_loop = trio_asyncio._base.BaseTrioEventLoop
require("trio-asyncio", TrioEventLoop, "_queue_handle", "call_soon", "stop", "_nursery", "_check_closed")
require("trio-asyncio", _base_loop, "_io_task", "_main_loop_one", "_make_ssl_transport")
require_used("trio-asyncio", _base_loop.__init__, "_timers", "_q_send")
require_used("trio-asyncio", _base_loop._main_loop_one, "_timers", "_run", "_context", "_callback", "_started")
require_used("trio-asyncio", _base_loop.call_soon_threadsafe, "_q_send", "send_nowait")
require("trio-asyncio", trio_asyncio._base, "sniffio_library")
require("trio-asyncio", trio_asyncio._handles.ScopedHandle, "_scope", "_raise", "_run", "_context")
require("trio-asyncio", trio_asyncio._handles, "AsyncHandle")
require("trio-asyncio", trio_asyncio.open_loop, "__wrapped__")
require_used("trio-asyncio", trio_asyncio.open_loop.__wrapped__, "TrioEventLoop")

# So many callbacks may follow one arrival before others get their turn.
_EAGER_MAX = 100


class EagerLoop(TrioEventLoop):  # type: ignore[misc]  # it has no types
    """trio-asyncio's loop, with fewer turns of trio's between a socket and the task that waits for it.

    As it comes, each asyncio callback costs a turn of trio's own loop, with a system call, and a statement or a message
    takes six of them. Here the callbacks that an arrival brings about run at once, one after the other, in the order of
    `call_soon`; the loop's own task runs what comes from elsewhere. What starts trio tasks is left to that task too.
    """

    def __init__(self, queue_len: int | None = None) -> None:
        super().__init__(queue_len)
        self._waiting: deque[asyncio.Handle] = deque()
        self._main = trio.lowlevel.ParkingLot()
        self._is_eager = False
        self._is_held = False
        self._is_ending = False
        self._q_send = self  # for call_soon_threadsafe and signals, which call `send_nowait`

    def call_soon(self, callback: Callable[..., object], *args: object, **context: Any) -> asyncio.Handle:  # noqa: ANN401
        # Without trio-asyncio's look at what `callback` is, which costs as much as all the rest.
        return self._queue_handle(asyncio.Handle(callback, args, self, **context))

    def send_nowait(self, handle: asyncio.Handle) -> None:
        self._queue_handle(handle)

    _make_ssl_transport = make_ssl_transport

    def stop(self, waiter: trio.Event | None = None) -> trio.Event:
        self._is_ending = True  # its callback ends the loop's task, so only that one may run it
        stopped: trio.Event = super().stop(waiter)
        return stopped

    def _queue_handle(self, handle: asyncio.Handle) -> asyncio.Handle:
        self._check_closed()
        if isinstance(handle, asyncio.TimerHandle):
            heapq.heappush(self._timers, handle)
            self._main.unpark()
        else:
            self._waiting.append(handle)
            if not self._is_eager:
                self._main.unpark()
        return handle

    def run_eagerly(self, begin: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call `begin` and then, before anything else happens, what it has asked asyncio to call soon."""
        assert not self._is_eager, "an asyncio callback cannot wait for others"
        self._is_eager = True
        try:
            result = begin(*args)
            for _ in range(_EAGER_MAX):
                if not self._waiting or self._is_held or self._is_ending or _starts_trio(self._waiting[0]):
                    break
                self._run_handle(self._waiting.popleft())
        finally:
            self._is_eager = False
            if self._waiting:
                self._main.unpark()
        return result

    def _run_handle(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        library = trio_asyncio._base.sniffio_library
        before, library.name = library.name, "asyncio"
        try:
            handle._run()
        finally:
            library.name = before

    async def _io_task(
        self, fd: int, handle: trio_asyncio._handles.ScopedHandle, wait_ready: Callable[[int], Awaitable[None]]
    ) -> None:
        with handle._scope:
            try:
                while not handle.cancelled():
                    try:
                        await wait_ready(fd)
                    except OSError:
                        if not handle.cancelled():  # else the socket was closed without yielding to us
                            raise
                    if not handle.cancelled():
                        self.run_eagerly(handle._run)
            except Exception as error:  # noqa: BLE001  as asyncio's: handed to the loop's exception handler
                handle._raise(error)

    async def _main_loop_one(self, no_wait: bool = False) -> None:
        while self._timers and self._timers[0].when() <= self.time():
            self._waiting.append(heapq.heappop(self._timers))
        if self._waiting:
            for _ in range(len(self._waiting)):
                await self._run_in_turn()
            # What these have asked for comes after whatever else is ready.
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif no_wait:
            raise trio.WouldBlock
        else:
            with trio.CancelScope(deadline=self._timers[0].when() if self._timers else inf):
                await self._main.park()

    async def _run_in_turn(self) -> None:
        if not self._waiting:
            return  # run eagerly while a task began
        handle: Any = self._waiting.popleft()
        if not _starts_trio(handle):
            self._run_handle(handle)
            return
        self._is_held = True
        try:
            handle._context.run(self._nursery.start_soon, handle._run, name=handle._callback)
            await handle._started.wait()
        finally:
            self._is_held = False


def _starts_trio(handle: asyncio.Handle) -> bool:
    return isinstance(handle, trio_asyncio._handles.AsyncHandle)


def open_eager_loop() -> AbstractAsyncContextManager[EagerLoop]:
    """`trio_asyncio.open_loop` with an `EagerLoop`; the library's own is what anyone else in the process gets."""
    return _open_loop()


_open_loop: Callable[[], AbstractAsyncContextManager[EagerLoop]] = asynccontextmanager(
    with_globals(trio_asyncio.open_loop.__wrapped__, TrioEventLoop=EagerLoop)
)
