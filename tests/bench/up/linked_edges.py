"""Measuring program: many edges in one process, each with the product's own link to a cloud of several addresses.

Each edge's journal is in memory and gets events at a steady rate. What is measured is the time from an event's being stored to
its ack, whatever the link goes through meanwhile: drained, refused, dialled again at another node. It is asked by lines:
``acked`` is answered with each edge's last ack, ``moved`` with the seconds until each edge has had a later one than that, and
``over`` ends it.
"""

from __future__ import annotations

import json
import random
import sys
import uuid
from collections import deque
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import NoReturn

import trio

from common import VERSION
from common.core.addresses import Address, PeerAddress
from common.core.flow.backoff import Backoff
from common.core.journal.append import LocalAppend
from common.core.push.messages import PushLimits
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.runtime.environment import real_environment, utc_now_us
from common.runtime.logs.setup import configure_logging
from common.transport.grpc.client import open_channel
from common.transport.link.dialler import PeerDialler
from common.transport.push.link import keep_push_link
from common.transport.push.link_state import LinkState
from common.transport.push.producer import PushSettings
from common.transport.stream import Channel
from tests.bench.processes import answer
from tests.bench.workload import events

_LOOK_S = 0.02
_MESSAGE_MAX_BYTES = 8 * 1024 * 1024


class _Edge:
    """One edge: its journal, its link, and since when each of its events waits for an ack."""

    def __init__(self, number: int, journal: Journal, every_s: float) -> None:
        self.id = f"edge-{number}"
        self.stored = 0
        self.link = LinkState()
        self.longest_s = 0.0
        self.marked = 0
        self._journal = journal
        self._every_s = every_s
        self._waiting: deque[tuple[int, float]] = deque()

    @property
    def is_acked(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    async def store(self, chance: random.Random, until_s: trio.Event) -> None:
        """One event after the other, until that is over."""
        await trio.sleep(chance.uniform(0, self._every_s))
        while not until_s.is_set():
            await self._journal.log.append_group([LocalAppend(events(self.id, self.stored, 1, entities=1))])
            self.stored += 1
            self._waiting.append((self.stored, trio.current_time()))
            with trio.move_on_after(self._every_s):
                await until_s.wait()

    def mark(self) -> int:
        """The last ack, from which ``moves`` counts."""
        self.marked = self.link.acked_position
        return self.marked

    async def moves(self) -> float:
        """Seconds until an ack covers more than what was marked."""
        began_s = trio.current_time()
        while self.link.acked_position <= self.marked:  # noqa: ASYNC110  the link's own
            await trio.sleep(_LOOK_S)
        return trio.current_time() - began_s

    def look(self, now_s: float) -> None:
        """Take what was acknowledged off the list."""
        while self._waiting and self._waiting[0][0] <= self.link.acked_position:
            self.longest_s = max(self.longest_s, now_s - self._waiting.popleft()[1])

    def forget(self) -> None:
        """Count from now on."""
        self.longest_s = 0.0

    async def push(self, dial: PeerDialler, chance: random.Random) -> None:
        """Keep the link, with the defaults of an edge service."""
        settings = PushSettings(
            origin_id=self.id,
            instance=uuid.uuid4().hex,
            limits=PushLimits(
                window_events=16_000, window_bytes=4 * 1024 * 1024, batch_bytes=1024 * 1024, event_bytes=1024 * 1024
            ),
            batch_max_events=2_000,
            window_max_batches=8,
            heartbeat_s=10.0,
            progress_timeout_s=30.0,
            poll_interval_s=1.0,
        )
        await keep_push_link(
            dial, self._journal, settings, self.link, backoff=Backoff(0.5, 30.0), chance=chance, now_us=utc_now_us
        )


async def _look(edges: list[_Edge]) -> NoReturn:
    while True:
        await trio.sleep(_LOOK_S)
        for edge in edges:
            edge.look(trio.current_time())


async def _moved(everybody: list[_Edge]) -> list[float]:
    """Of each edge, as it comes."""
    found: list[float] = []

    async def one(edge: _Edge) -> None:
        found.append(await edge.moves())

    async with trio.open_nursery() as nursery:
        for edge in everybody:
            nursery.start_soon(one, edge)
    return found


async def _main(ports: list[int], first: int, edges: int, every_s: float = 1.0) -> None:
    commands, chance, over = trio.wrap_file(sys.stdin), random.Random(first), trio.Event()
    peer = PeerAddress(tuple(Address("127.0.0.1", port) for port in ports))

    def dial(address: Address) -> AbstractAsyncContextManager[Channel]:
        return open_channel(
            address, tls=None, connect_timeout_s=5.0, message_max_bytes=_MESSAGE_MAX_BYTES, user_timeout_s=30.0
        )

    async with real_environment(), AsyncExitStack() as stack:
        everybody = []
        for number in range(first, first + edges):
            opened = open_memory_journal(MemoryDatabase(), now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex)
            everybody.append(_Edge(number, await stack.enter_async_context(opened), every_s))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look, everybody)
            async with trio.open_nursery() as storing:
                for edge in everybody:
                    nursery.start_soon(edge.push, PeerDialler(peer, dial, chance), chance)
                    storing.start_soon(edge.store, chance, over)
                while not all(edge.link.acked_position for edge in everybody):  # noqa: ASYNC110  links' own
                    await trio.sleep(_LOOK_S)
                for edge in everybody:
                    edge.forget()
                answer("load.connected")
                while (command := (await commands.readline()).strip()) not in ("", "over"):
                    if command == "acked":
                        answer("load.acked", acked={edge.id: edge.mark() for edge in everybody})
                    else:
                        answer("load.moved", seconds=await _moved(everybody))
                over.set()
            while not all(edge.is_acked for edge in everybody):  # noqa: ASYNC110  links' own
                await trio.sleep(_LOOK_S)
            answer(
                "result",
                longest_s=[edge.longest_s for edge in everybody],
                stored=sum(edge.stored for edge in everybody),
            )
            nursery.cancel_scope.cancel()


def main() -> None:
    """Arguments as JSON: ``ports`` of the nodes, the number of the ``first`` edge, how many ``edges``, seconds between events."""
    configure_logging(
        service="edges", version=VERSION, instance="", now_us=utc_now_us, level="warning", log_format="json"
    )
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
