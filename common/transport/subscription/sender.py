"""What leaves for one consumer: one message at a time, in turn, counted, and never larger than it may be.

Lanes are tasks of their own; the holder of the lock decides and sends in one step, so a lane's place moves exactly when
its message goes. The window is one for all lanes: a lane with a delivery waits there, under the lock, until it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import trio

from common.core.events.batch import EventBatch
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.fetch_result import FetchResult
from common.core.flow.messages import Heartbeat
from common.core.subscription.messages import Deliver, DeliveryLane, FromSource, Progress
from common.core.subscription.parts import halves
from common.core.subscription.place import SnapshotScan
from common.core.subscription.source import Serving
from common.core.subscription.withheld import served_parts
from common.transport.codec.events import encode_batch
from common.transport.codec.subscription import encode_deliver, encode_from_source
from common.transport.stream import MessageStream
from common.transport.subscription.catalogue import Transform


@dataclass(slots=True)
class ConsumerStream:
    """A live stream of this node, for status and metrics. ``backfill_position`` is -1 while no filter changes."""

    consumer_id: str
    stream_id: str
    subscription: str
    address: str
    since_us: int
    resume: str
    position: int
    deliveries: int = 0
    acked_deliveries: int = 0
    events: int = 0
    replays: int = 0
    in_flight_bytes: int = 0
    filter_version: int = 0
    backfill_position: int = -1
    standing: str = ""


class Sender:
    """The sending half of a consumer's stream. ``send_lock`` is held by the lane that decides and sends."""

    def __init__(
        self,
        stream: MessageStream,
        serving: Serving,
        state: ConsumerStream,
        *,
        transform: Transform | None,
        heartbeat_s: float,
        now_us: Callable[[], int],
    ) -> None:
        self._stream = stream
        self._serving = serving
        self._state = state
        self._transform = transform
        self._heartbeat_s = heartbeat_s
        self._now_us = now_us
        self._last_sent_s = trio.current_time()
        self.send_lock = trio.Lock()
        self.moved = trio.lowlevel.ParkingLot()
        """Where lanes wait for room, or for one another."""
        self.is_sending = False

    async def say(self, message: FromSource) -> None:
        """Send something that is no delivery."""
        async with self.send_lock:
            await self.send(message)

    async def send(self, message: FromSource) -> None:
        """The same, for who holds the turn."""
        await self._send(encode_from_source(message))

    async def room(self) -> int:
        """Bytes that may be sent, once there is room for any."""
        while not (room := self._serving.room_bytes()):
            await self.moved.park()
        return room

    async def heartbeat_if_due(self) -> None:
        """Say something when nothing else was said.

        Silent while data is in flight: then whatever growth the consumer reports was made by data.
        """
        idle_s = trio.current_time() - self._last_sent_s
        if self._serving.window.is_empty and idle_s >= 0.9 * self._heartbeat_s and not self.is_sending:
            message = Heartbeat(self._stream.bytes_received, self._now_us())
            if self.send_lock.locked() or not self._stream.send_nowait(encode_from_source(message)):
                await self.say(message)
            self._last_sent_s = trio.current_time()

    async def send_stretch(
        self, lane: DeliveryLane, stretch: FetchResult, wanted: Callable[[], EntityPredicate]
    ) -> None:
        """What a feed gave goes out on its lane. ``wanted`` is what the consumer is to have in the end."""
        serving = self._serving
        async with self.send_lock:
            ranges = serving.ranges_to_state(lane, stretch.ranges)
            if not stretch.n and not ranges:
                after = self._move(lane, stretch.through, stretch.digest, stretch.timestamp_us)
                await self.send(
                    Progress(lane, after, stretch.through, stretch.timestamp_us, stretch.digest, stretch.unstated_to)
                )
                return
            leaving = stretch.leaving
            if leaving and serving.place.next is not None:
                leaving = serving.leaving_to_tell(stretch.events, leaving, wanted())
            message = Deliver(
                lane,
                stretch.after,
                stretch.through,
                stretch.timestamp_us,
                stretch.digest,
                ranges=ranges,
                leaving=leaving,
                snapshots=stretch.snapshots,
                reached=stretch.reached,
                unstated_to=stretch.unstated_to,
            )
            encoded = stretch.encoded
            if len(encoded) > serving.limits.window_bytes or (self._transform is not None and stretch.n):
                await self._send_in_parts(replace(message, events=stretch.events))
                return
            after = self._move(lane, stretch.through, stretch.digest, stretch.timestamp_us)
            assert after == stretch.after, "a feed goes on where it was"
            await self._deliver(message, encoded, stretch.n)

    def send_stretch_nowait(self, stretch: FetchResult, now_s: float) -> int:
        """The same on the live lane, when the line takes it without waiting and nobody is at it; else do nothing.

        Answers how many bytes went.
        """
        serving = self._serving
        if self.send_lock.locked() or self._transform is not None or not stretch.n:
            return 0
        data = stretch.shared(_message_of)
        size = len(data)
        is_too_large = size > serving.limits.window_bytes or not serving.admits(size)
        if is_too_large or not self._stream.send_nowait(data):
            return 0
        after = self._move(DeliveryLane.LIVE, stretch.through, stretch.digest, stretch.timestamp_us)
        assert after == stretch.after, "a feed goes on where it was"
        self._count(stretch.n, size, now_s)
        self._last_sent_s = now_s
        self._state.position = stretch.through
        return size

    async def send_snapshots(
        self, lane: DeliveryLane, events: EventBatch, through: int, scan: SnapshotScan | None, reached: int
    ) -> None:
        """A page of snapshots, or with no ``scan`` the end of them, in the turn; they stand for what is up to ``reached``."""
        serving = self._serving
        place = serving.place
        cursor = place.backfill if lane is DeliveryLane.BACKFILL else place.live
        assert cursor is not None
        if lane is DeliveryLane.BACKFILL:
            through = min(through, place.live.position)
        digest, timestamp_us = (cursor.digest, cursor.timestamp_us) if through == cursor.position else ("", 0)
        after = serving.move(lane, through, digest=digest, timestamp_us=timestamp_us, scan=scan)
        message = Deliver(
            lane, after, through, timestamp_us, digest, events, snapshots=len(events), scan=scan, reached=reached
        )
        (part,) = self._served(message)  # one snapshot an entity: nothing has to be cut
        await self.deliver(part)

    def replayed(
        self, messages: Iterable[Deliver], encode: Callable[[EventBatch], bytes]
    ) -> list[tuple[Deliver, bytes]]:
        """Messages of replays as they are served, each with the bytes of its events."""
        parts = [part for message in messages for part in self._served(message)]
        return [(part, encode(part.events) if part.events else b"") for part in parts]

    async def deliver_together(self, messages: Sequence[tuple[Deliver, bytes]]) -> None:
        """Several deliveries in the turn: in one write, as far as window and line take them without waiting."""
        serving, now_s, sent = self._serving, trio.current_time(), 0
        self._stream.hold()
        try:
            for message, encoded in messages:
                data = encode_deliver(message, encoded)
                if not serving.admits(len(data)) or not self._stream.send_nowait(data):
                    break
                self._count(len(message.events), len(data), now_s)
                sent += 1
        finally:
            self._stream.release()
        if sent:
            self._last_sent_s, self._state.position = now_s, serving.place.live.position
        for message, encoded in messages[sent:]:
            await self._deliver(message, encoded, len(message.events))

    async def deliver(self, message: Deliver) -> None:
        """Send a delivery with its events, in the turn; the lane has been moved."""
        await self._deliver(message, encode_batch(message.events) if message.events else b"", len(message.events))

    async def _send_in_parts(self, message: Deliver) -> None:
        """A message that is too large is cut: tags and metadata can outweigh the payloads by which it was measured."""
        parts = [(part, encode_batch(part.events) if part.events else b"") for part in self._served(message)]
        is_too_large = any(len(encoded) > self._serving.limits.window_bytes for _, encoded in parts)
        if is_too_large and len(message.events) > 1:
            for half in halves(message):
                await self._send_in_parts(half)
            return
        for part, encoded in parts:
            self._move(part.lane, part.through, part.digest, part.timestamp_us)
            await self._deliver(part, encoded, len(part.events))

    def _move(self, lane: DeliveryLane, through: int, digest: str, timestamp_us: int) -> int:
        return self._serving.move(lane, through, digest=digest, timestamp_us=timestamp_us)

    def _served(self, message: Deliver) -> list[Deliver]:
        return served_parts(message, self._transform) if self._transform is not None and message.events else [message]

    async def _deliver(self, message: Deliver, encoded: bytes, n: int) -> None:
        data, serving = encode_deliver(message, encoded), self._serving
        while not serving.admits(len(data)):
            await self.moved.park()  # who owes acks for too long is left (``SourceStream.look``)
        # Counted before the bytes leave: the ack may be there before `send` returns.
        self._count(n, len(data), trio.current_time())
        await self._send(data)
        self._state.position = serving.place.live.position

    def _count(self, n: int, size: int, now_s: float) -> None:
        serving, state = self._serving, self._state
        serving.sent(n, size, now_s)
        state.deliveries = serving.deliveries
        state.events += n
        state.in_flight_bytes = serving.window.in_flight_bytes

    async def _send(self, data: bytes) -> None:
        self.is_sending = True
        await self._stream.send(data)
        self.is_sending = False
        self._last_sent_s = trio.current_time()


def _message_of(stretch: FetchResult) -> bytes:
    """A stretch of the live lane as a message, the same for all who share it."""
    message = Deliver(
        DeliveryLane.LIVE,
        stretch.after,
        stretch.through,
        stretch.timestamp_us,
        stretch.digest,
        ranges=stretch.ranges,
        leaving=stretch.leaving,
        snapshots=stretch.snapshots,
        reached=stretch.reached,
        unstated_to=stretch.unstated_to,
    )
    return encode_deliver(message, stretch.encoded)
