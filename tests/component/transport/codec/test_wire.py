"""Generated messages: byte for byte those of the reference, and damaged bytes are refused in one way."""

from __future__ import annotations

import inspect
import tracemalloc
from dataclasses import fields
from typing import Any, Protocol

import betterproto
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.generated.backhaul import v1 as reference
from common.transport.codec import framing
from common.transport.codec.wire import events, intake, push, subscribe
from common.transport.stream import MessageUnreadable

MESSAGES: dict[str, Any] = {
    name: value
    for module in (events, intake, push, subscribe)
    for name, value in vars(module).items()
    if isinstance(value, type) and value.__module__ == module.__name__
}
STREAMED = ["FromEdge", "FromCloud", "FromConsumer", "FromSource"]
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
# Near each other, as times and positions are.
NEAR = st.integers(0, 2**62).flatmap(lambda base: st.integers(base, base + 300))
TEXT = st.text(max_size=5)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    betterproto.TYPE_INT64: INT64 | NEAR | st.integers(0, 200),
    betterproto.TYPE_INT32: INT32 | st.integers(0, 200),
    betterproto.TYPE_UINT32: st.integers(0, 2**32 - 1),
    betterproto.TYPE_BOOL: st.booleans(),
    betterproto.TYPE_DOUBLE: st.floats(allow_nan=False).filter(lambda value: value != 0.0),
    betterproto.TYPE_STRING: TEXT | st.text("a", min_size=120, max_size=300),
    betterproto.TYPE_BYTES: st.binary(max_size=9) | st.binary(min_size=120, max_size=300),
}
KINDS = st.sampled_from(sorted(MESSAGES))


class Readable(Protocol):
    """What the test of memory needs of a message class."""

    @staticmethod
    def decode(data: bytes) -> object: ...


def column(kind: str) -> st.SearchStrategy[list[Any]]:
    """Values one by one, near each other, or the same again and again, as columns often are."""
    values = VALUES[kind]
    runs = st.lists(st.tuples(values, st.integers(1, 40)), max_size=3).map(
        lambda found: [value for value, times in found for _ in range(times)]
    )
    if kind != betterproto.TYPE_INT64:
        return st.lists(values, max_size=4) | runs
    close = NEAR.flatmap(lambda base: st.lists(st.integers(base, base + 20_000), max_size=5))
    return st.lists(values, max_size=4) | runs | close


def kinds_of(message: type) -> dict[str, str]:
    """The types of a message's fields, as its class has them."""
    parameters = list(inspect.signature(message).parameters.values())
    return {parameter.name: parameter.annotation.removesuffix(" | None") for parameter in parameters}


@st.composite
def pairs(draw: st.DrawFn, name: str) -> tuple[Any, betterproto.Message]:
    """A message of ours and the reference with the same content. What has its default value is not given."""
    mine, theirs = MESSAGES[name](), getattr(reference, name)
    about = {field.name: field.metadata["betterproto"] for field in fields(theirs)}
    if name in STREAMED:
        chosen = draw(st.sampled_from(sorted(about)))
        mine.message, content = draw(pairs(_class_name(theirs, chosen)))
        return mine, theirs(**{chosen: content})
    given: dict[str, Any] = {}
    for field, kind in kinds_of(MESSAGES[name]).items():
        meta = about[field]
        repeated = kind.startswith("list[")
        if draw(st.booleans()):
            continue
        if meta.proto_type != betterproto.TYPE_MESSAGE:
            value = draw(column(meta.proto_type) if repeated else VALUES[meta.proto_type])
            setattr(mine, field, value)
            if value:
                given[field] = value
            continue
        inner = _class_name(theirs, field)
        found = draw(st.lists(pairs(inner), max_size=3)) if repeated else [draw(pairs(inner))]
        if repeated:
            setattr(mine, field, [ours for ours, _ in found])
            if found:
                given[field] = [other for _, other in found]
        else:
            [(ours, other)] = found
            setattr(mine, field, ours.encode() if kind == "bytes" else ours)
            if bytes(other):
                given[field] = other
    return mine, theirs(**given)


def _class_name(message: type[betterproto.Message], field: str) -> str:
    about: Any = message
    return str(about._betterproto.cls_by_field[field].__name__)


@given(st.data(), KINDS)
@settings(max_examples=400)
def test_bytes_are_those_of_the_reference(data: st.DataObject, name: str) -> None:
    mine, theirs = data.draw(pairs(name))
    encoded = mine.encode()
    assert encoded == bytes(theirs)
    assert MESSAGES[name].decode(encoded) == mine
    assert getattr(reference, name)().parse(encoded) == theirs


def test_every_message_of_the_protos_is_there() -> None:
    theirs = {name for name, value in vars(reference).items() if isinstance(value, type)}
    assert set(MESSAGES) == {name for name in theirs if issubclass(getattr(reference, name), betterproto.Message)}


