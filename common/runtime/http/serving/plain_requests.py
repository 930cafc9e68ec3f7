"""The plain requests of one connection: taken as soon as they are read, answered by the task that has the answer.

    WAITING ── a plain request, whole, that is taken ──> BUSY ── answer, all sent ──> WAITING
    WAITING ── any other bytes, or the end ──> handed to the parser of all requests
    WAITING ── silence, reset, ending ──> over
    BUSY ── answer, sent in part ──> the connection's task sends the rest ──> WAITING
    BUSY ── answer while ending, or the client has gone ──> over

While a request is BUSY the connection's task waits for the next one already, so that no turn of the loop is needed for
the answer; but what comes then stays in the kernel until the answer is out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from functools import lru_cache
from typing import Final, TypeAlias

import trio

from common.core.plain_http import HEAD_END, PLAIN_HEAD_MAX_BYTES, parse_plain_head
from common.runtime.http.promptly import AnswersPromptly, Begin

KEEP_ALIVE_S: Final = 60.0
READ_BYTES: Final = 64 * 1024
# Heads that a door remembers, each with what serves it: clients repeat theirs, but for the length of the body.
_HEADS_MAX: Final = 128

KnownHeads: TypeAlias = Callable[[bytes], tuple[int, Begin] | None]
"""By the text of a head: the length of the body, and what serves the request; None: neither is known."""


def known_heads(app: AnswersPromptly) -> KnownHeads:
    """What one door makes of plain heads, decided once for each text.

    The texts are compared as keys of a dictionary, by their hash first: the time that takes says nothing of a token in them.
    """

    @lru_cache(_HEADS_MAX)
    def known(text: bytes) -> tuple[int, Begin] | None:
        head = parse_plain_head(text)
        begin = None if head is None else app.promptly(head)
        return None if head is None or begin is None else (head.body_bytes, begin)

    return known


class PlainRequests:
    """`until_other` runs in the connection's task, `write` is the connection's and says whether the client is still there."""

    def __init__(
        self, stream: trio.SocketStream, known: KnownHeads | None, write: Callable[[bytes], Awaitable[bool]]
    ) -> None:
        self._socket = stream.socket
        self._known = known
        self._write = write
        self._waiting = trio.CancelScope()
        self._answered: trio.Event | None = None
        self._unsent = b""
        self._is_busy = self._is_gone = self._is_ending = False
        self.idle_since_s = -math.inf

    async def until_other(self) -> bytes | None:
        """Serve plain requests until something else comes: its first bytes, empty at the end; None = close the connection."""
        if self._socket.fileno() < 0:
            return None  # closed while the answer before was written
        self.idle_since_s = trio.current_time()
        while True:
            if self._is_busy:
                self._answered = trio.Event()
                await self._answered.wait()
            if self._unsent:
                unsent, self._unsent = self._unsent, b""
                if not await self._write(unsent):
                    return None
                self.idle_since_s = trio.current_time()
            deadline_s = self.idle_since_s + KEEP_ALIVE_S
            if self._is_ending or self._is_gone or trio.current_time() >= deadline_s:
                return None
            # The scope is not moved with each answer: at its end it is seen whether the silence was long enough.
            with trio.CancelScope(deadline=deadline_s) as self._waiting:
                if (other := await self._serve()) is not None:
                    return other

    async def _serve(self) -> bytes | None:
        """As `until_other`; None also when there is something to be done before the next bytes are read."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if self._is_busy or self._unsent or self._is_ending or self._is_gone:
                return None
            try:
                data = os.read(self._socket.fileno(), READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""
            if not self._begin(data):
                return data

    def _begin(self, data: bytes) -> bool:
        """Whether this is one request, plain and whole, and taken."""
        end = data.find(HEAD_END, 0, PLAIN_HEAD_MAX_BYTES) + len(HEAD_END)
        if self._known is None or end < len(HEAD_END) or (found := self._known(data[:end])) is None:
            return False
        body_bytes, begin = found
        if len(data) != end + body_bytes:
            return False
        self._is_busy = True
        is_taken = begin(data[end:], self._answer)
        if not is_taken:
            self._is_busy = False
        return is_taken

    def _answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        data = answer_of(status, headers, body, is_last=self._is_ending)
        try:
            self._unsent = data[os.write(self._socket.fileno(), data) :]
        except BlockingIOError:
            self._unsent = data
        except OSError:  # also when the connection is closed: then the socket has no descriptor
            self._is_gone = True
        self._is_busy = False
        self.idle_since_s = trio.current_time()
        if self._answered is not None:
            self._answered.set()
            self._answered = None
        if self._unsent or self._is_gone:
            self._waiting.cancel()

    def end_when_idle(self) -> None:
        """Close: at once between requests, else after the answer."""
        self._is_ending = True
        self._waiting.cancel()


def answer_of(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, is_last: bool) -> bytes:
    """An answer on the wire, the bytes that h11 makes of it (RFC 9112, 4); ``headers`` have the length of the body."""
    fields = b"".join([b"%b: %b\r\n" % field for field in headers])
    last = b"Connection: close\r\n" if is_last else b""
    return b"HTTP/1.1 %d \r\n%bdate: %b\r\n%b\r\n%b" % (status, fields, http_date(), last, body)


_date = (-math.inf, b"")


def http_date() -> bytes:
    """Now, as the header ``date`` has it (RFC 9110, 6.6.1); formatted once a second."""
    global _date  # noqa: PLW0603  a cache
    now_s = trio.current_time()
    if now_s - _date[0] >= 1.0:
        _date = now_s, formatdate(usegmt=True).encode("ascii")
    return _date[1]
