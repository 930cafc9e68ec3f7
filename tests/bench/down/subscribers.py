"""Measuring program: many consumers in one process, each with a connection and a subscription of its own.

Every batch is decoded to columns, and each event's previous number compared with the last one known of its entity: what
does not continue ends the program. Acks go out when some kilobytes have come, else a few times a second; heartbeats as a
consumer's. It takes commands line by line: ``connect``, ``mark``, ``reach`` a position, ``have`` so many events, ``begun``,
``filter`` (of all), and answers each.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import repeat

import trio

from common import border
from common.core.events.batch import EventBatch
from common.core.flow.messages import Heartbeat
from common.core.subscription.messages import (
    SUBSCRIBE_PATH,
    BackfillDone,
    ConsumerAck,
    Deliver,
    FilterApplied,
    FilterUpdate,
    Progress,
    StreamLimits,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import NO_RESUME_POINT, FilterState
from common.runtime.environment import utc_now_us
from common.transport.codec.subscription import decode_from_source, encode_from_consumer
from common.transport.stream import DialledStream
from tests.bench.down.dialling import dialled
from tests.bench.processes import answer
from tests.bench.table import percentile

STREAM = "Sensor"
_PARALLEL_DIALS = 20
_ACK_EVERY_S = 0.25
_ACK_AT_BYTES = 16_384
_HEARTBEAT_S = 30.0  # as a consumer's whose stream is idle
_SLICES = 30
_LOOK_S = 0.01
_WINDOW_BYTES = 4 * 1024 * 1024
_BATCH_BYTES = 1024 * 1024


class _Consumer:
    """One consumer: what it has, and whether that continues."""

    def __init__(self, number: int, criteria: str, batch_events: int, *, is_timed: bool) -> None:
        self.id = f"edge-{number}"
        self.position = 0
        self.events = 0
        self.messages = 0
        self.deliveries = 0
        self.is_in_backfill = False
        self.delays_s: list[float] = []
        self._is_timed = is_timed
        self._requested = FilterState(1 if criteria else 0, criteria)
        self._limits = StreamLimits(_WINDOW_BYTES, _BATCH_BYTES, batch_events)
        self._known: dict[str, int] = {}
        self._acked = self._unacked_bytes = 0
        self._lock = trio.Lock()
        self._stream: DialledStream | None = None

    async def connect(self, stack: AsyncExitStack, port: int, certificates: str) -> None:
        """Dial and subscribe from the log's beginning."""
        channel = await dialled(stack, port, certificates, self.id, 2 * _WINDOW_BYTES)
        self._stream = await stack.enter_async_context(channel.open_stream(SUBSCRIBE_PATH))
        asked = Subscribe(STREAM, self.id, STREAM, NO_RESUME_POINT, self._requested, self._limits, utc_now_us())
        await self._stream.send(encode_from_consumer(asked))
        assert isinstance(decode_from_source(await self._stream.receive()), Subscribed)

    async def follow(self) -> None:
        """Take what comes, until cancelled."""
        assert self._stream is not None
        while True:
            data = await self._stream.receive()
            message = decode_from_source(data)
            self.messages += 1
            match message:
                case Deliver():
                    self._take(message)
                    self._unacked_bytes += len(data)
                    if self._unacked_bytes >= _ACK_AT_BYTES:
                        await self.acknowledge()
                case Progress():
                    self.position = max(self.position, message.through)
                case FilterApplied():
                    self.is_in_backfill = message.begin is not None
                case BackfillDone():
                    self.is_in_backfill = False

    def _take(self, message: Deliver) -> None:
        events = message.events
        for stated in message.ranges:
            self._known[stated.persistence_id] = max(stated.to_seq_nr, self._known.get(stated.persistence_id, 0))
        self._check(events)
        self.events += len(events)
        self.deliveries += 1
        if not message.lane:
            self.position = message.through
        if self._is_timed:
            now_us = utc_now_us()
            self.delays_s += [(now_us - due_us) / 1e6 for due_us in events.event_time_us]

    def _check(self, events: EventBatch) -> None:
        known, names, before = self._known, events.persistence_id, events.prev_seq_nr
        if len(set(names)) == len(names):
            is_whole = list(map(known.get, names, repeat(0))) == before
            known.update(zip(names, events.seq_nr, strict=True))
        else:
            is_whole = True
            for name, seq_nr, previous in zip(names, events.seq_nr, before, strict=True):
                is_whole = is_whole and known.get(name, 0) == previous
                known[name] = seq_nr
        if not is_whole:
            raise AssertionError(f"{self.id} was given events that do not continue, up to {events.position[-1]}")

    async def acknowledge(self) -> None:
        """Say what was taken since."""
        assert self._stream is not None
        async with self._lock:
            if self.deliveries == self._acked:
                return
            self._acked, self._unacked_bytes = self.deliveries, 0
            await self._stream.send(encode_from_consumer(ConsumerAck(self._acked)))

    async def beat(self) -> None:
        """Say that it is there."""
        assert self._stream is not None
        async with self._lock:
            await self._stream.send(encode_from_consumer(Heartbeat(self._stream.bytes_received, utc_now_us())))

    async def change(self, version: int, criteria: str) -> None:
        """Ask for another filter."""
        assert self._stream is not None
        await self._stream.send(encode_from_consumer(FilterUpdate(version, criteria)))


