"""Measuring program: consumers that let entities enter, in one process, each with a connection of its own.

What comes is judged by the rules of the product's consumer: an event that does not continue makes its entity wait, the
consumer asks for it again, as many at a time as the source allows, and an entity whose replay leaves a gap ends the
program. Nothing is stored: what is measured is the source. Commands line by line: ``connect``, ``mark``, ``whole N``
(until everybody has N entities to their last event), each answered.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack

import trio

from common import border
from common.core.flow.messages import Heartbeat
from common.core.subscription.consumer import admit_received
from common.core.subscription.messages import (
    SUBSCRIBE_PATH,
    ConsumerAck,
    Deliver,
    Replay,
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

STREAM = "Sensor"
_ACK_EVERY_S = 0.1
_ACK_AT_BYTES = 16_384
_HEARTBEAT_S = 5.0
_LOOK_S = 0.02
_WINDOW_BYTES = 4 * 1024 * 1024
_BATCH_BYTES = 1024 * 1024


class _Consumer:
    """One consumer: known numbers, entities that wait, and replays that are asked for."""

    def __init__(self, number: int, criteria: str, batch_events: int, last: int) -> None:
        self.id = f"follower-{number}"
        self.events = 0
        self.messages = 0
        self.whole = 0
        """Entities that are at their last event and do not wait."""
        self._last = last
        self._requested = FilterState(1, criteria)
        self._limits = StreamLimits(_WINDOW_BYTES, _BATCH_BYTES, batch_events)
        self._known: dict[str, int] = {}
        self._awaiting: set[str] = set()
        self._missed: dict[str, int] = {}
        self._to_ask: dict[str, None] = {}
        self._asked: set[str] = set()
        self._asked_max = 0
        self._deliveries = self._acked = self._unacked_bytes = 0
        self._queue: deque[bytes] = deque()
        self._work = trio.lowlevel.ParkingLot()
        self._lock = trio.Lock()
        self._stream: DialledStream | None = None

    async def connect(self, stack: AsyncExitStack, port: int) -> None:
        """Dial and subscribe from the log's beginning."""
        channel = await dialled(stack, port, "", self.id, 2 * _WINDOW_BYTES)
        self._stream = await stack.enter_async_context(channel.open_stream(SUBSCRIBE_PATH))
        asked = Subscribe(STREAM, self.id, STREAM, NO_RESUME_POINT, self._requested, self._limits, utc_now_us())
        await self._send(encode_from_consumer(asked))
        subscribed = decode_from_source(await self._stream.receive())
        assert isinstance(subscribed, Subscribed)
        self._asked_max = subscribed.replays_max

    async def receive(self) -> None:
        """Queue what comes, until cancelled."""
        assert self._stream is not None
        while True:
            self._queue.append(await self._stream.receive())
            self._work.unpark()

    async def follow(self) -> None:
        """Take what has come, then ask and acknowledge, until cancelled."""
        while True:
            while not self._queue:
                await self._work.park()
            while self._queue:
                data = self._queue.popleft()
                message = decode_from_source(data)
                if isinstance(message, Deliver):
                    self._take(message)
                    self._unacked_bytes += len(data)
            if self._unacked_bytes >= _ACK_AT_BYTES:
                await self.acknowledge()
            await self._ask()

    def _take(self, message: Deliver) -> None:
        received = admit_received(message, self._known, self._awaiting, self._missed)
        self.messages += 1
        self._deliveries += 1
        self.events += len(received.accepted)
        if received.parked:
            raise AssertionError(f"{self.id}: a replay left a gap in {received.parked[0]}")
        for name, waits in received.awaiting.items():
            if waits:
                self._to_ask[name] = None
        if message.replay_done:
            name = message.replay_of
            self._asked.discard(name)
            self.whole += name not in self._awaiting and self._known.get(name, 0) >= self._last

    async def _ask(self) -> None:
        """As many as may be asked for now, in one write, as the product's consumer does."""
        assert self._stream is not None
        if not self._to_ask or len(self._asked) >= self._asked_max:
            return
        async with self._lock:
            self._stream.hold()
            while self._to_ask and len(self._asked) < self._asked_max:
                name = next(iter(self._to_ask))
                if not self._stream.send_nowait(encode_from_consumer(Replay(name, self._known.get(name, 0) + 1))):
                    break
                del self._to_ask[name]
                self._asked.add(name)
            self._stream.release()
            if not self._asked:  # the line takes nothing at once
                name = next(iter(self._to_ask))
                del self._to_ask[name]
                self._asked.add(name)
                await self._stream.send(encode_from_consumer(Replay(name, self._known.get(name, 0) + 1)))

    async def acknowledge(self) -> None:
        """Say what was taken since."""
        if self._deliveries != self._acked:
            self._acked, self._unacked_bytes = self._deliveries, 0
            await self._send(encode_from_consumer(ConsumerAck(self._acked)))

    async def beat(self) -> None:
        """Say that it is there."""
        assert self._stream is not None
        await self._send(encode_from_consumer(Heartbeat(self._stream.bytes_received, utc_now_us())))

    async def _send(self, data: bytes) -> None:
        assert self._stream is not None
        async with self._lock:
            await self._stream.send(data)


class _Crowd:
    """All of them, and their commands."""

    def __init__(self, consumers: list[_Consumer], port: int, start_soon: Callable[..., None]) -> None:
        self._consumers = consumers
        self._port = port
        self._start_soon = start_soon

    async def connect(self, stack: AsyncExitStack) -> None:
        """Let all subscribe."""
        for one in self._consumers:
            await one.connect(stack, self._port)
            self._start_soon(one.receive)
            self._start_soon(one.follow)
            self._start_soon(self._every, _ACK_EVERY_S, one.acknowledge)
            self._start_soon(self._every, _HEARTBEAT_S, one.beat)
        answer("load.connected", consumers=len(self._consumers))

    def mark(self) -> None:
        """Count from here."""
        for one in self._consumers:
            one.events = one.messages = one.whole = 0
        answer("load.marked")

    async def whole(self, entities: int) -> None:
        """Wait until everybody has so many entities to their last event."""
        for one in self._consumers:
            while one.whole < entities:  # noqa: ASYNC110  an event for each consumer would cost each message more
                await trio.sleep(_LOOK_S)
        answer(
            "load.whole",
            events=sum(one.events for one in self._consumers),
            messages=sum(one.messages for one in self._consumers),
            cpu_s=time.process_time(),
        )

    async def _every(self, seconds: float, act: Callable[[], object]) -> None:
        while True:
            await trio.sleep(seconds)
            await act()  # type: ignore[misc]


async def _main(port: int, first: int, count: int, criteria: str, batch_events: int, topics: int, **_: object) -> None:
    lines = trio.wrap_file(sys.stdin)
    consumers = [
        _Consumer(number, criteria.replace("{topic}", str(number)), batch_events, topics)
        for number in range(first, first + count)
    ]
    async with border.open_loop(), AsyncExitStack() as stack, trio.open_nursery() as nursery:
        crowd = _Crowd(consumers, port, nursery.start_soon)
        answer("load.ready")
        async for line in lines:
            word, _, rest = line.strip().partition(" ")
            match word:
                case "connect":
                    await crowd.connect(stack)
                case "mark":
                    crowd.mark()
                case "whole":
                    await crowd.whole(int(rest))
        nursery.cancel_scope.cancel()


def main() -> None:
    """Arguments as JSON, as of ``subscribers``; ``topics`` is the number of an entity's last event."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
