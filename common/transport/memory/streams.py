"""Message streams as pipes in memory: the two ends of a call, under trio alone."""

from __future__ import annotations

import trio

from common.core.errors import BackhaulError
from common.transport.link.call_status import status_of
from common.transport.memory.line import Direction, MemoryCall, MemoryConnection
from common.transport.stream import (
    MessageTooLarge,
    PeerClosed,
    PeerInfo,
    PeerRefused,
    SendAfterEnd,
)

WINDOW_BYTES = 256 * 1024


class _MemoryEnd:
    """What either end of a call does with its two pipes; see `common.transport.stream.MessageStream`."""

    def __init__(self, call: MemoryCall, peer: PeerInfo, message_max_bytes: int, *, is_served: bool) -> None:
        self.call = call
        self.peer = peer
        self.has_ended = False
        self._message_max_bytes = message_max_bytes
        self._is_served = is_served
        self._out, self._in = (call.down, call.up) if is_served else (call.up, call.down)
        self._direction: Direction = "down" if is_served else "up"
        self._end: PeerClosed | PeerRefused | None = None
        self._has_accepted = False
        self._is_accepted = False
        self._is_sending = False
        self._is_receiving = False

    @property
    def bytes_received(self) -> int:
        return self._in.bytes_arrived()

    @property
    def bytes_sent(self) -> int:
        return self._out.bytes_arrived()

    @property
    def unsent_bytes(self) -> int:
        return self._out.bytes_in - self._out.bytes_arrived()

    @property
    def fault(self) -> BackhaulError | None:
        broken = self.call.served_fault if self._is_served else self.call.dialled_fault
        return self._end if isinstance(self._end, PeerRefused) else broken

    def abort(self) -> None:
        self.call.connection.abort(by_server=self._is_served)

    async def send(self, message: bytes) -> None:
        if self.has_ended:
            raise SendAfterEnd
        if len(message) > self._message_max_bytes:
            raise MessageTooLarge(len(message), self._message_max_bytes)
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        self._is_sending = True
        try:
            while True:
                self._raise_if_over_for_sending()
                if self._out.has_room(len(message)):
                    break
                self._out.roomy.clear()
                await self._out.roomy.wait()
        except trio.Cancelled:
            self.abort()
            raise
        finally:
            self._is_sending = False
        if self.has_ended:  # the handler returned meanwhile
            raise SendAfterEnd
        if self.call.connection.lets_through(self._direction, len(message)):
            self._out.put(message)
        self._raise_if_over_for_sending()

    def send_nowait(self, message: bytes) -> bool:
        is_over = self.has_ended or self._is_sending or self._end is not None or self.fault is not None
        if is_over or len(message) > self._message_max_bytes or not self._out.has_room(len(message)):
            return False
        if self.call.connection.lets_through(self._direction, len(message)):
            self._out.put(message)
        return True

    async def receive(self) -> bytes:
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        await trio.lowlevel.checkpoint()
        self._is_receiving = True
        try:
            while True:
                parcel = self._in.take() if self._end is None else None
                if parcel is None:
                    self._raise_if_over()
                    await self._in.wait()
                elif parcel.end is not None:
                    self._end = parcel.end
                elif parcel.is_acceptance:
                    self._is_accepted = True
                elif parcel.size > self._message_max_bytes:
                    raise MessageTooLarge(parcel.size, self._message_max_bytes)
                else:
                    self._is_accepted = True
                    return parcel.message
        finally:
            self._is_receiving = False

    async def end(self) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self.finish(PeerClosed())

    def finish(self, end: PeerClosed | PeerRefused) -> None:
        """Send the end of this direction, once, unless the line is gone."""
        if not self.has_ended:
            self.has_ended = True
            if self.fault is None:
                self._out.put(b"", end)

    def accept(self) -> None:
        if not (self._has_accepted or self.has_ended) and self.fault is None:
            self._has_accepted = True
            self._out.put(b"", is_acceptance=True)

    async def wait_accepted(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_accepted and self._end is None:
            self._end = self._in.end_if_next()
            if self._end is None and self._in.has_arrived():
                return
            if self._end is None:
                self._raise_if_over()
                await self._in.wait()
        if isinstance(self._end, PeerRefused) and not self._is_accepted:
            raise self._end

    def _raise_if_over(self) -> None:
        if self._end is not None:
            raise self._end
        if self.fault is not None:
            raise self.fault

    def _raise_if_over_for_sending(self) -> None:
        if not self._is_served:
            # A refusal is felt by sending too, even if nobody receives.
            self._is_accepted = self._in.pass_acceptance() or self._is_accepted
            self._end = self._end or self._in.end_if_next()
            self._raise_if_over()
        elif self.fault is not None:
            raise self.fault


class DialledMemoryStream:
    """The end that opened the call; see `common.transport.stream.DialledStream`."""

    def __init__(self, call: MemoryCall, peer: PeerInfo, message_max_bytes: int) -> None:
        end = self._end = _MemoryEnd(call, peer, message_max_bytes, is_served=False)
        self.peer = peer
        self.abort = end.abort
        self.send = end.send
        self.send_nowait = end.send_nowait
        self.receive = end.receive
        self.end = end.end
        self.wait_accepted = end.wait_accepted

    @property
    def bytes_received(self) -> int:
        return self._end.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._end.bytes_sent

    @property
    def unsent_bytes(self) -> int:
        return self._end.unsent_bytes

    @property
    def fault(self) -> BackhaulError | None:
        return self._end.fault

    def hold(self) -> None:
        pass  # here a message costs the same alone

    def release(self) -> None:
        pass


class ServedMemoryStream:
    """The end whose handler runs in the server's nursery; see `common.transport.stream.ServedStream`."""

    def __init__(self, call: MemoryCall, peer: PeerInfo, message_max_bytes: int) -> None:
        end = self._end = _MemoryEnd(call, peer, message_max_bytes, is_served=True)
        self.peer = peer
        self.metadata = call.metadata
        self.abort = end.abort
        self.send = end.send
        self.send_nowait = end.send_nowait
        self.receive = end.receive
        self.accept = end.accept

    @property
    def bytes_received(self) -> int:
        return self._end.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._end.bytes_sent

    @property
    def unsent_bytes(self) -> int:
        return self._end.unsent_bytes

    @property
    def fault(self) -> BackhaulError | None:
        return self._end.fault

    def hold(self) -> None:
        pass  # here a message costs the same alone

    def release(self) -> None:
        pass

    def finish(self, outcome: BackhaulError | None) -> None:
        """End the call, well or with a refusal, unless the line is gone."""
        self._end.finish(PeerClosed() if outcome is None else refused(outcome))


def refused(refusal: BackhaulError) -> PeerRefused:
    """The serving end's refusal as the dialling end meets it."""
    return PeerRefused(
        refusal.code,
        refusal.message,
        refusal.hint,
        status=status_of(refusal),
        kind=refusal.kind,
        retry_after_s=refusal.retry_after_s,
    )


def memory_stream_pair(
    *, message_max_bytes: int = 4 * 1024 * 1024, window_bytes: int = WINDOW_BYTES, peer: PeerInfo | None = None
) -> tuple[DialledMemoryStream, ServedMemoryStream]:
    """Both ends of one stream, for tests that serve it themselves. `peer` is what the serving end sees."""
    dialler = peer or PeerInfo("dialler:1")
    call = MemoryConnection("server:1", dialler).open_call(window_bytes)
    return (
        DialledMemoryStream(call, PeerInfo("server:1"), message_max_bytes),
        ServedMemoryStream(call, dialler, message_max_bytes),
    )
