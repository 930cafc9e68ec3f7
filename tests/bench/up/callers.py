"""Measuring program: local programs at an edge's doors, each with a connection of its own and one call at a time.

``unary`` calls a gRPC method again and again, ``http`` posts JSON, ``stream`` keeps one gRPC stream of appends full.
The first two are closed loops: a caller that waits for an answer asks nothing meanwhile.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import cycle
from math import inf

import trio

from common import border
from common.core.addresses import Address
from common.core.journal.append import LocalAppend
from common.runtime.intake_grpc import APPEND_PATH, APPEND_STREAM_PATH
from common.transport.codec import intake as codec
from common.transport.grpc import GrpcChannel, open_channel
from tests.bench.processes import answer
from tests.bench.table import percentile
from tests.bench.up.echo_server import ECHO_PATH
from tests.bench.up.http_door import http_body, open_http_door
from tests.bench.workload import events

_READY_REQUESTS = 50
_WARM_UP_S = 0.5
_PATHS = {"unary": APPEND_PATH, "echo": ECHO_PATH}


class _Clock:
    """Counts answered events, and how long each took, between the end of the warm-up and the end."""

    def __init__(self) -> None:
        self.begin_s = self.end_s = inf
        self.events = 0
        self.took_s: list[float] = []

    def start(self, seconds: float) -> None:
        """Everybody is connected and asking."""
        self.begin_s = trio.current_time() + _WARM_UP_S
        self.end_s = self.begin_s + seconds

    @property
    def is_over(self) -> bool:
        return trio.current_time() >= self.end_s

    def answered(self, count: int, asked_at_s: float) -> None:
        """``count`` events of a request that was sent at ``asked_at_s`` are on disk."""
        now_s = trio.current_time()
        if self.begin_s <= now_s <= self.end_s:
            self.events += count
            self.took_s.append(now_s - asked_at_s)


def _channel(port: int) -> AbstractAsyncContextManager[GrpcChannel]:
    return open_channel(
        Address("127.0.0.1", port), tls=None, connect_timeout_s=30, message_max_bytes=2**23, user_timeout_s=30
    )


async def _call(
    caller: int, clock: _Clock, port: int, batch: int, path: str, *, task_status: trio.TaskStatus[None]
) -> None:
    append = [LocalAppend(events(f"caller-{caller}", n * batch, batch)) for n in range(_READY_REQUESTS)]
    requests = [codec.encode_append_request(one) for one in append]
    async with _channel(port) as channel:
        task_status.started()
        for request in cycle(requests):
            asked_at_s = trio.current_time()
            await channel.unary(path, request, 30)
            clock.answered(batch, asked_at_s)
            if clock.is_over:
                return


async def _post(caller: int, clock: _Clock, port: int, batch: int, *, task_status: trio.TaskStatus[None]) -> None:
    requests = [http_body(events(f"caller-{caller}", n * batch, batch)) for n in range(_READY_REQUESTS)]
    async with open_http_door(port) as door:
        task_status.started()
        for request in cycle(requests):
            asked_at_s = trio.current_time()
            await door.append(request)
            clock.answered(batch, asked_at_s)
            if clock.is_over:
                return


async def _stream(caller: int, clock: _Clock, port: int, batch: int, *, task_status: trio.TaskStatus[None]) -> None:
    append = [LocalAppend(events(f"caller-{caller}", n * batch, batch)) for n in range(_READY_REQUESTS)]
    requests = [codec.encode_append_request(one) for one in append]
    async with (
        _channel(port) as channel,
        channel.open_stream(APPEND_STREAM_PATH) as stream,
        trio.open_nursery() as both,
    ):

        async def hear() -> None:
            while not clock.is_over:
                codec.decode_append_reply(await stream.receive())
                clock.answered(batch, clock.begin_s)
            both.cancel_scope.cancel()

        both.start_soon(hear)
        task_status.started()
        for request in cycle(requests):
            await stream.send(request)


async def _main(kind: str, port: int, callers: int, batch: int, seconds: float) -> None:
    run = {"http": _post, "stream": _stream}.get(kind) or partial(_call, path=_PATHS[kind])
    async with border.open_loop():
        clock = _Clock()
        async with trio.open_nursery() as nursery:
            for caller in range(callers):
                await nursery.start(run, caller, clock, port, batch)
            clock.start(seconds)
        answer(
            "result",
            rate=clock.events / seconds,
            p50_s=percentile(clock.took_s, 0.5),
            p99_s=percentile(clock.took_s, 0.99),
        )


def main() -> None:
    """Arguments as JSON: ``kind``, ``port``, ``callers``, ``batch`` (events a request), ``seconds``."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
