"""Small messages to bytes and back without making a generated message: an object of those costs 30 to 150 us to make.

A message with one event is what a calm link carries most, and there that cost was half of everything; up to a few
hundred events it is the larger part. What is read here has the attributes of the generated class, by whose own
description of its fields it is read and written. Larger messages are better off with the codec in Rust, which does
not care how many events there are. Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import betterproto

from common.private.betterproto import MessageField, fields_of
from common.transport.codec.framing import length_delimited, varint

SMALL_BYTES = 48 * 1024
Value: TypeAlias = Any
"""What a field holds: which of int, float, bool, str, bytes or a list of them is the field's own affair."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_UNSIGNED = 0xFFFF_FFFF_FFFF_FFFF
_STRIDE = 16
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
_NUMBERS = {betterproto.TYPE_INT64, betterproto.TYPE_INT32, betterproto.TYPE_UINT32, betterproto.TYPE_BOOL}
_COLUMN_KINDS = _NUMBERS - {betterproto.TYPE_BOOL} | {betterproto.TYPE_STRING, betterproto.TYPE_BYTES}
_ONE_BYTE_FIELDS = 16


@dataclass(frozen=True, slots=True)
class _Shape:
    """The fields of a message; ``columns`` are those with an entry an event, by the one byte that their key takes.

    The rest are names of fields that begin with a list of their own, and fields that hold another message.
    """

    by_number: dict[int, MessageField]
    columns: dict[int, MessageField]
    nothing: dict[str, Any]
    lists: tuple[str, ...]
    embedding: tuple[MessageField, ...]


@lru_cache
def _shape(message: type[betterproto.Message]) -> _Shape:
    by_number = {field.number: field for field in fields_of(message)}
    fields = by_number.values()
    return _Shape(
        by_number,
        {
            field.number << 3 | _DELIMITED: field
            for field in fields
            if field.repeated and field.kind in _COLUMN_KINDS and field.number < _ONE_BYTE_FIELDS
        },
        {field.name: _NOTHING[field.kind] for field in fields if not field.repeated},
        tuple(field.name for field in fields if field.repeated),
        tuple(field for field in fields if field.message is not None),
    )


def read(message: type[betterproto.Message], data: bytes) -> SimpleNamespace:
    """The fields of a message as attributes; ``one_of`` names the one that is set and its content, or ('', None).

    Raises:
        ValueError: it is not this message (UnicodeDecodeError included).
    """
    shape = _shape(message)
    fields, columns, values = shape.by_number, shape.columns, shape.nothing.copy()
    for name in shape.lists:
        values[name] = []
    chosen = ""
    at, end = 0, len(data)
    while at < end:
        field = columns.get(data[at])
        if field is not None:
            at = _column(data, at, end, field.kind, values[field.name])
            continue
        key, start = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not number:
            raise ValueError("field number 0")
        field = fields.get(number)
        value, at = _content(data, start, wire_type)
        if field is None:
            continue
        name = field.name
        if field.group:
            if chosen and chosen != name:
                values[chosen] = _NOTHING[betterproto.TYPE_MESSAGE]
            chosen = name
        if field.kind in _NUMBERS:
            found = _numbers(field.kind, wire_type, value)
            if field.repeated:
                values[name] += found
            elif found:
                values[name] = found[-1]
        elif field.kind == betterproto.TYPE_DOUBLE:
            if wire_type != _FIXED64:
                raise ValueError(f"field {number} has wire type {wire_type}")
            [values[name]] = struct.unpack("<d", value)
        elif wire_type != _DELIMITED:
            raise ValueError(f"field {number} has wire type {wire_type}")
        elif field.kind == betterproto.TYPE_MESSAGE:
            # Joined bytes of a message are the message that its parts make together.
            values[name] = values[name] + [value] if field.repeated else values[name] + value
        else:
            found_one = value.decode() if field.kind == betterproto.TYPE_STRING else value
            if field.repeated:
                values[name].append(found_one)
            else:
                values[name] = found_one
    for field in shape.embedding:
        if field.message is not None and (not field.group or field.name == chosen):
            inner = values[field.name]
            values[field.name] = (
                [read(field.message, each) for each in inner] if field.repeated else read(field.message, inner)
            )
    return SimpleNamespace(one_of=(chosen, values.get(chosen)), **values)


_NOTHING: dict[str, Any] = {
    betterproto.TYPE_STRING: "",
    betterproto.TYPE_BYTES: b"",
    betterproto.TYPE_MESSAGE: b"",
    betterproto.TYPE_BOOL: False,
    betterproto.TYPE_DOUBLE: 0.0,
    betterproto.TYPE_INT64: 0,
    betterproto.TYPE_INT32: 0,
    betterproto.TYPE_UINT32: 0,
}


