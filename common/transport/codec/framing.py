"""Protobuf's wire format: what generated messages are read and written by (``codec/wire``, ``.ci/wire_messages.py``).

A message in one of our streams mostly holds one event, or columns in which neighbours look alike: a number differs from
the one before in its low bits, texts and lengths repeat. Both are quick here, the rest is right. Reading trusts nothing:
an index beyond the end, a text that is not UTF-8 and a wire type that does not fit raise IndexError or ValueError, which
a generated ``decode`` makes a `MessageUnreadable`; nothing is allocated that is not there as bytes.
Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from common.transport.stream import MessageUnreadable

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
_UNSIGNED = 0xFFFF_FFFF_FFFF_FFFF
_LOW_BITS = 14
_VARINT_BYTES = 10
_HIGH_MASK = _UNSIGNED >> _LOW_BITS
_STRIDE = 16
_DOUBLE = struct.Struct("<d")
_ONE_BYTE = [bytes((number,)) for number in range(0x80)]


def malformed(what: str) -> MessageUnreadable:
    """The refusal of bytes that are not what they should be."""
    return MessageUnreadable("link.malformed", what, "speak protos/backhaul/v1; check that both sides are Backhaul")


def undecoded(message: str, error: Exception) -> MessageUnreadable:
    """The refusal of what does not decode as ``message``."""
    return malformed(f"{message} does not decode: {type(error).__name__}")


# -- what every message can -------------------------------------------------------------------------------------------
def has_same_fields(message: object, other: object) -> bool:
    """Equality of slotted messages: one class, equal fields."""
    names: tuple[str, ...] = type(message).__slots__  # type: ignore[attr-defined]
    return type(other) is type(message) and all(getattr(message, name) == getattr(other, name) for name in names)


def shown(message: object) -> str:
    """A message with its fields, as it is made; for failing tests and debuggers."""
    names: tuple[str, ...] = type(message).__slots__  # type: ignore[attr-defined]
    fields = ", ".join(f"{name}={getattr(message, name)!r}" for name in names)
    return f"{type(message).__name__}({fields})"


# -- writing -----------------------------------------------------------------------------------------------------------
@lru_cache(1_024)
def _long_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint(number: int) -> bytes:
    """An unsigned number in base 128, low group first."""
    return _ONE_BYTE[number] if number < 0x80 else _long_varint(number)


def number(key: bytes, value: int) -> bytes:
    """A field with one number; negative ones take ten bytes."""
    if 0 <= value < 0x80:
        return key + _ONE_BYTE[value]
    high = value >> _LOW_BITS & _HIGH_MASK
    if not high:
        return key + bytes((value & 0x7F | 0x80, value >> 7))
    # Times and positions that are written one after the other share what is above their low bits.
    return key + bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80)) + varint(high)


def double(key: bytes, value: float) -> bytes:
    """A field with a floating-point number."""
    return key + _DOUBLE.pack(value)


def prefix(key: bytes, size: int) -> bytes:
    """What stands before so many bytes of a text, bytes or a message."""
    return key + (_ONE_BYTE[size] if size < 0x80 else _long_varint(size))


def delimited(key: bytes, content: bytes) -> bytes:
    """A field with a text, bytes or a message."""
    size = len(content)
    return key + (_ONE_BYTE[size] if size < 0x80 else _long_varint(size)) + content


def numbers(key: bytes, column: Sequence[int]) -> bytes:
    """A packed column of numbers, at least one."""
    first = column[0]
    if len(column) == 1:
        value = number(b"", first)
        return key + _ONE_BYTE[len(value)] + value
    if 0 <= first < 0x80:
        try:
            short = bytes(column)
        except ValueError:  # one of them needs more than a byte
            pass
        else:
            if short.isascii():
                return delimited(key, short)
    return delimited(key, _packed(column))


def zeros(key: bytes, n: int) -> bytes:
    """A packed column of ``n`` zeros."""
    return delimited(key, bytes(n))


def _packed(column: Sequence[int]) -> bytes:
    out = bytearray()
    known, tail = 0, b""
    for value in column:
        if 0 <= value < 0x80:
            out.append(value)
            continue
        out.append(value & 0x7F | 0x80)
        high = value >> _LOW_BITS & _HIGH_MASK
        if not high:
            out.append(value >> 7)
            continue
        if high != known:
            known, tail = high, varint(high)
        out.append(value >> 7 & 0x7F | 0x80)
        out += tail
    return bytes(out)


def texts(key: bytes, column: Sequence[str]) -> bytes:
    """A column of texts, at least one."""
    first, n = column[0], len(column)
    if n == 1:
        return delimited(key, first.encode())
    if first == column[-1] and column.count(first) == n:
        return delimited(key, first.encode()) * n
    return blobs(key, [text.encode() for text in column])


def blobs(key: bytes, column: Sequence[bytes]) -> bytes:
    """A column of bytes, at least one."""
    if len(column) == 1:
        return delimited(key, column[0])
    prefixes = {length: key + varint(length) for length in set(map(len, column))}
    return b"".join(chain.from_iterable(zip(map(prefixes.__getitem__, map(len, column)), column, strict=True)))


# -- reading -----------------------------------------------------------------------------------------------------------
def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, and where it ends."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while shift < 70:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UNSIGNED, at + 1
        shift += 7
    raise ValueError("a number of more than ten bytes")


def read_int64(data: bytes, at: int) -> tuple[int, int]:
    """The signed number at ``at``, and where it ends."""
    value, at = read_varint(data, at)
    return (value - (1 << 64) if value >> 63 else value), at


def read_int32(data: bytes, at: int) -> tuple[int, int]:
    """As ``read_int64``, of 32 bits."""
    value, at = read_varint(data, at)
    value &= 0xFFFF_FFFF
    return (value - (1 << 32) if value >> 31 else value), at


def read_uint32(data: bytes, at: int) -> tuple[int, int]:
    """As ``read_varint``, of 32 bits."""
    value, at = read_varint(data, at)
    return value & 0xFFFF_FFFF, at


def read_bool(data: bytes, at: int) -> tuple[bool, int]:
    """The truth value at ``at``, and where it ends."""
    value, at = read_varint(data, at)
    return value != 0, at


def read_double(data: bytes, at: int) -> tuple[float, int]:
    """The floating-point number at ``at``, and where it ends."""
    stop = at + _DOUBLE.size
    if stop > len(data):
        raise ValueError("it ends too early")
    value: float = _DOUBLE.unpack_from(data, at)[0]
    return value, stop


def read_blob(data: bytes, at: int) -> tuple[bytes, int]:
    """The content whose length is at ``at``, and where it ends."""
    size = data[at]
    if size < 0x80:
        at += 1
    else:
        size, at = read_varint(data, at)
    stop = at + size
    if stop > len(data):
        raise ValueError("it ends too early")
    return data[at:stop], stop


def read_text(data: bytes, at: int) -> tuple[str, int]:
    """As ``read_blob``."""
    content, at = read_blob(data, at)
    return content.decode(), at


def read_int64s(data: bytes, at: int, column: list[int]) -> int:
    """Append the packed numbers whose length is at ``at``; returns where they end."""
    if data[at] == 1 and data[at + 1] < 0x80:
        column.append(data[at + 1])
        return at + 2
    content, at = read_blob(data, at)
    if content.isascii():  # each has one byte
        column += content
    elif len(content) > _VARINT_BYTES or not _unpack_one(content, column):
        _unpack(content, column)
    return at


def read_int32s(data: bytes, at: int, column: list[int]) -> int:
    """As ``read_int64s``, of 32 bits."""
    content, at = read_blob(data, at)
    if content.isascii():
        column += content
        return at
    inner, end = 0, len(content)
    while inner < end:
        value, inner = read_int32(content, inner)
        column.append(value)
    return at


def _unpack_one(content: bytes, column: list[int]) -> bool:
    """Append the one number that this may be: what is above its two low groups is mostly known already."""
    if content[0] < 0x80 or content[1] < 0x80:
        return False
    high = _whole_varint(content[2:])
    if high is None:
        return False
    value = (content[0] & 0x7F | (content[1] & 0x7F) << 7 | high << _LOW_BITS) & _UNSIGNED
    column.append(value - (1 << 64) if value >> 63 else value)
    return True


@lru_cache(1_024)
def _whole_varint(content: bytes) -> int | None:
    value, stop = read_varint(content, 0)
    return value if stop == len(content) else None


def _unpack(content: bytes, column: list[int]) -> None:
    """What is above a number's two low groups is compared with that of the one before, and read anew if it differs."""
    at, end = 0, len(content)
    known, tail, span = 0, b"", 0
    while at < end:
        first = content[at]
        if first < 0x80:
            column.append(first)
            at += 1
            continue
        second = content[at + 1]
        if second < 0x80:
            column.append(first & 0x7F | second << 7)
            at += 2
            continue
        if not tail or not content.startswith(tail, at + 2):
            known, stop = read_varint(content, at + 2)
            if stop - at > _VARINT_BYTES:
                raise ValueError("a number of more than ten bytes")
            tail = content[at + 2 : stop]
            span = stop - at
        value = (first & 0x7F | (second & 0x7F) << 7 | known << _LOW_BITS) & _UNSIGNED
        column.append(value - (1 << 64) if value >> 63 else value)
        at += span