@given(st.data(), KINDS, st.binary(max_size=6))
@settings(max_examples=300)
def test_damaged_bytes_are_a_message_or_are_refused_in_one_way(data: st.DataObject, name: str, junk: bytes) -> None:
    encoded = data.draw(pairs(name))[0].encode()
    cut = data.draw(st.integers(0, len(encoded)))
    end = data.draw(st.integers(cut, len(encoded)))
    for damaged in (encoded[:cut], encoded[:cut] + junk + encoded[end:], junk):
        try:
            message = MESSAGES[name].decode(damaged)
        except MessageUnreadable as refused:
            assert refused.code == "link.malformed"  # noqa: PT017
        else:
            message.encode()  # what was read holds values of its fields' types


@given(st.data(), st.sampled_from(STREAMED))
def test_a_truncated_message_of_a_stream_is_refused(data: st.DataObject, name: str) -> None:
    encoded = data.draw(pairs(name))[0].encode()
    for cut in range(1, len(encoded)):
        with pytest.raises(MessageUnreadable):
            MESSAGES[name].decode(encoded[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no number
        b"\x0a",  # no length
        b"\x0a\x05\x01",  # a column longer than the message
        b"\x0a\x01\x80",  # a number without an end
        b"\x0a\x03\x80\x80\x80",  # the same, longer
        b"\x0a\x04\x01\x80\x80\x80",
        b"\x0a\x0b" + b"\xff" * 10 + b"\x01",  # a packed number of eleven bytes
        b"\x0a\x0c\x01" + b"\xff" * 10 + b"\x01",
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of eleven bytes
        b"\x00\x01",  # field 0
        b"\x0b\x0c",  # a group
        b"\x28\x01",  # a number where a text belongs
        b"\x2a\x01\xff",  # not UTF-8
        b"\x2a\xff\xff\xff\xff\x0f",  # a length that nothing follows
        b"\x0d\x00\x00\x00\x00",  # fixed32 where a varint belongs
        b"\x80\x01\x01",  # a number where a text of a key of two bytes belongs
        b"\xfd\x01abc",  # an unknown field that ends too early
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(MessageUnreadable, match="EventBatch does not decode"):
        events.EventBatch.decode(data)


def test_numbers_one_by_one_and_unknown_fields_are_read_too() -> None:
    data = b"\x08\x01\x08\xff\x01" + b"\xf8\x01\x05" + b"\xfa\x01\x02zz" + b"\xfd\x01abcd" + b"\xf9\x01abcdefgh"
    assert events.EventBatch.decode(data) == events.EventBatch(position=[1, 255])
    assert push.FromEdge.decode(b"\xfa\x01\x02zz") == push.FromEdge()


def test_fields_in_another_order_and_in_parts_are_one_message() -> None:
    first, second = events.EventBatch(position=[1], payload=[b"a"]), events.EventBatch(position=[300], payload=[b"b"])
    parts = (
        push.PushBatch(events=first.encode()).encode() + b"\x0a\x00",
        push.PushBatch(events=second.encode()).encode(),
    )
    with pytest.raises(MessageUnreadable):
        push.PushBatch.decode(b"".join(parts))  # field 1 is a number
    turned = push.PushBatch(9, 10, second.encode()).encode() + push.PushBatch(8, events=first.encode()).encode()
    found = push.PushBatch.decode(turned)
    assert (found.after_position, found.through_position) == (8, 10)
    assert events.EventBatch.decode(found.events) == events.EventBatch(position=[300, 1], payload=[b"b", b"a"])
    start = push.Start(stored=events.Offset("j")).encode() + push.Start(stored=events.Offset(position=5)).encode()
    assert push.Start.decode(start).stored == events.Offset("j", position=5)


def test_the_last_member_of_a_oneof_counts_and_its_parts_are_joined() -> None:
    beat, ack = push.FromCloud(push.Heartbeat(1)).encode(), push.FromCloud(push.Ack(7)).encode()
    assert push.FromCloud.decode(ack + beat) == push.FromCloud(push.Heartbeat(1))
    more = push.FromCloud(push.Heartbeat(clock_us=5)).encode()
    assert push.FromCloud.decode(beat + more) == push.FromCloud(push.Heartbeat(1, 5))


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        (push.Hello, b"\x2a\x00"),  # empty generations
        (push.Hello, b"\x3a\x02\xc3\xa9"),  # texts that are not known yet
        (push.PushBatch, b"\x1a\x01a"),  # parts of one message
        (push.FromEdge, b"\x12\x00"),
        (events.EventBatch, b"\x5a\x00"),
        (events.EventBatch, b"\x0a\x02\xff\x7f"),
        (events.EventBatch, b"\x08\x01"),
    ],
)
def test_what_is_read_takes_memory_in_proportion_to_its_bytes(kind: type[Readable], entry: bytes) -> None:
    data = entry * (100_000 // len(entry))
    tracemalloc.start()
    try:
        kind.decode(data)
    except MessageUnreadable:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 80 * len(data)


def test_a_length_that_nothing_follows_allocates_nothing() -> None:
    tracemalloc.start()
    for data in (b"\x2a\xff\xff\xff\xff\x0f", b"\x0a\xff\xff\xff\xff\x0f", b"\x5a\xff\xff\xff\xff\xff\xff\x0f"):
        with pytest.raises(MessageUnreadable):
            events.EventBatch.decode(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000


@pytest.mark.parametrize(("value", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_varints(value: int, encoded: bytes) -> None:
    assert framing.varint(value) == encoded
    assert framing.read_varint(encoded, 0) == (value, len(encoded))
