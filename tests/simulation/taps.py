"""Ears on the line: both ends of each push stream, with what goes through them told to a listener.

A tap changes nothing. A message counts as said when it is handed to the line, before a byte of it has left: so an ack
that is said before its commit is seen, however soon the commit follows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from common.core.errors import BackhaulError
from common.transport.metadata import NO_METADATA
from common.transport.stream import Channel, DialledStream, MessageStream, PeerInfo, ServedStream

Told = Callable[[bytes], None]


class TappedStream:
    """A ``MessageStream`` that tells what it says and hears."""

    def __init__(self, stream: MessageStream, said: Told, heard: Told) -> None:
        self._stream = stream
        self._said = said
        self._heard = heard

    @property
    def peer(self) -> PeerInfo:
        return self._stream.peer

    @property
    def bytes_received(self) -> int:
        return self._stream.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._stream.bytes_sent

    @property
    def unsent_bytes(self) -> int:
        return self._stream.unsent_bytes

    @property
    def fault(self) -> BackhaulError | None:
        return self._stream.fault

    async def send(self, message: bytes) -> None:
        self._said(message)
        await self._stream.send(message)

    def send_nowait(self, message: bytes) -> bool:
        is_sent = self._stream.send_nowait(message)
        if is_sent:
            self._said(message)
        return is_sent

    def hold(self) -> None:
        self._stream.hold()

    def release(self) -> None:
        self._stream.release()

    async def receive(self) -> bytes:
        message = await self._stream.receive()
        self._heard(message)
        return message

    def abort(self) -> None:
        self._stream.abort()


class TappedDialledStream(TappedStream):
    """The end that dialled."""

    def __init__(self, stream: DialledStream, said: Told, heard: Told) -> None:
        super().__init__(stream, said, heard)
        self._dialled = stream

    async def end(self) -> None:
        await self._dialled.end()

    async def wait_accepted(self) -> None:
        await self._dialled.wait_accepted()


class TappedServedStream(TappedStream):
    """The end that serves."""

    def __init__(self, stream: ServedStream, said: Told, heard: Told) -> None:
        super().__init__(stream, said, heard)
        self.metadata = stream.metadata
        self.accept = stream.accept


class TappedChannel:
    """A ``Channel`` whose streams are tapped; ``ears(path)`` makes what listens to a new stream: said, heard."""

    def __init__(self, channel: Channel, ears: Callable[[str], tuple[Told, Told]]) -> None:
        self._channel = channel
        self._ears = ears

    @property
    def peer(self) -> PeerInfo:
        return self._channel.peer

    def abort(self) -> None:
        self._channel.abort()

    @asynccontextmanager
    async def open_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> AsyncIterator[TappedDialledStream]:
        async with self._channel.open_stream(path, metadata) as stream:
            yield TappedDialledStream(stream, *self._ears(path))

    async def unary(
        self, path: str, request: bytes, timeout_s: float, metadata: Mapping[str, str] = NO_METADATA
    ) -> bytes:
        return await self._channel.unary(path, request, timeout_s, metadata)