def _content(data: bytes, at: int, wire_type: int) -> tuple[Any, int]:
    """What an entry holds, an unsigned integer or bytes, and where it ends."""
    if wire_type == _VARINT:
        return _varint(data, at)
    if wire_type == _DELIMITED:
        size, at = _varint(data, at)
    elif wire_type in _WIDTH:
        size = _WIDTH[wire_type]
    else:
        raise ValueError(f"wire type {wire_type}")
    if at + size > len(data):
        raise ValueError("it ends too early")
    return data[at : at + size], at + size


def _column(data: bytes, at: int, end: int, kind: str, column: list[Any]) -> int:
    """Read what follows at ``at`` with its key of one byte: texts or bytes, or packed numbers; returns its end."""
    key, is_text, is_packed = data[at], kind == betterproto.TYPE_STRING, kind in _NUMBERS
    # Columns often say the same again and again: that is looked for as long as it is found.
    read_counts = True
    while at < end and data[at] == key:
        start = at + 2
        size = data[at + 1] if start <= end else 0x80
        if size < 0x80:
            pass
        elif start < end and data[start] < 0x80:  # two bytes, as most payloads need: not worth a call
            size, start = size - 0x80 + (data[start] << 7), start + 1
        else:
            size, start = _varint(data, at + 1)
        stop = start + size
        if stop > end:
            raise ValueError("it ends too early")
        content = data[start:stop]
        if is_packed:
            column += content if content.isascii() else _numbers(kind, _DELIMITED, content)
            return stop
        value: Any = content.decode() if is_text else content
        column.append(value)
        if read_counts:
            entry, begin = data[at:stop], stop
            while data.startswith(entry, stop):
                fits = stop + _STRIDE * len(entry) <= end and data.startswith(entry * _STRIDE, stop)
                times = _STRIDE if fits else 1
                column += [value] * times
                stop += times * len(entry)
            read_counts = stop > begin
        at = stop
    return at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ValueError("it ends too early")
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while shift < 70:
        at += 1
        if at >= len(data):
            raise ValueError("it ends too early")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UNSIGNED, at + 1
        shift += 7
    raise ValueError("a number of more than ten bytes")


def _numbers(kind: str, wire_type: int, value: Value) -> list[Any]:
    """One number, or a packed column of them."""
    if wire_type == _VARINT:
        return [_number(kind, value)]
    if wire_type != _DELIMITED:
        raise ValueError(f"a number of wire type {wire_type}")
    if value.isascii() and kind != betterproto.TYPE_BOOL:  # each has one byte
        return list(value)
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_number(kind, number))
    return numbers


def _number(kind: str, unsigned: int) -> int | bool:
    if kind == betterproto.TYPE_INT64:
        return unsigned - (1 << 64) if unsigned >> 63 else unsigned
    if kind == betterproto.TYPE_BOOL:
        return unsigned != 0
    low = unsigned & 0xFFFF_FFFF
    return low - (1 << 32) if kind == betterproto.TYPE_INT32 and low >> 31 else low


def _packed(numbers: list[int]) -> bytes:
    """A column of numbers. Neighbours differ in their low bits, so what is above those is mostly known already."""
    out = bytearray()
    for number in numbers:
        if 0 <= number < 0x80:
            out.append(number)
        else:
            high = number >> 7 & _UNSIGNED >> 7
            out.append(number & 0x7F | 0x80)
            if high < 0x80:
                out.append(high)
            else:
                out.append(high & 0x7F | 0x80)
                out += _high_groups(high >> 7)
    return bytes(out)


_high_groups = lru_cache(1_024)(varint)


def write(message: type[betterproto.Message], **values: Value) -> bytes:
    """The bytes of a message with these fields; embedded messages are given as bytes already written."""
    parts = []
    for field in _shape(message).by_number.values():
        value = values.get(field.name)
        if not value and (value is None or not field.group):  # an empty member of a oneof is still the one that is set
            continue
        if field.kind in _NUMBERS:
            if field.repeated:
                is_short = min(value) >= 0 and max(value) < 0x80
                parts.append(length_delimited(field.number, bytes(value) if is_short else _packed(value)))
            else:
                parts.append(varint(field.number << 3 | _VARINT) + varint(int(value) & _UNSIGNED))
        elif field.kind == betterproto.TYPE_DOUBLE:
            parts.append(varint(field.number << 3 | _FIXED64) + struct.pack("<d", value))
        else:
            as_bytes: Callable[[Any], bytes] = str.encode if field.kind == betterproto.TYPE_STRING else bytes
            entries = value if field.repeated else (value,)
            parts += [length_delimited(field.number, as_bytes(entry)) for entry in entries]
    return b"".join(parts)