def read_texts(data: bytes, at: int, column: list[str]) -> int:
    """Append the texts that begin with the key at ``at``, as long as it repeats; returns where they end."""
    key, end, looks = data[at], len(data), True
    while True:
        start, size = at + 2, data[at + 1]
        if size >= 0x80:
            if data[start] < 0x80:  # two bytes, as most payloads need: not worth a call
                start, size = start + 1, size & 0x7F | data[start] << 7
            else:
                size, start = read_varint(data, at + 1)
        stop = start + size
        if stop > end:
            raise ValueError("it ends too early")
        text = data[start:stop].decode()
        column.append(text)
        if looks and stop < end:
            times, after = _repeats(data, at, stop)
            column += [text] * times
            stop, looks = after, times > 0
        if stop == end or data[stop] != key:
            return stop
        at = stop


def read_blobs(data: bytes, at: int, column: list[bytes]) -> int:
    """As ``read_texts``."""
    key, end, looks = data[at], len(data), True
    while True:
        start, size = at + 2, data[at + 1]
        if size >= 0x80:
            if data[start] < 0x80:  # two bytes, as most payloads need: not worth a call
                start, size = start + 1, size & 0x7F | data[start] << 7
            else:
                size, start = read_varint(data, at + 1)
        stop = start + size
        if stop > end:
            raise ValueError("it ends too early")
        content = data[start:stop]
        column.append(content)
        if looks and stop < end:
            times, after = _repeats(data, at, stop)
            column += [content] * times
            stop, looks = after, times > 0
        if stop == end or data[stop] != key:
            return stop
        at = stop


