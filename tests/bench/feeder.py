"""Measuring program: a local program that appends events on a fixed schedule, whatever comes of the earlier ones.

Each event carries the time it was due as its own time, so every delay, also that of the feeder, counts.
"""

from __future__ import annotations

import json
import sys

import trio

from common import border
from common.core.append import LocalAppend
from common.runtime.intake_grpc import APPEND_STREAM_PATH
from common.runtime.outside import utc_now_us
from common.transport import codec
from common.transport.streams import open_channel
from tests.bench.http_door import http_body, open_http_door
from tests.bench.processes import answer
from tests.bench.workload import events

_ENTITIES = 100
_HTTP_CONNECTIONS = 16


class _Schedule:
    """Event n is due at ``begin + n / rate``."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._begin_s = trio.current_time() + 0.2
        self._begin_us = utc_now_us() + 200_000
        self.late_s = 0.0

    async def wait_for(self, number: int) -> LocalAppend:
        """Event ``number`` when it is due."""
        due_s = self._begin_s + number / self._rate
        await trio.sleep_until(due_s)
        self.late_s = max(self.late_s, trio.current_time() - due_s)
        batch = events("feeder", number, 1, _ENTITIES)
        batch.event_time_us = [self._begin_us + round(number / self._rate * 1e6)]
        return LocalAppend(batch)


async def _grpc(port: int, schedule: _Schedule, count: int) -> None:
    """One stream of appends, one event a message."""
    async with (
        open_channel(
            f"127.0.0.1:{port}", tls=None, connect_timeout_s=10, message_max_bytes=2**20, user_timeout_s=30
        ) as channel,
        channel.open_stream(APPEND_STREAM_PATH) as stream,
        trio.open_nursery() as both,
    ):

        async def hear() -> None:
            for _ in range(count):
                codec.decode_append_reply(await stream.receive())

        both.start_soon(hear)
        for number in range(count):
            await stream.send(codec.encode_append_request(await schedule.wait_for(number)))


async def _http(port: int, schedule: _Schedule, count: int) -> None:
    """A few connections that take turns, so that one answer that is late delays no other event."""

    async def post_every(first: int) -> None:
        async with open_http_door(port) as door:
            for number in range(first, count, _HTTP_CONNECTIONS):
                await door.append(http_body((await schedule.wait_for(number)).events))

    async with trio.open_nursery() as nursery:
        for first in range(_HTTP_CONNECTIONS):
            nursery.start_soon(post_every, first)


async def _main(kind: str, port: int, rate: float, seconds: float) -> None:
    async with border.open_loop():
        schedule = _Schedule(rate)
        await (_grpc if kind == "grpc" else _http)(port, schedule, round(rate * seconds))
        answer("result", late_s=schedule.late_s)


def main() -> None:
    """Arguments as JSON: ``kind`` (grpc or http), ``port``, ``rate`` (events a second), ``seconds``."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
