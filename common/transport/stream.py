"""What a message stream is, on every carrier: the words both ends of every link are written in.

Two carriers offer exactly this: `grpc` (over TCP and TLS) and `memory` (pipes, for
simulation); one contract suite runs on both. A stream carries whole messages of bytes, in order, with
back-pressure; what is in them is the codec's business. It imports no carrier, so that code under simulation
never loads gRPC.

Ends: the dialling end calls `end()` when it has no more to send; the serving end ends the stream by returning
from its handler, or refuses it by raising a `BackhaulError`. After its end an end sends nothing: `send` raises
`SendAfterEnd`, `send_nowait` returns False, and the stream goes on unharmed. Anything else is an abort, which both
ends feel.

    dialling end                         serving end
    open  → `end()`            → ended   open  → handler returns or raises → ended
    any   → leaves its block   → over    any   → `abort`, line lost        → over
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from common import audit
from common.core.errors import BackhaulError, ErrorKind
from common.core.policy.credentials import Credential
from common.core.policy.identity import Identity, IdentityRule
from common.transport.metadata import NO_METADATA


class PeerClosed(Exception):
    """The peer ended the stream properly: it sends nothing more, and everything it sent has been received."""


class PeerGone(BackhaulError):
    """The link broke, or never came about: what was under way may or may not have reached the peer."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint, kind=ErrorKind.UNAVAILABLE)


class PeerRefused(BackhaulError):
    """The peer answered, and the answer is no, in the peer's own code, message and hint."""

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        status: str,
        kind: ErrorKind = ErrorKind.INVALID,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, hint, kind=kind, retry_after_s=retry_after_s)
        self.status = status


class MessageTooLarge(BackhaulError):
    """A message exceeds the limit; found at its length prefix, before room is made for it."""

    def __init__(self, size: int, message_max_bytes: int) -> None:
        super().__init__(
            "link.message_too_large",
            f"a message of {size} bytes exceeds the limit of {message_max_bytes}",
            "send smaller batches, or raise the limit at the receiving end",
            kind=ErrorKind.TOO_LARGE,
            details={"size": size, "limit": message_max_bytes},
        )


class SendAfterEnd(BackhaulError):
    """A message was to be sent by an end that had ended: a fault of the program, which harms nothing but that message."""

    def __init__(self) -> None:
        super().__init__(
            "link.send_after_end",
            "this end of the stream has ended: nothing more can be sent",
            "send before `end()`, or before the handler returns",
            kind=ErrorKind.INTERNAL,
        )


class MessageUnreadable(BackhaulError):
    """A message is not in the form we speak: compressed, or cut off by the end of its stream."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """The other end: its address, the ids that it may go by, and the `certificate` they were read from.

    Without (mutual) TLS there are none.
    """

    address: str
    identities: tuple[str, ...] = ()
    certificate: Identity | None = None
    credential: Credential | None = None
    """What is looked at again while the peer is connected."""

    def must_be(self, name: str, what: str) -> None:
        """Refuse a peer that may not go by this id: `auth.identity_mismatch`, `auth.identity_ambiguous`."""
        identity = self.certificate or Identity(self.identities, self.identities, IdentityRule(one_id=False))
        try:
            identity.must_be(name, what)
        except BackhaulError as error:
            audit.refused(who=name, source=self.address, what=f"be {what}", rule="certificate", result=error.code)
            raise


class MessageStream(Protocol):
    """One end of a stream of messages. One task may send and one may receive, at the same time."""

    @property
    def peer(self) -> PeerInfo: ...

    @property
    def bytes_received(self) -> int:
        """Bytes that came in on the connection: any growth, even within one message, is a sign of life."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes that the peer's kernel has acknowledged: growth is progress, on the slowest line."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Bytes that left `send` and are not acknowledged by the peer's kernel yet."""
        ...

    @property
    def fault(self) -> BackhaulError | None:
        """Why the stream broke, once it has; a cancelled handler reads the reason here."""
        ...

    async def send(self, message: bytes) -> None:
        """Hand one message over; waits while the peer's window or the line is full.

        Cancelled in the middle it aborts the connection: a message that is sent by half leaves nothing to
        save. Raises PeerGone, PeerRefused or PeerClosed (the serving end has refused or ended the stream meanwhile),
        MessageTooLarge; and SendAfterEnd, whatever else has happened, once this end has ended.
        """
        ...

    def send_nowait(self, message: bytes) -> bool:
        """Hand one message over if that is possible without waiting; else, or when the stream or this end is over, do nothing."""
        ...

    def hold(self) -> None:
        """Have what `send_nowait` takes from now on leave together, at `release`. In between the caller must not wait."""
        ...

    def release(self) -> None:
        """Let what was held go."""
        ...

    async def receive(self) -> bytes:
        """The next message. Cancelling it loses nothing.

        Raises PeerClosed at the proper end, PeerGone, PeerRefused, MessageTooLarge, MessageUnreadable.
        """
        ...

    def abort(self) -> None:
        """Drop the connection now, with whatever is in its buffers; both ends see PeerGone. Never waits."""
        ...