def _repeats(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """How often the entry between ``at`` and ``stop`` follows itself, and where that ends."""
    if data[stop] != data[at]:
        return 0, stop
    entry = data[at:stop]
    size, times = len(entry), 0
    many: bytes | None = None
    while data.startswith(entry, stop):
        times, stop = times + 1, stop + size
        if times == _STRIDE:
            many = entry * _STRIDE
            while data.startswith(many, stop):
                times, stop = times + _STRIDE, stop + size * _STRIDE
    return times, stop


def read_key(data: bytes, at: int) -> tuple[int, int, int]:
    """Field number, wire type, and where the content begins."""
    key, at = read_varint(data, at)
    if key < 8:
        raise ValueError("field number 0")
    return key >> 3, key & 7, at


def skip(data: bytes, at: int, wire_type: int) -> int:
    """Where the content of an unknown field ends."""
    if wire_type == VARINT:
        return read_varint(data, at)[1]
    if wire_type == DELIMITED:
        size, at = read_varint(data, at)
        at += size
    elif wire_type == FIXED64:
        at += 8
    elif wire_type == FIXED32:
        at += 4
    else:
        raise ValueError(f"wire type {wire_type}")
    if at > len(data):
        raise ValueError("it ends too early")
    return at


def unfit(field: int, wire_type: int) -> ValueError:
    """A known field with the content of another kind."""
    return ValueError(f"field {field} has wire type {wire_type}")


def read_one_of(data: bytes, members: int) -> tuple[int, bytes]:
    """Number and content of the message that is set of fields 1 to ``members``; 0 when none is.

    The last one counts; parts of one member are joined.
    """
    chosen, at, end = 0, 0, len(data)
    parts: list[bytes] = []
    while at < end:
        key = data[at]
        field, wire_type, start = (key >> 3, key & 7, at + 1) if 8 <= key < 0x80 else read_key(data, at)
        if field > members:
            at = skip(data, start, wire_type)
            continue
        if wire_type != DELIMITED:
            raise unfit(field, wire_type)
        part, at = read_blob(data, start)
        if field != chosen:
            chosen, parts = field, []
        parts.append(part)
    return chosen, b"".join(parts)