class _Crowd:
    """All of them, and their commands."""

    def __init__(
        self, consumers: list[_Consumer], port: int, certificates: str, start_soon: Callable[..., None]
    ) -> None:
        self._consumers = consumers
        self._port = port
        self._certificates = certificates
        self._start_soon = start_soon
        self._connected: list[_Consumer] = []

    async def connect(self, stack: AsyncExitStack, count: int) -> None:
        """Let ``count`` more subscribe, a few at a time."""
        turns = trio.CapacityLimiter(_PARALLEL_DIALS)
        begin = len(self._connected)
        coming = self._consumers[begin : begin + count]

        async def dial(one: _Consumer) -> None:
            async with turns:
                await one.connect(stack, self._port, self._certificates)
            self._start_soon(one.follow)  # before the others have come: who does not read and acknowledge is left
            self._connected.append(one)

        async with trio.open_nursery() as nursery:
            for one in coming:
                nursery.start_soon(dial, one)
        gc.collect()
        gc.freeze()
        answer("load.connected", consumers=len(self._connected))

    def mark(self) -> None:
        """Count from here."""
        for one in self._consumers:
            one.events = one.messages = 0
            one.delays_s.clear()
        answer("load.marked")

    async def reach(self, position: int) -> None:
        """Wait until everybody is there, and tell what it took."""
        await self._until(lambda one: one.position >= position)
        self.tell("load.reached")

    async def have(self, events: int) -> None:
        """Wait until everybody got so many since the mark, and tell what it took."""
        await self._until(lambda one: one.events >= events)
        self.tell("load.reached")

    def tell(self, event: str) -> None:
        """What came since the mark."""
        delays = [delay for one in self._consumers for delay in one.delays_s]
        answer(
            event,
            events=sum(one.events for one in self._consumers),
            messages=sum(one.messages for one in self._consumers),
            least=min(one.position for one in self._connected),
            p50_s=percentile(delays, 0.5) if delays else 0.0,
            p99_s=percentile(delays, 0.99) if delays else 0.0,
            cpu_s=time.process_time(),
        )

    async def has_begun(self, *, backfill: bool) -> None:
        """Wait until everybody has had a delivery, or is in a backfill."""
        await self._until(lambda one: one.is_in_backfill if backfill else one.deliveries > 0)
        answer("load.begun")

    async def _until(self, holds: Callable[[_Consumer], bool]) -> None:
        for one in self._connected:
            while not holds(one):  # noqa: ASYNC110  an event for each consumer would cost each message more
                await trio.sleep(_LOOK_S)

    async def acknowledge(self) -> None:
        """For everybody, again and again, spread over time."""
        while True:
            for offset in range(_SLICES):
                for one in self._connected[offset::_SLICES]:
                    await one.acknowledge()
                await trio.sleep(_ACK_EVERY_S / _SLICES)

    async def beat(self) -> None:
        """The same for heartbeats."""
        while True:
            for offset in range(_SLICES):
                await trio.sleep(_HEARTBEAT_S / _SLICES)
                for one in self._connected[offset::_SLICES]:
                    await one.beat()

    async def change(self, version: int, criteria: str) -> None:
        """Another filter for everybody."""
        for one in self._connected:
            await one.change(version, criteria)
        answer("load.asked")


async def _main(
    port: int, first: int, count: int, certificates: str, criteria: str, topics: int, batch_events: int, timed: int
) -> None:
    result = trio.wrap_file(sys.stdin)
    consumers = [
        _Consumer(
            number,
            criteria.replace("{topic}", str(number % max(1, topics))),
            batch_events,
            is_timed=timed > 0 and number % timed == 0,
        )
        for number in range(first, first + count)
    ]
    async with border.open_loop(), AsyncExitStack() as stack, trio.open_nursery() as nursery:
        crowd = _Crowd(consumers, port, certificates, nursery.start_soon)
        nursery.start_soon(crowd.acknowledge)
        nursery.start_soon(crowd.beat)
        answer("load.ready")
        async for line in result:
            word, _, rest = line.strip().partition(" ")
            match word:
                case "connect":
                    await crowd.connect(stack, int(rest or count))
                case "mark":
                    crowd.mark()
                case "reach":
                    await crowd.reach(int(rest))
                case "have":
                    await crowd.have(int(rest))
                case "tell":
                    crowd.tell("load.told")
                case "begun":
                    await crowd.has_begun(backfill=rest == "backfill")
                case "filter":
                    version, _, wanted = rest.partition(" ")
                    await crowd.change(int(version), wanted)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Arguments as JSON; see ``_main``. ``criteria`` may hold ``{topic}``, one consumer in ``timed`` is timed."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
