"""Links over real sockets: a served method of each kind, and dials that say how they failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from common.core.addresses import parse_address
from common.core.errors import BackhaulError
from common.transport.grpc import GrpcChannel, TlsFiles, open_channel, serve_grpc
from common.transport.stream import (
    Caller,
    MessageStream,
    Methods,
    ServedStream,
    StreamMethod,
    UnaryMethod,
)

MESSAGE_MAX = 100_000
ACCEPT = "/test.Streams/Accept"
ECHO = "/test.Streams/Echo"
WHO = "/test.Streams/Who"
SINK = "/test.Streams/Sink"


async def echo(stream: MessageStream) -> None:
    while True:
        await stream.send(await stream.receive())


async def who(request: bytes, caller: Caller) -> bytes:
    return ",".join(caller.peer.identities).encode()


async def wait_for_ever(stream: MessageStream) -> None:
    await trio.sleep_forever()


async def accept(stream: ServedStream) -> None:
    stream.accept()
    await stream.receive()


METHODS: Methods = {
    ACCEPT: StreamMethod(accept),
    ECHO: StreamMethod(echo),
    WHO: UnaryMethod(who),
    SINK: StreamMethod(wait_for_ever),
}


@asynccontextmanager
async def served(tls: TlsFiles | None = None, *, settle_timeout_s: float = 10.0) -> AsyncIterator[str]:
    with trio.fail_after(30):  # what hangs fails
        async with serve_grpc(
            METHODS,
            host="127.0.0.1",
            port=0,
            tls=tls,
            message_max_bytes=MESSAGE_MAX,
            connections_max=20,
            settle_timeout_s=settle_timeout_s,
        ) as port:
            yield f"127.0.0.1:{port}"


@asynccontextmanager
async def dialled(address: str, tls: TlsFiles | None = None, *, timeout_s: float = 2.0) -> AsyncIterator[GrpcChannel]:
    async with open_channel(
        parse_address(address),
        tls=tls,
        connect_timeout_s=timeout_s,
        message_max_bytes=10 * MESSAGE_MAX,
        user_timeout_s=5,
    ) as channel:
        yield channel


async def dial_failure(address: str, tls: TlsFiles | None = None, *, timeout_s: float = 2.0) -> BackhaulError:
    with pytest.raises(BackhaulError) as raised:
        async with dialled(address, tls, timeout_s=timeout_s):
            pass
    return raised.value


def host_and_port(address: str) -> tuple[str, int]:
    """For sockets."""
    found = parse_address(address)
    return found.host, found.port
