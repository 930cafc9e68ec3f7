"""Measuring program: an edge's end of a subscription, with a handler; its journal is an SQLite file of its own.

It is the product's consumer as it is. The handler notes how long after it was due an event came to it; ``tell`` on
standard input asks for it.
"""

from __future__ import annotations

import json
import random
import sys
import uuid
from pathlib import Path

import trio

from common import border
from common.core.addresses import Address
from common.core.events.batch import EventBatch
from common.core.flow.backoff import Backoff
from common.core.journal.statement import Statement
from common.core.subscription.messages import StreamLimits
from common.journal.sqlite import open_sqlite_journal
from common.projection.handler_executor import call_inline
from common.projection.handler_invoker import HandlerInvoker
from common.projection.handlers import Handler
from common.runtime.app.handler_sink import HandlerSink
from common.runtime.environment import utc_now_us
from common.transport.grpc import open_channel
from common.transport.subscription.link import keep_subscription
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState
from common.watchdog import Watchdog
from tests.bench.processes import answer

_LIMITS = StreamLimits(4 * 1024 * 1024, 1024 * 1024, 2_000)


async def _main(port: int, path: str) -> None:
    delays: list[tuple[int, int]] = []

    def note(events: EventBatch) -> list[Statement]:
        now_us = utc_now_us()
        delays.extend((due_us, now_us - due_us) for due_us in events.event_time_us)
        return [Statement("INSERT INTO seen (position) VALUES ($1)", [(position,) for position in events.position])]

    handler = Handler("seen", [["CREATE TABLE seen (position BIGINT PRIMARY KEY)"]], statements=note, is_quick=True)
    state = SubscriptionState("Sensor", "Sensor")
    async with (
        border.open_loop(),
        open_sqlite_journal(Path(path), now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as journal,
        trio.open_nursery() as nursery,
    ):
        sink = HandlerSink(HandlerInvoker(handler, lambda _: None, call_inline, Watchdog()), journal)

        async def keep() -> None:
            await keep_subscription(
                lambda: open_channel(
                    Address("127.0.0.1", port),
                    tls=None,
                    connect_timeout_s=10,
                    message_max_bytes=2**23,
                    user_timeout_s=30,
                ),
                journal,
                sink,
                SubscriptionSettings("Sensor", "Sensor", "edge-follower", _LIMITS),
                state,
                owner="bench",
                backoff=Backoff(0.1, 1.0),
                chance=random.Random(1),
                now_us=utc_now_us,
            )

        nursery.start_soon(keep)
        while state.state != "connected":  # noqa: ASYNC110  the state has no event
            await trio.sleep(0.01)
        answer("follower.connected")
        async for line in trio.wrap_file(sys.stdin):
            while state.position < int(line):  # noqa: ASYNC110  likewise
                await trio.sleep(0.01)
            answer("result", delays=delays)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Arguments as JSON: ``port``, ``path`` of the journal."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
