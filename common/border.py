"""The border between trio and asyncio: nobody else in the product imports asyncio.

Functions have a flavour: trio-flavoured ones may only be awaited by trio code, asyncio-flavoured ones only by
asyncio code, and each crossing is written out with a function of this module. The asyncio loop lives inside
trio (`open_loop`), in the same thread; so *synchronous* functions of either side can be called from both.
grpclib and asyncpg need that loop; import this module before them, since trio-asyncio patches asyncio.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import heapq
import socket
import ssl
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from math import inf
from typing import Any, NoReturn, TypeVar, TypeVarTuple

import trio

with warnings.catch_warnings():
    # Its import touches child watchers, which CPython 3.12 deprecated and 3.14 removes.
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio
    import trio_asyncio._async
    import trio_asyncio._base
    import trio_asyncio._handles
    import trio_asyncio._loop

Transport = asyncio.Transport
"""asyncio's end of a connection. Its methods are synchronous: trio code may call them too."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Each TLS connection keeps a receive buffer of this size; asyncio's 256 KiB would cost 340 kB a connection.
# 16 KiB is one TLS record, so nothing is lost by it.
asyncio.sslproto.SSLProtocol.max_size = 16_384

# So many callbacks may follow one arrival before others get their turn.
_EAGER_MAX = 100


class _EagerLoop(trio_asyncio._async.TrioEventLoop):  # type: ignore[misc]  # it has no types
    """trio-asyncio's loop, with fewer turns of trio's between a socket and whoever waits for it.

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
            except Exception as error:  # noqa: BLE001  as asyncio's: told to the loop's exception handler
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


# `trio_asyncio.open_loop` looks its loop up by this name.
trio_asyncio._loop.TrioEventLoop = _EagerLoop


@asynccontextmanager
async def open_loop() -> AsyncIterator[None]:
    """Run an asyncio loop in this trio task's scope; leaving it cancels what asyncio still runs.

    An exception that an asyncio callback does not handle comes out of here: whoever gives the loop callbacks
    that a peer can reach must contain their errors.
    """
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_unless_given_up)
        yield


def _unless_given_up(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    # A connect that was given up (asyncpg's timeout while the server says nothing) leaves a future that nobody
    # waits for any more and that fails when its socket is closed. That must not end the service.
    if isinstance(context.get("future"), asyncio.Future) and isinstance(context.get("exception"), ConnectionError):
        return
    loop.default_exception_handler(context)


async def call_asyncio(fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Call the asyncio-flavoured `fn` from trio. A cancellation reaches it as `CancelledError`."""
    result: T = await trio_asyncio.aio_as_trio(fn)(*args)
    return result


async def finish_asyncio(
    fn: Callable[[*Ts], Coroutine[object, object, T]],
    *args: *Ts,
    deadline_s: float,
    cut: Callable[[], object],
) -> T:
    """Call the asyncio-flavoured `fn` from trio and let it finish, even when the caller is cancelled.

    For calls that must not be cancelled in the middle (a database statement: its connection would be left in
    an unknown state). After `deadline_s` the synchronous `cut` is called, which must make `fn` fail at once
    (asyncpg: `connection.terminate`); then `trio.TooSlowError` is raised, and what `fn` did is not known.
    A cancelled caller gets the result, and its cancellation at the next checkpoint.
    """
    task = trio.lowlevel.current_task()
    loop = asyncio.get_event_loop()
    assert isinstance(loop, _EagerLoop)
    future: asyncio.Task[T] = loop.run_eagerly(loop.create_task, fn(*args))
    if future.done():
        await trio.lowlevel.cancel_shielded_checkpoint()
        return future.result()
    future.add_done_callback(lambda _: trio.lowlevel.reschedule(task))
    late = False

    def cut_instead_of_cancelling(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        nonlocal late
        late = True
        cut()
        # Should the cut not be felt, a caller that nobody can cancel must still not wait for ever.
        future.get_loop().call_later(1.0, future.cancel)
        return trio.lowlevel.Abort.FAILED

    with trio.CancelScope(shield=True, deadline=trio.current_time() + deadline_s):
        await trio.lowlevel.wait_task_rescheduled(cut_instead_of_cancelling)
    try:
        return future.result()
    except (Exception, asyncio.CancelledError) as error:
        if late:
            raise trio.TooSlowError(f"cut off after {deadline_s} s") from error
        raise


def from_asyncio(fn: Callable[[*Ts], Awaitable[T]]) -> Callable[[*Ts], Awaitable[T]]:
    """Wrap the trio-flavoured `fn` so that asyncio code may await it. Do not open a nursery across it."""
    wrapped: Callable[[*Ts], Awaitable[T]] = trio_asyncio.trio_as_aio(fn)
    return wrapped


async def adopt_socket(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    sock: socket.socket,
    *,
    tls: ssl.SSLContext | None,
    server_hostname: str | None,
    handshake_timeout_s: float,
) -> None:
    """Give a connected TCP socket to asyncio, which calls the protocol from then on. Trio-flavoured.

    With `server_hostname` this is the dialling end and the peer's certificate must carry that name; without
    it this is the accepting end. Returns when the TLS handshake is done. `sock` is asyncio's to close from now on.
    Raises OSError (ssl.SSLError included; ConnectionAbortedError when the handshake takes too long).
    """
    loop = asyncio.get_event_loop()
    handshake_s = handshake_timeout_s if tls else None

    is_adopted = False

    async def adopt() -> None:
        nonlocal is_adopted
        is_adopted = True
        if server_hostname is None:
            await loop.connect_accepted_socket(protocol_factory, sock, ssl=tls, ssl_handshake_timeout=handshake_s)
        else:
            await loop.create_connection(
                protocol_factory,
                sock=sock,
                ssl=tls,
                server_hostname=server_hostname if tls else None,
                ssl_handshake_timeout=handshake_s,
            )

    try:
        await call_asyncio(adopt)
    finally:
        if not is_adopted:  # cancelled before asyncio looked at it
            sock.close()
