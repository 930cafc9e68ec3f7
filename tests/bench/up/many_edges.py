"""Measuring program: many edges in one process, each with a connection, a push stream and an event a second.

It goes on by command: ``connect``, then ``push``. Times are from the moment an event was due to the arrival of its ack,
so a load that falls behind its schedule shows in the figures instead of hiding.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack

import trio

from common import border
from common.core.events.batch import EventBatch
from common.core.journal.history import Generation, History
from common.core.push.messages import PUSH_PATH, Ack, Hello, PushBatch, Start
from common.runtime.environment import utc_now_us
from common.transport.codec import push as codec
from common.transport.stream import DialledStream
from tests.bench.down.dialling import dialled
from tests.bench.processes import answer
from tests.bench.workload import events

_PARALLEL_DIALS = 20


class _Edge:
    """One edge: says Hello, then one batch of one event at each of its times."""

    def __init__(self, number: int) -> None:
        self.id = f"edge-{number}"
        self._stream: DialledStream | None = None
        self._due_s: dict[int, float] = {}

    async def connect(self, stack: AsyncExitStack, port: int, certificates: str) -> None:
        """Dial, and open the push stream."""
        channel = await dialled(stack, port, certificates, self.id, 2**20)
        stream = await stack.enter_async_context(channel.open_stream(PUSH_PATH))
        history = History(f"journal of {self.id}", (Generation("generation", 1),), 1_000_000)
        await stream.send(codec.encode_from_edge(Hello(self.id, "process", history, utc_now_us())))
        assert isinstance(codec.decode_from_cloud(await stream.receive()), Start)
        self._stream = stream

    async def push(self, first_at_s: float, count: int, ack_s: list[float], late_s: list[float]) -> None:
        """``count`` events, one a second from ``first_at_s`` on; returns when all are acknowledged."""
        assert self._stream
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, count, ack_s)
            for number in range(1, count + 1):
                due_s = first_at_s + number - 1
                await trio.sleep_until(due_s)
                late_s.append(trio.current_time() - due_s)
                self._due_s[number] = due_s
                batch = PushBatch(number - 1, number, "generation", self._event(number))
                await self._stream.send(codec.encode_from_edge(batch))

    def _event(self, number: int) -> EventBatch:
        batch = events(self.id, number - 1, 1, entities=1)
        batch.position = batch.seq_nr = [number]
        batch.prev_seq_nr = [number - 1]
        batch.timestamp_us = batch.stored_us = [utc_now_us()]
        return batch

    async def _receive(self, count: int, ack_s: list[float]) -> None:
        assert self._stream
        while True:
            message = codec.decode_from_cloud(await self._stream.receive())
            if isinstance(message, Ack):
                now_s = trio.current_time()
                covered = [number for number in self._due_s if number <= message.position]
                ack_s.extend(now_s - self._due_s.pop(number) for number in covered)
                if message.position >= count:
                    return


async def _connect(edges: list[_Edge], stack: AsyncExitStack, port: int, certificates: str) -> None:
    """All of them, a few at a time."""
    turns = trio.CapacityLimiter(_PARALLEL_DIALS)

    async def dial(edge: _Edge) -> None:
        async with turns:
            await edge.connect(stack, port, certificates)

    async with trio.open_nursery() as nursery:
        for edge in edges:
            nursery.start_soon(dial, edge)


async def _main(port: int, edges: int, seconds: int, certificates: str) -> None:
    result = trio.wrap_file(sys.stdin)
    everybody = [_Edge(number) for number in range(edges + edges // 10)]
    ack_s: list[float] = []
    late_s: list[float] = []
    async with border.open_loop(), AsyncExitStack() as stack:
        await _connect(everybody[edges:], stack, port, certificates)
        answer("load.warm")
        await result.readline()
        await _connect(everybody[:edges], stack, port, certificates)
        answer("load.connected")
        await result.readline()
        begin_s = trio.current_time() + 0.5
        async with trio.open_nursery() as nursery:
            for number, edge in enumerate(everybody[:edges]):
                nursery.start_soon(edge.push, begin_s + number / edges, seconds, ack_s, late_s)
        answer("result", ack_s=ack_s, late_s=max(late_s), seconds=trio.current_time() - begin_s)


def main() -> None:
    """Arguments as JSON: ``port``, ``edges``, ``seconds``, ``certificates`` (a folder or '')."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
