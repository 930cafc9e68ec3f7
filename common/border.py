"""The border between trio and asyncio: nobody else in the product imports asyncio.

Functions have a flavour: trio-flavoured ones may only be awaited by trio code, asyncio-flavoured ones only by
asyncio code, and each crossing is written out with a function of this module. The asyncio loop lives inside
trio (`open_loop`), in the same thread; so *synchronous* functions of either side can be called from both.
grpclib and asyncpg need that loop; import this module before them, since trio-asyncio patches asyncio.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVar, TypeVarTuple

import trio

from common.private.trio_asyncio import EagerLoop, aio_as_trio, open_eager_loop, trio_as_aio

Transport = asyncio.Transport
"""asyncio's end of a connection. Its methods are synchronous: trio code may call them too."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@asynccontextmanager
async def open_loop() -> AsyncIterator[None]:
    """Run an asyncio loop in this trio task's scope; leaving it cancels what asyncio still runs.

    An exception that an asyncio callback does not handle comes out of here: code that gives the loop callbacks
    that a peer can reach must contain their errors.
    """
    async with open_eager_loop() as loop:
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
    result: T = await aio_as_trio(fn)(*args)
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
    assert isinstance(loop, EagerLoop)
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
    wrapped: Callable[[*Ts], Awaitable[T]] = trio_as_aio(fn)
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
