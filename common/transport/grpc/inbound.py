"""The receiving half of one call: DATA cut into messages.

A message's length is checked at its prefix, before room is made for it: grpclib would believe up to 4 GiB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from common.transport.link.gate import Gate
from common.transport.stream import MessageTooLarge, MessageUnreadable

PREFIX: Final = struct.Struct("!BI")  # compressed?, length
# Bytes already handed out may stay at the front of the buffer up to here, before the rest is moved down.
_SLACK_BYTES = 64 * 1024


class InboundMessages:
    """The DATA of one stream, cut into messages.

    Credit goes back to the sender for what the reader takes; and, while the reader waits for a message, for
    the part of it that has come, or a message larger than the window would never be whole.
    """

    def __init__(self, acknowledge: Callable[[int], None], message_max_bytes: int, arrived: Gate) -> None:
        self._acknowledge = acknowledge
        self._message_max_bytes = message_max_bytes
        self._arrived = arrived
        self._data = bytearray()
        self._taken = 0  # bytes at the front of _data that were handed out
        self._unacknowledged = 0
        self._wanted = 0  # bytes the waiting reader needs in _data; 0: nobody waits
        self.is_ended = False

    def add(self, data: bytes, ack_size: int) -> None:
        held = len(self._data) - self._taken
        self._data += data
        self._unacknowledged += ack_size
        if held < self._wanted:
            self._return_credit(self._unacknowledged)
        self._arrived.set()

    def eof(self) -> None:
        self.is_ended = True
        self._arrived.set()

    def unacked_size(self) -> int:
        return self._unacknowledged

    def take(self) -> bytes | None:
        """The next whole message, or None. Raises MessageTooLarge, MessageUnreadable (and will again)."""
        held = len(self._data) - self._taken
        if held < PREFIX.size:
            self._want(PREFIX.size, held)
            return None
        compressed, length = PREFIX.unpack_from(self._data, self._taken)
        if compressed:
            raise MessageUnreadable(
                "link.message_compressed", "compressed messages are not supported", "switch compression off"
            )
        if length > self._message_max_bytes:
            raise MessageTooLarge(length, self._message_max_bytes)
        size = PREFIX.size + length
        if held < size:
            self._want(size, held)
            return None
        start = self._taken + PREFIX.size
        message = bytes(memoryview(self._data)[start : start + length])
        self._taken += size
        self._wanted = 0
        if held == size:
            self._data = bytearray()
            self._taken = 0
            self._return_credit(self._unacknowledged)
        else:
            if self._taken >= _SLACK_BYTES:
                del self._data[: self._taken]
                self._taken = 0
            self._return_credit(min(size, self._unacknowledged))
        return message

    def _want(self, size: int, held: int) -> None:
        if self.is_ended and held:
            raise MessageUnreadable("link.message_truncated", "the stream ended in the middle of a message")
        self._wanted = size
        self._return_credit(self._unacknowledged)

    def _return_credit(self, size: int) -> None:
        self._unacknowledged -= size
        self._acknowledge(size)
