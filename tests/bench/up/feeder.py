"""Measuring program: a local program that appends events on a fixed schedule, whatever comes of the earlier ones.

Each event carries the time it was due as its own time, so every delay, also that of the feeder, counts.
"""

from __future__ import annotations

import gc
import json
import sys

import trio

from common import border
from common.core.addresses import Address
from common.core.journal.append import LocalAppend
from common.runtime.environment import utc_now_us
from common.runtime.intake_grpc import APPEND_STREAM_PATH
from common.transport.codec import intake as codec
from common.transport.grpc import open_channel
from tests.bench.processes import answer
from tests.bench.timer import Timer, open_timer
from tests.bench.up.http_door import http_body, open_http_door
from tests.bench.workload import events

_ENTITIES = 100
_HTTP_CONNECTIONS = 16
# All messages are made before the first is due: that takes most of it.
_READY_S = 2.0


class _Schedule:
    """Event n is due at ``begin + n / rate``; all of them are made before the first is due."""

    def __init__(self, rate: float, count: int) -> None:
        self._rate = rate
        self._begin_s = trio.current_time() + _READY_S
        begin_us = utc_now_us() + round(_READY_S * 1e6)
        self.late_s = 0.0
        self.appends = [self._append(number, begin_us) for number in range(count)]

    def _append(self, number: int, begin_us: int) -> LocalAppend:
        batch = events("feeder", number, 1, _ENTITIES)
        batch.event_time_us = [begin_us + round(number / self._rate * 1e6)]
        return LocalAppend(batch)

    async def wait_for(self, number: int, timer: Timer) -> None:
        """Return when event ``number`` is due."""
        due_s = self._begin_s + number / self._rate
        await timer.wait_until(due_s)
        self.late_s = max(self.late_s, trio.current_time() - due_s)


async def _grpc(port: int, schedule: _Schedule) -> None:
    """One stream of appends, one event a message."""
    requests = list(map(codec.encode_append_request, schedule.appends))
    async with (
        open_channel(
            Address("127.0.0.1", port), tls=None, connect_timeout_s=10, message_max_bytes=2**20, user_timeout_s=30
        ) as channel,
        channel.open_stream(APPEND_STREAM_PATH) as stream,
        trio.open_nursery() as both,
    ):

        async def hear() -> None:
            for _ in requests:
                codec.decode_append_reply(await stream.receive())

        both.start_soon(hear)
        with open_timer() as timer:
            for number, request in enumerate(requests):
                await schedule.wait_for(number, timer)
                await stream.send(request)


async def _http(port: int, schedule: _Schedule) -> None:
    """A few connections that take turns, so that one answer that is late delays no other event."""
    bodies = [http_body(append.events) for append in schedule.appends]

    async def post_every(first: int) -> None:
        async with open_http_door(port) as door:
            with open_timer() as timer:
                for number in range(first, len(bodies), _HTTP_CONNECTIONS):
                    await schedule.wait_for(number, timer)
                    await door.append(bodies[number])

    async with trio.open_nursery() as nursery:
        for first in range(_HTTP_CONNECTIONS):
            nursery.start_soon(post_every, first)


async def _main(kind: str, port: int, rate: float, seconds: float) -> None:
    async with border.open_loop():
        schedule = _Schedule(rate, round(rate * seconds))
        # Its own pauses are not what is measured.
        gc.collect()
        gc.freeze()
        await (_grpc if kind == "grpc" else _http)(port, schedule)
        answer("result", late_s=schedule.late_s)


def main() -> None:
    """Arguments as JSON: ``kind`` (grpc or http), ``port``, ``rate`` (events a second), ``seconds``."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
