"""Small messages by hand: what they read and write is what the generated messages do, and garbage is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import betterproto
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.generated.backhaul import v1 as wire
from common.transport.codec import fast_protobuf as small_messages

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=5)
# The same again and again, as columns often are.
RUNS = st.lists(st.tuples(TEXT, st.integers(1, 40)), max_size=3).map(
    lambda runs: [text for text, times in runs for _ in range(times)]
)
COLUMNS = st.fixed_dictionaries(
    {},
    optional={
        "position": st.lists(INT64, max_size=4),
        "persistence_id": st.lists(TEXT, max_size=4),
        "event_type": RUNS,
        "payload": st.lists(st.binary(max_size=9), max_size=4),
        "tag_count": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "metadata_value": st.lists(TEXT, max_size=4),
    },
)


def same(read: object, message: betterproto.Message) -> bool:
    """Whether all fields of both are equal; of a oneof, those of the member that is set."""
    chosen, _ = betterproto.which_one_of(message, "message") if "message" in _groups(message) else ("", None)
    for field in fields(cast(Any, message)):
        if field.metadata["betterproto"].group and field.name != chosen:
            continue
        mine, theirs = getattr(read, field.name), getattr(message, field.name)
        if not (same(mine, theirs) if isinstance(theirs, betterproto.Message) else mine == theirs):
            return False
    return True


def _groups(message: betterproto.Message) -> set[str]:
    return {field.metadata["betterproto"].group for field in fields(cast(Any, message))}


@given(COLUMNS, INT64, TEXT, st.booleans())
def test_both_ways_agree_with_the_generated_messages(
    columns: dict[str, Any], position: int, text: str, as_batch: bool
) -> None:
    batch = small_messages.write(wire.EventBatch, **columns)
    assert wire.EventBatch().parse(batch) == wire.EventBatch(**columns)
    push = small_messages.write(wire.PushBatch, after_position=position, generation_id=text, events=batch)
    beat = small_messages.write(wire.Heartbeat, clock_us=position)
    edge = small_messages.write(wire.FromEdge, **({"batch": push} if as_batch else {"heartbeat": beat}))
    for kind, data in ((wire.EventBatch, batch), (wire.PushBatch, push), (wire.FromEdge, edge)):
        assert same(small_messages.read(kind, data), kind().parse(data))
    assert small_messages.read(wire.FromEdge, edge).one_of[0] == ("batch" if as_batch else "heartbeat")


@given(COLUMNS, COLUMNS)
def test_joined_bytes_are_one_message(first: dict[str, Any], second: dict[str, Any]) -> None:
    parts = [bytes(wire.PushBatch(events=wire.EventBatch(**columns))) for columns in (first, second)]
    assert small_messages.read(wire.PushBatch, b"".join(parts)).events.position == [
        *first.get("position", []),
        *second.get("position", []),
    ]


@given(INT64, st.booleans(), TEXT)
def test_other_kinds_of_fields(number: int, yes: bool, text: str) -> None:
    reply = wire.AppendReply(first_position=number, seq_nr=[1, number], repeated_append=yes, error_hint=text)
    assert same(small_messages.read(wire.AppendReply, bytes(reply)), reply)
    drain = wire.Drain(retry_after_s=number / 3, reason=text)
    assert same(small_messages.read(wire.Drain, bytes(drain)), drain)
    written = small_messages.write(wire.Drain, retry_after_s=number / 3, reason=text)
    assert wire.Drain().parse(written) == drain


def test_numbers_one_by_one_and_unknown_fields_are_read_too() -> None:
    data = b"\x08\x01\x08\x02" + b"\xf8\x01\x05" + b"\xfa\x01\x02zz" + b"\xfd\x01abcd" + b"\xf9\x01abcdefgh"
    assert small_messages.read(wire.EventBatch, data).position == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no number
        b"\x0a\x05\x01",  # a column longer than the message
        b"\x0a\x01\x80",  # a number without an end
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of eleven bytes
        b"\x00\x01",  # field 0
        b"\x0b\x0c",  # a group
        b"\x28\x01",  # a number where a text belongs
        b"\x2a\x01\xff",  # not UTF-8
        b"\x0d\x00\x00\x00\x00",  # fixed32 where a varint belongs
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"number|early|wire type|decode"):
        small_messages.read(wire.EventBatch, data)
