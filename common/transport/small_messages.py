"""Small messages to bytes and back without making a generated message: an object of those costs 30 to 100 us to make.

A message with one event is what a calm link carries most, and there that cost was half of everything. What is read
here has the attributes of the generated class, by whose own description of its fields it is read and written. Larger
messages are better off with the codec in Rust, which does not care how many events there are. Source:
protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import betterproto

from common.transport.wire_format import length_delimited, varint

SMALL_BYTES = 8 * 1024
Value: TypeAlias = Any
"""What a field holds: which of int, float, bool, str, bytes or a list of them is the field's own affair."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
_NUMBERS = {betterproto.TYPE_INT64, betterproto.TYPE_INT32, betterproto.TYPE_UINT32, betterproto.TYPE_BOOL}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    number: int
    kind: str
    repeated: bool
    group: str | None
    message: type[betterproto.Message] | None


@lru_cache
def _fields(message: type[betterproto.Message]) -> dict[int, _Field]:
    about: Any = cast(Any, message)._betterproto
    return {
        meta.number: _Field(
            name,
            meta.number,
            meta.proto_type,
            about.default_gen[name] is list,
            meta.group,
            about.cls_by_field.get(name) if meta.proto_type == betterproto.TYPE_MESSAGE else None,
        )
        for name, meta in about.meta_by_field_name.items()
    }


def read(message: type[betterproto.Message], data: bytes) -> SimpleNamespace:
    """The fields of a message as attributes; ``one_of`` names the one that is set and its content, or ('', None).

    Raises:
        ValueError: it is not this message (UnicodeDecodeError included).
    """
    fields = _fields(message)
    values: dict[str, Any] = {field.name: [] if field.repeated else _NOTHING[field.kind] for field in fields.values()}
    chosen = ""
    for number, wire_type, value in _entries(data):
        field = fields.get(number)
        if field is None:
            continue
        name = field.name
        if field.group:
            if chosen and chosen != name:
                values[chosen] = _NOTHING[betterproto.TYPE_MESSAGE]
            chosen = name
        if field.kind in _NUMBERS:
            found = [_number(field.kind, each) for each in _integers(wire_type, value)]
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
    for field in fields.values():
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


def _entries(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Field number, wire type and content: an unsigned integer or bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not number:
            raise ValueError("field number 0")
        if wire_type == _VARINT:
            value, at = _varint(data, at)
            yield number, wire_type, value
            continue
        if wire_type == _DELIMITED:
            size, at = _varint(data, at)
        elif wire_type in _WIDTH:
            size = _WIDTH[wire_type]
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + size > end:
            raise ValueError("it ends too early")
        yield number, wire_type, data[at : at + size]
        at += size


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
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + 1
        shift += 7
    raise ValueError("a number of more than ten bytes")


def _integers(wire_type: int, value: Value) -> Iterable[int]:
    """One number, or a packed column of them."""
    if wire_type == _VARINT:
        return (value,)
    if wire_type != _DELIMITED:
        raise ValueError(f"a number of wire type {wire_type}")
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _number(kind: str, unsigned: int) -> int | bool:
    if kind == betterproto.TYPE_INT64:
        return unsigned - (1 << 64) if unsigned >> 63 else unsigned
    if kind == betterproto.TYPE_BOOL:
        return unsigned != 0
    low = unsigned & 0xFFFF_FFFF
    return low - (1 << 32) if kind == betterproto.TYPE_INT32 and low >> 31 else low


def write(message: type[betterproto.Message], **values: Value) -> bytes:
    """The bytes of a message with these fields; embedded messages are given as bytes already written."""
    parts = []
    for field in _fields(message).values():
        value = values.get(field.name)
        if not value and (value is None or not field.group):  # an empty member of a oneof is still the one that is set
            continue
        if field.kind in _NUMBERS:
            if field.repeated:
                packed = b"".join([varint(each & 0xFFFF_FFFF_FFFF_FFFF) for each in value])
                parts.append(length_delimited(field.number, packed))
            else:
                parts.append(varint(field.number << 3 | _VARINT) + varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF))
        elif field.kind == betterproto.TYPE_DOUBLE:
            parts.append(varint(field.number << 3 | _FIXED64) + struct.pack("<d", value))
        else:
            as_bytes: Callable[[Any], bytes] = str.encode if field.kind == betterproto.TYPE_STRING else bytes
            entries = value if field.repeated else (value,)
            parts += [length_delimited(field.number, as_bytes(entry)) for entry in entries]
    return b"".join(parts)
