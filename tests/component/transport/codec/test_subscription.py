"""Bytes of a subscription: what goes in comes out, however the events were encoded, and yesterday's bytes are still read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, join_metadata, join_tags, new_events
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.history import Generation, History
from common.core.subscription.messages import (
    BackfillDone,
    Begin,
    ConsumerAck,
    Deliver,
    DeliveryLane,
    EntityEvents,
    EntityQuery,
    FilterApplied,
    FilterUpdate,
    FromConsumer,
    FromSource,
    LatestOffset,
    OrderTime,
    Progress,
    Replay,
    StreamLimits,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import (
    NO_RESUME_POINT,
    FilterState,
    LogCursor,
    ResumePoint,
    SnapshotScan,
    Unstated,
)
from common.generated.backhaul import v1 as wire
from common.transport.codec import query as query_codec
from common.transport.codec import subscription as codec
from common.transport.codec.events import encode_batch
from tests.support import questions
from tests.support.paths import GOLDEN

SCAN = SnapshotScan(90, 40, "Order|ä7")
PLACE = ResumePoint(
    "j1", "g2", LogCursor(50, "0123456789abcdef", 1_700_000_000_000_000), FilterState(3, '[{"exclude_all":true}]')
)
CHANGING = replace(PLACE, backfill=LogCursor(7, scan=SCAN), next=FilterState(4, "[]"), change_position=44)


def sample_batch() -> EventBatch:
    batch = new_events(
        ["Order|1", "Türsensor|日本"],
        ["Placed", "Opened"],
        [b'{"n":1}', bytes(range(256))],
        codec=["json", "bytes"],
        event_time_us=[0, 1_700_000_000_000_001],
        tags=["", join_tags(["t:site/1", "door"])],
        metadata=[join_metadata({"trace": "abc"}), ""],
    )
    batch.position, batch.seq_nr, batch.prev_seq_nr = [51, 53], [3, 1], [2, 0]
    batch.timestamp_us = [1_700_000_000_000_051, 1_700_000_000_000_053]
    batch.stored_us = [1_700_000_000_000_000] * 2
    return batch


FROM_CONSUMER: dict[str, FromConsumer] = {
    "subscribe": Subscribe(
        "orders", "edge-1", "orders", CHANGING, FilterState(5, "[]"), StreamLimits(1_000, 100, 10), 9,
        Begin.SNAPSHOTS, Begin.STOP, 1_000,
    ),
    "subscribe_reached": Subscribe(
        "orders", "edge-1", "orders", replace(PLACE, reached=90), FilterState(5, "[]"), StreamLimits(1_000, 100, 10), 9
    ),
    "subscribe_unstated": Subscribe(
        "orders", "edge-1", "orders", replace(PLACE, unstated=Unstated(20, 70, "g1")), FilterState(5, "[]"),
        StreamLimits(1_000, 100, 10), 9,
    ),
    "subscribe_history": Subscribe(
        "orders", "edge-1", "orders", PLACE, FilterState(5, "[]"), StreamLimits(1_000, 100, 10), 9, past=Past.FULL
    ),
    "subscribe_now": Subscribe(
        "orders", "edge-1", "orders", replace(PLACE, begin=40), FilterState(5, "[]"), StreamLimits(1_000, 100, 10), 9,
        Begin.NOW,
    ),
    "subscribe_order_time": Subscribe(
        "orders", "edge-1", "orders", PLACE, FilterState(5, "[]"), StreamLimits(1_000, 100, 10), 9,
        OrderTime(1_700_000_000_000_001),
    ),
    "filter_update": FilterUpdate(6, '[{"include_tags":["ü"]}]'),
    "ack": ConsumerAck(300),
    "replay": Replay("Order|1", 4),
    "heartbeat": Heartbeat(12345, 678),
}  # fmt: skip
FROM_SOURCE: dict[str, FromSource] = {
    "subscribed": Subscribed(
        History("j1", (Generation("g1", 1), Generation("g2", 30)), 99), 12, "resume", CHANGING, 4_000_000, 64, 5
    ),
    "deliver": Deliver(
        DeliveryLane.LIVE, 50, 53, 1_700_000_000_000_053, "0123456789abcdef", sample_batch(),
        (StatedRange("Order|1", 1, 2, "withheld"),), (53,),
    ),
    "deliver_plain": Deliver(DeliveryLane.LIVE, 50, 53, events=sample_batch()),
    "deliver_backfill": Deliver(DeliveryLane.BACKFILL, 0, 0, events=sample_batch(), snapshots=2, scan=SCAN),
    "deliver_replay": Deliver(DeliveryLane.REPLAY, 0, 50, replay_of="Order|1", replay_done=True),
    "deliver_reached": Deliver(DeliveryLane.LIVE, 50, 53, events=sample_batch(), snapshots=1, reached=90),
    "deliver_unstated": Deliver(DeliveryLane.LIVE, 50, 53, events=sample_batch(), unstated_to=90),
    "progress_unstated": Progress(DeliveryLane.LIVE, 50, 53, unstated_to=90),
    "progress": Progress(DeliveryLane.BACKFILL, 3, 50, 5, "0123456789abcdef"),
    "filter_applied": FilterApplied(4, 50, LogCursor(0, scan=SCAN)),
    "filter_applied_at_once": FilterApplied(4, 50, None),
    "backfill_done": BackfillDone(4, 50),
    "heartbeat": Heartbeat(0, 678),
    "drain": Drain(1.5, "the node is stopping"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FROM_CONSUMER)
def test_what_the_consumer_says_is_heard(kind: str) -> None:
    assert codec.decode_from_consumer(codec.encode_from_consumer(FROM_CONSUMER[kind])) == FROM_CONSUMER[kind]


@pytest.mark.parametrize("kind", FROM_SOURCE)
def test_what_the_source_says_is_heard(kind: str) -> None:
    assert codec.decode_from_source(codec.encode_from_source(FROM_SOURCE[kind])) == FROM_SOURCE[kind]


def test_a_place_that_was_never_anywhere_comes_back() -> None:
    subscribe = FROM_CONSUMER["subscribe"]
    assert isinstance(subscribe, Subscribe)
    first = replace(subscribe, place=NO_RESUME_POINT, requested=FilterState(0, ""))
    assert codec.decode_from_consumer(codec.encode_from_consumer(first)) == first


@given(
    st.sampled_from([DeliveryLane.LIVE, DeliveryLane.BACKFILL]),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.sampled_from(["", "0123456789abcdef"]),
    st.booleans(),
)
def test_the_hand_written_framing_is_what_the_generator_would_write(
    lane: DeliveryLane, after: int, through: int, timestamp_us: int, digest: str, is_large: bool
) -> None:
    events = sample_batch()
    if is_large:
        events.payload = [b"x" * 10_000, b"y"]
    message = Deliver(lane, after, through, timestamp_us, digest, events, leaving=(53, 51), snapshots=1)
    encoded = codec.encode_from_source(message)
    slow = wire.FromSource().parse(encoded)
    assert slow == wire.FromSource().parse(bytes(slow))
    assert slow.deliver.events == wire.EventBatch().parse(encode_batch(events))
    assert codec.decode_from_source(encoded) == message
    progress = Progress(lane, after, through, timestamp_us, digest)
    assert codec.decode_from_source(codec.encode_from_source(progress)) == progress


def test_events_encoded_one_by_one_are_joined() -> None:
    events = sample_batch()
    joined = b"".join(encode_batch(events.slice(index, index + 1)) for index in range(2))
    message = Deliver(DeliveryLane.LIVE, 50, 53, events=events)
    assert codec.decode_from_source(codec.encode_deliver(message, joined)) == message


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_code_or_is_harmless(data: bytes) -> None:
    for decode in (
        codec.decode_from_consumer,
        codec.decode_from_source,
        query_codec.decode_event_request,
        questions.decode_entity_events,
    ):
        try:
            decode(data)
        except BackhaulError as error:
            assert error.code in ("link.malformed", "events.ragged", "events.invalid")  # noqa: PT017


def _spoilt(**fields: object) -> wire.Subscribe:
    message = wire.FromConsumer().parse(codec.encode_from_consumer(FROM_CONSUMER["subscribe"])).subscribe
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "spoilt",
    [
        _spoilt(start="nowhere"),
        _spoilt(window_bytes=0),
        _spoilt(batch_events=-1),
        _spoilt(snapshots_if_behind=-1),
        _spoilt(history="some"),
        _spoilt(place=wire.StreamPlace(live=wire.StreamCursor(position=-1))),
        _spoilt(place=wire.StreamPlace(reached_position=-1)),
        _spoilt(place=wire.StreamPlace(begin_position=-1)),
        _spoilt(place=wire.StreamPlace(unstated_after=-1, unstated_to=9)),
        _spoilt(place=wire.StreamPlace(unstated_to=-1)),
    ],
)
def test_a_subscribe_with_which_nothing_can_be_done_is_refused(spoilt: wire.Subscribe) -> None:
    with pytest.raises(BackhaulError, match=r"link\.malformed"):
        codec.decode_from_consumer(bytes(wire.FromConsumer(subscribe=spoilt)))


def test_questions_and_answers() -> None:
    query = EntityQuery("orders", "edge-1", "Order|1", 3, 9)
    assert query_codec.decode_entity_events_request(questions.encode_entity_events_request(query)) == query
    one = replace(query, to_seq_nr=3)
    assert query_codec.decode_event_request(questions.encode_event_request(one)) == one
    stream = EntityQuery("orders", "edge-1")
    assert query_codec.decode_latest_offset_request(questions.encode_latest_offset_request(stream)) == stream
    offset = LatestOffset("j1", "g2", 99, 12, 5)
    assert questions.decode_latest_offset(query_codec.encode_latest_offset(offset)) == offset
    found = EntityEvents(sample_batch(), True, (StatedRange("Order|1", 1, 2, "trimmed"),), 4)
    assert questions.decode_entity_events(query_codec.encode_entity_events(found)) == found
    assert questions.decode_event_reply(query_codec.encode_event_reply(sample_batch())) == sample_batch()


@pytest.mark.parametrize("name", sorted(path.name for path in (GOLDEN / "subscription").glob("*.bin")))
def test_golden_bytes_are_still_read(name: str) -> None:
    """Files are never changed: a new version of the protocol adds its own."""
    side, kind, _ = name.split(".", 2)
    data = (GOLDEN / "subscription" / name).read_bytes()
    if side == "from_consumer":
        assert codec.decode_from_consumer(data) == FROM_CONSUMER[kind]
    else:
        assert codec.decode_from_source(data) == FROM_SOURCE[kind]


def test_there_is_a_golden_file_for_every_kind() -> None:
    there = {path.name for path in (GOLDEN / "subscription").glob("*.bin")}
    wanted = {f"from_consumer.{kind}.v1.bin" for kind in FROM_CONSUMER}
    assert wanted | {f"from_source.{kind}.v1.bin" for kind in FROM_SOURCE} <= there
