"""The carriers the contract runs on, and handlers that tell what became of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from common.core.addresses import parse_address
from common.core.errors import BackhaulError
from common.transport.grpc import open_channel, serve_grpc
from common.transport.memory.network import MemoryNetwork
from common.transport.stream import (
    Channel,
    MessageStream,
    Methods,
    PeerClosed,
    ServedStream,
    StreamMethod,
)

MESSAGE_MAX = 200_000
WINDOW = 65_536
PATH = "/test.Streams/Run"
Handler = Callable[[ServedStream], Awaitable[None]]


@dataclass
class Carrier:
    """One way to carry streams: serve methods, dial them, and count what is left of connections afterwards."""

    serve: Callable[[Methods], AbstractAsyncContextManager[str]]
    dial: Callable[[str], AbstractAsyncContextManager[Channel]]


def memory_carrier() -> Carrier:
    network = MemoryNetwork()

    @asynccontextmanager
    async def serve(methods: Methods) -> AsyncIterator[str]:
        async with network.serve(
            methods, host="server", port=0, message_max_bytes=MESSAGE_MAX, connections_max=10
        ) as port:
            yield f"server:{port}"

    def dial(address: str) -> AbstractAsyncContextManager[Channel]:
        return network.open_channel(address, connect_timeout_s=2, message_max_bytes=MESSAGE_MAX)

    return Carrier(serve, dial)


def grpc_carrier() -> Carrier:
    @asynccontextmanager
    async def serve(methods: Methods) -> AsyncIterator[str]:
        async with serve_grpc(
            methods,
            host="127.0.0.1",
            port=0,
            tls=None,
            message_max_bytes=MESSAGE_MAX,
            connections_max=10,
            window_bytes=WINDOW,
        ) as port:
            yield f"127.0.0.1:{port}"

    def dial(address: str) -> AbstractAsyncContextManager[Channel]:
        return open_channel(
            parse_address(address),
            tls=None,
            connect_timeout_s=2,
            message_max_bytes=MESSAGE_MAX,
            user_timeout_s=5,
            window_bytes=WINDOW,
        )

    return Carrier(serve, dial)


@asynccontextmanager
async def served(carrier: Carrier, handler: Handler) -> AsyncIterator[Channel]:
    """A channel to a server whose only stream method is `handler`; what hangs fails."""
    with trio.fail_after(30):
        async with carrier.serve({PATH: StreamMethod(handler)}) as address:
            async with carrier.dial(address) as channel:
                yield channel


async def echo(stream: MessageStream) -> None:
    while True:
        await stream.send(await stream.receive())


class Watched:
    """A handler that tells how it ended: "cancelled", "returned", or the code of what came out of `run`."""

    def __init__(self, run: Handler) -> None:
        self._run = run
        self.started = trio.Event()
        self.ended = trio.Event()
        self.how = ""
        self.fault = ""

    async def __call__(self, stream: ServedStream) -> None:
        self.started.set()
        try:
            await self._run(stream)
            self.how = "returned"
        except trio.Cancelled:
            self.how = "cancelled"
            raise
        except BackhaulError as error:
            self.how = error.code
            raise
        except PeerClosed:
            self.how = "closed"
            raise
        finally:
            self.fault = stream.fault.code if stream.fault else ""
            self.ended.set()


async def wait_for_ever(stream: MessageStream) -> None:
    await trio.sleep_forever()
