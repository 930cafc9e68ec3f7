"""Generated from protos/backhaul/v1/intake.proto by `make proto`: never edit.

Slotted classes that write themselves and are read with `decode`, which raises MessageUnreadable.
"""

from __future__ import annotations

from typing import Final

from common.transport.codec.framing import (
    delimited,
    has_same_fields,
    number,
    numbers,
    prefix,
    read_blob,
    read_bool,
    read_int64,
    read_int64s,
    read_key,
    read_text,
    read_texts,
    shown,
    skip,
    texts,
    undecoded,
    unfit,
)

_APPEND_REQUEST_KEYS: Final = frozenset({10, 18, 26, 34})
APPEND_REQUEST_EVENTS: Final = b"\x0a"


class AppendRequest:
    """All events are stored or none."""

    __slots__ = (
        "events",
        "expected_persistence_id",
        "expected_seq_nr",
        "idempotency_key",
    )

    def __init__(
        self,
        events: bytes = b"",
        expected_persistence_id: list[str] | None = None,
        expected_seq_nr: list[int] | None = None,
        idempotency_key: str = "",
    ) -> None:
        self.events = events
        self.expected_persistence_id = [] if expected_persistence_id is None else expected_persistence_id
        self.expected_seq_nr = [] if expected_seq_nr is None else expected_seq_nr
        self.idempotency_key = idempotency_key

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.events:
            out += (prefix(b"\x0a", len(self.events)), self.events)
        if self.expected_persistence_id:
            out.append(texts(b"\x12", self.expected_persistence_id))
        if self.expected_seq_nr:
            out.append(numbers(b"\x1a", self.expected_seq_nr))
        if self.idempotency_key:
            out.append(delimited(b"\x22", self.idempotency_key.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> AppendRequest:
        """The message that these bytes are; fields that it does not know are left out."""
        events: list[bytes] = []
        expected_persistence_id: list[str] = []
        expected_seq_nr: list[int] = []
        idempotency_key = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    part, at = read_blob(data, at + 1)
                    events.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    at = read_texts(data, at, expected_persistence_id)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    at = read_int64s(data, at + 1, expected_seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    idempotency_key, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _APPEND_REQUEST_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 3 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        expected_seq_nr.append(one_int64)
                    elif number in {1, 2, 3, 4}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("AppendRequest", error) from error
        return AppendRequest(b"".join(events), expected_persistence_id, expected_seq_nr, idempotency_key)


_APPEND_REPLY_KEYS: Final = frozenset({8, 18, 24, 34, 42, 50})


class AppendReply:
    """The message AppendReply."""

    __slots__ = (
        "first_position",
        "seq_nr",
        "repeated_append",
        "error_code",
        "error_message",
        "error_hint",
    )

    def __init__(
        self,
        first_position: int = 0,
        seq_nr: list[int] | None = None,
        repeated_append: bool = False,
        error_code: str = "",
        error_message: str = "",
        error_hint: str = "",
    ) -> None:
        self.first_position = first_position
        self.seq_nr = [] if seq_nr is None else seq_nr
        self.repeated_append = repeated_append
        self.error_code = error_code
        self.error_message = error_message
        self.error_hint = error_hint

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.first_position:
            out.append(number(b"\x08", self.first_position))
        if self.seq_nr:
            out.append(numbers(b"\x12", self.seq_nr))
        if self.repeated_append:
            out.append(b"\x18\x01")
        if self.error_code:
            out.append(delimited(b"\x22", self.error_code.encode()))
        if self.error_message:
            out.append(delimited(b"\x2a", self.error_message.encode()))
        if self.error_hint:
            out.append(delimited(b"\x32", self.error_hint.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> AppendReply:
        """The message that these bytes are; fields that it does not know are left out."""
        first_position = 0
        seq_nr: list[int] = []
        repeated_append = False
        error_code = ""
        error_message = ""
        error_hint = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    first_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    at = read_int64s(data, at + 1, seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    repeated_append, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    error_code, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    error_message, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    error_hint, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _APPEND_REPLY_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 2 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        seq_nr.append(one_int64)
                    elif number in {1, 2, 3, 4, 5, 6}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("AppendReply", error) from error
        return AppendReply(first_position, seq_nr, repeated_append, error_code, error_message, error_hint)