class DialledStream(MessageStream, Protocol):
    """The end of a stream that opened it."""

    async def end(self) -> None:
        """Say that nothing more will be sent; receiving goes on until the peer ends the stream too.

        What was held leaves first; a second call does nothing. Raises trio.BusyResourceError while another task sends.
        """
        ...

    async def wait_accepted(self) -> None:
        """Wait until the serving end has answered its headers, with `accept` or its first message, or has ended the stream.

        Raises as `receive` when it refused the call instead.
        """
        ...


class ServedStream(MessageStream, Protocol):
    """The end of a stream that serves it."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the caller sent with the call: read-only, bounded (`common.transport.metadata`)."""
        ...

    def accept(self) -> None:
        """Answer the headers of the call now, before the first message, which otherwise takes them along. Never waits."""
        ...


class Channel(Protocol):
    """A connection that was dialled. Long-lived streams want one each: they would stall one another."""

    @property
    def peer(self) -> PeerInfo: ...

    def open_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> AbstractAsyncContextManager[DialledStream]:
        """Open a stream to the method `/package.Service/Method`; leaving it resets what is not ended.

        Raises BackhaulError `link.metadata_invalid`, `link.metadata_too_large`.
        """
        ...

    async def unary(
        self, path: str, request: bytes, timeout_s: float, metadata: Mapping[str, str] = NO_METADATA
    ) -> bytes:
        """One request, one answer. Raises PeerGone (`link.timeout` too), PeerRefused, MessageTooLarge; as `open_stream`."""
        ...

    def abort(self) -> None:
        """Drop the connection now. Never waits."""
        ...


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """A method served with a stream of messages each way.

    The handler is cancelled when the peer goes away. Returning, or letting PeerClosed out, ends the stream
    well.
    """

    handler: Callable[[ServedStream], Awaitable[None]]


class Caller(NamedTuple):
    """The other end of a unary call, and the metadata of this call (read-only, bounded)."""

    peer: PeerInfo
    metadata: Mapping[str, str] = NO_METADATA


Answer = Callable[[bytes | Exception], Callable[[], object]]
"""Called once with the answer to a call, or with what its handler would raise; nobody is answered when the caller has gone.

The answer leaves when what this returns is called, at the latest with what the line sends next. That is equal for all calls
of one connection, so that what is answered together leaves in one write.
"""


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A method served with one answer to one request.

    `promptly` may serve it without a task, which costs as much as a small answer: it is given a request that is whole, must
    not wait, and says whether it has taken it. Then it calls back, at once or later. The handler serves the rest. A
    deadline that the caller set is the caller's own affair there: it gives up the call, and nobody is answered.
    """

    handler: Callable[[bytes, Caller], Awaitable[bytes]]
    promptly: Callable[[bytes, Caller, Answer], bool] | None = None


Methods = Mapping[str, StreamMethod | UnaryMethod]
