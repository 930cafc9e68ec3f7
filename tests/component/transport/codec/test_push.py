"""Bytes on the wire: what goes in comes out, garbage is refused with a code, and yesterday's bytes are still read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.batch import EVENT_COLUMNS, EventBatch, concat, join_metadata, join_tags, new_events
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.flow.messages import Drain, EdgeHealth, Heartbeat
from common.core.journal.append import LocalAppend, ParkedEvent, PushLane
from common.core.journal.history import Generation, History, Offset, Resume
from common.core.push.filter_transition import PushFilter
from common.core.push.messages import (
    Ack,
    CheckReply,
    FromCloud,
    FromEdge,
    Hello,
    PastKnown,
    PastQuestion,
    PushBatch,
    PushFilterUpdate,
    PushLimits,
    Start,
)
from common.generated.backhaul import v1 as wire
from common.transport.codec import intake
from common.transport.codec import push as codec
from common.transport.codec.events import FEW_EVENTS, decode_batch, encode_batch
from tests.support.paths import GOLDEN

INT64 = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    n = draw(st.integers(0, 5))
    columns: dict[str, list[object]] = {}
    for name in EVENT_COLUMNS:
        values: st.SearchStrategy[object] = INT64
        if name in ("persistence_id", "event_type", "codec"):
            values = TEXT
        elif name == "payload":
            values = st.binary(max_size=300)
        elif name == "tags":
            values = st.lists(TEXT, max_size=3).map(join_tags)
        elif name == "metadata":
            values = st.dictionaries(TEXT, TEXT, max_size=3).map(join_metadata)
        columns[name] = draw(st.lists(values, min_size=n, max_size=n))
    return EventBatch(**columns, prev_tags=[""] * n)  # type: ignore[arg-type]


def sample_batch() -> EventBatch:
    batch = new_events(
        ["Sensor|edge-1/temp1", "Türsensor|edge-1/日本"],
        ["Read", "Opened"],
        [b'{"celsius":21.5}', bytes(range(256))],
        codec=["json", "bytes"],
        event_time_us=[0, 1_700_000_000_000_001],
        tags=["", join_tags(["t:site/1", "door"])],
        metadata=[join_metadata({"trace": "abc", "empty": ""}), ""],
    )
    batch.position, batch.seq_nr, batch.prev_seq_nr = [7, 9], [3, 1], [2, 0]
    batch.timestamp_us = [1_700_000_000_000_007, 1_700_000_000_000_009]
    batch.stored_us = [1_700_000_000_000_000] * 2
    batch.origin_seq_nr = [0, 5]
    return batch


FROM_EDGE: dict[str, FromEdge] = {
    "hello": Hello("edge-1", "i1", History("j1", (Generation("g1", 1), Generation("g2", 5)), 9), 123, ("Sensor",)),
    "batch": PushBatch(6, 9, "g2", sample_batch(), (StatedRange("Sensor|edge-1/x", 1, 4, "dropped"),)),
    "past_batch": PushBatch(
        2, 3, "g2", sample_batch(), (StatedRange("Sensor|edge-1/x", 1, 4, "snapshot"),), PushLane.PAST
    ),
    "past_question": PastQuestion(("Sensor|edge-1/x", "Sensor|edge-1/y")),
    "heartbeat": Heartbeat(12345, 678),
    "heartbeat_with_health": Heartbeat(5, 678, EdgeHealth(9, 2_500_000, 4096, 10, 20, 30, "1.2.3")),
}
FROM_CLOUD: dict[str, FromCloud] = {
    "start": Start(3, Offset("j1", "g2", 6, 5, "Sensor|a", 2), Resume.REWOUND, "c1", "cg", PushLimits(1, 2, 3, 4), 99),
    "ack": Ack(9, (ParkedEvent(9, "Sensor|edge-1/x", 5, "parked.gap"),)),
    "past_ack": Ack(3, lane=PushLane.PAST),
    "past_known": PastKnown((7, 0, -1)),
    "heartbeat": Heartbeat(0, 678),
    "drain": Drain(1.5, "the node is stopping"),
}


@pytest.mark.parametrize("kind", FROM_EDGE)
def test_what_the_edge_says_is_heard(kind: str) -> None:
    assert codec.decode_from_edge(codec.encode_from_edge(FROM_EDGE[kind])) == FROM_EDGE[kind]


@pytest.mark.parametrize("kind", FROM_CLOUD)
def test_what_the_cloud_says_is_heard(kind: str) -> None:
    assert codec.decode_from_cloud(codec.encode_from_cloud(FROM_CLOUD[kind])) == FROM_CLOUD[kind]


def test_how_much_past_is_asked_for_goes_with_a_filter() -> None:
    """It is no part of what makes two filters the same, so it is looked at by itself."""
    update = codec.decode_from_cloud(codec.encode_from_cloud(PushFilterUpdate(3, '[{"exclude_all":true}]', Past.FULL)))
    assert isinstance(update, PushFilterUpdate)
    assert update.history is Past.FULL
    old = FROM_CLOUD["start"]
    assert isinstance(old, Start)
    for history in Past:
        asked = replace(old, requested=PushFilter(history=history))
        start = codec.decode_from_cloud(codec.encode_from_cloud(asked))
        assert isinstance(start, Start)
        assert start.requested.history is history
    start = codec.decode_from_cloud((GOLDEN / "from_cloud.start.v1.bin").read_bytes())
    assert isinstance(start, Start)
    assert start.requested.history is Past.NONE, "a cloud of before there was a past"


@given(batches())
def test_any_batch_comes_back(batch: EventBatch) -> None:
    assert decode_batch(encode_batch(batch)) == batch


@given(st.lists(batches(), max_size=4))
def test_encoded_batches_may_be_joined_byte_by_byte(parts: list[EventBatch]) -> None:
    joined = b"".join(map(encode_batch, parts))
    assert decode_batch(joined) == concat(parts)


def large_batch(n: int, *, is_uniform: bool) -> EventBatch:
    """So many events that another codec writes and reads some of their columns."""
    batch = new_events([f"Sensor|{i % 7}" for i in range(n)], ["Read"] * n, [bytes(600)] * n)
    batch.position = list(range(1, n + 1))
    batch.timestamp_us = [1_700_000_000_000_000 + i for i in range(n)]
    batch.stored_us = [1_700_000_000_000_000] * n
    batch.seq_nr, batch.prev_seq_nr = [i // 7 + 1 for i in range(n)], [i // 7 for i in range(n)]
    if not is_uniform:
        batch.event_type[-1], batch.codec[-1], batch.event_time_us[-1] = "Other", "bytes", 5
        batch.tags[0], batch.metadata[-1] = join_tags(["a", "b"]), join_metadata({"k": "v"})
    return batch


@pytest.mark.parametrize("is_uniform", [True, False])
@pytest.mark.parametrize("n", [FEW_EVENTS, FEW_EVENTS + 1, 300])
def test_a_large_batch_comes_back(n: int, is_uniform: bool) -> None:
    batch = large_batch(n, is_uniform=is_uniform)
    encoded = encode_batch(batch)
    assert decode_batch(encoded) == batch
    assert wire.EventBatch().parse(encoded) == wire.EventBatch().parse(bytes(wire.EventBatch().parse(encoded)))
    damaged = encoded[:-1] + b"\xff"
    with pytest.raises(BackhaulError) as refused:
        decode_batch(damaged)
    assert refused.value.code in ("link.malformed", "events.ragged")
    assert (
        intake.decode_append_reply(intake.encode_append_reply(1, batch.position, repeated=False))[1] == batch.position
    )


def test_messages_are_what_the_reference_would_write() -> None:
    batch = sample_batch()
    encoded = encode_batch(batch)
    slow = wire.EventBatch().parse(encoded)
    assert encoded == bytes(slow)
    assert wire.FromEdge().parse(codec.encode_from_edge(FROM_EDGE["batch"])).batch.events == slow
    request = LocalAppend(batch, {"Sensor|a": 3}, "key")
    assert wire.AppendRequest().parse(intake.encode_append_request(request)).events == slow


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_code_or_is_harmless(data: bytes) -> None:
    for decode in (codec.decode_from_edge, codec.decode_from_cloud, intake.decode_append_request):
        try:
            decode(data)
        except BackhaulError as error:
            assert error.code in ("link.malformed", "events.ragged", "events.invalid")  # noqa: PT017


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: message.position.pop(),
        lambda message: message.payload.append(b""),
        lambda message: message.tag.append("more"),
        lambda message: message.metadata_value.pop(),
        lambda message: message.tag_count.__setitem__(0, -1),
    ],
)
def test_a_ragged_batch_is_refused_whole(spoil: object) -> None:
    message = wire.EventBatch().parse(encode_batch(sample_batch()))
    spoil(message)  # type: ignore[operator]
    with pytest.raises(BackhaulError) as refused:
        codec.decode_from_edge(bytes(wire.FromEdge(batch=wire.PushBatch(through_position=9, events=message))))
    assert refused.value.code == "events.ragged"


def test_a_separator_hidden_in_a_tag_is_refused() -> None:
    message = wire.EventBatch().parse(encode_batch(sample_batch()))
    message.tag[0] = "a\x1fb"
    with pytest.raises(BackhaulError, match=r"events\.invalid"):
        decode_batch(bytes(message))


def test_an_intake_request_may_leave_columns_out() -> None:
    events = wire.EventBatch(persistence_id=["Sensor|a"], event_type=["Read"], payload=[b"1"])
    request = intake.decode_append_request(bytes(wire.AppendRequest(events=events)))
    assert request.events == new_events(["Sensor|a"], ["Read"], [b"1"])


def test_replies_and_refusals_of_the_intake() -> None:
    assert intake.decode_append_reply(intake.encode_append_reply(5, [1, 2], repeated=True)) == (5, [1, 2], True)
    with pytest.raises(BackhaulError, match=r"journal\.full"):
        intake.decode_append_reply(intake.encode_append_error(BackhaulError("journal.full", "no room", "wait")))


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.bin")))
def test_golden_bytes_are_still_read(name: str) -> None:
    """Files are never changed: a new version of the protocol adds its own."""
    side, kind, _ = name.split(".", 2)
    data = (GOLDEN / name).read_bytes()
    if side == "from_edge":
        assert codec.decode_from_edge(data) == FROM_EDGE[kind]
    else:
        assert codec.decode_from_cloud(data) == FROM_CLOUD[kind]


def test_there_is_a_golden_file_for_every_kind() -> None:
    there = {path.name for path in GOLDEN.glob("*.bin")}
    wanted = {f"from_edge.{kind}.v1.bin" for kind in FROM_EDGE} | {f"from_cloud.{kind}.v1.bin" for kind in FROM_CLOUD}
    assert wanted <= there


@pytest.mark.parametrize(
    ("position", "limits"), [(-1, PushLimits(1, 1, 1, 1)), (0, PushLimits(1, 0, 1, 1)), (0, PushLimits(1, 1, -1, 1))]
)
def test_a_start_with_which_nothing_could_be_sent_is_refused(position: int, limits: PushLimits) -> None:
    start = Start(3, Offset("j1", "g2", position), Resume.RESUME, "c1", "cg", limits, 99)
    with pytest.raises(BackhaulError) as refused:
        codec.decode_from_cloud(codec.encode_from_cloud(start))
    assert refused.value.code == "link.malformed"


@pytest.mark.parametrize(
    "reply", [CheckReply(5, ("auth.identity_mismatch", "no", "do")), CheckReply(7, None, "1.2", "edges", True, True)]
)
def test_what_a_check_asks_and_answers_is_heard(reply: CheckReply) -> None:
    assert codec.decode_check_request(codec.encode_check_request(1, "edge-1")) == (1, "edge-1")
    assert codec.decode_check_reply(codec.encode_check_reply(reply)) == reply
