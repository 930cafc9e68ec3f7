"""One consumer is stopped dead, with its sockets full: in the tail, in the middle of a catch-up, and of a backfill.

The others follow a schedule meanwhile. Their delays are compared with those just before, and the ring's lag is looked
at again and again. The stopped process is a real one, by SIGSTOP.
"""

from __future__ import annotations

import trio

from tests.bench.down.behind import fill
from tests.bench.down.crowd import Crowd, Publisher, Source, crowd, open_source, publisher
from tests.bench.place import Place
from tests.bench.table import Table

_RATE = 200
_P99_RATIO = 1.5
_ONE_TOPIC = '[{"exclude_all":true},{"include_topics":["site/0/#"]}]'
_NEARLY_ALL = '[{"exclude_tags":["t:site/1/line"]}]'
_LOOK_S = 0.2


async def _lag(node: Source, seen: list[float]) -> None:
    while True:
        seen.append(await node.metric("firehose_ring_lag_events"))
        await trio.sleep(_LOOK_S)


async def _phase(node: Source, others: Crowd, publishing: Publisher, seconds: int) -> tuple[float, float]:
    """p99 of the others, and the largest lag of the ring."""
    await others.mark()
    lags: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_lag, node, lags)
        through = await publishing.begin(_RATE * seconds, batch=1, rate=_RATE)
        await publishing.end()
        reached = await others.reach(through)
        nursery.cancel_scope.cancel()
    return reached.p99_s, max(lags)


async def _stopped(place: Place, url: str, head: int, phase: str, seconds: int) -> tuple[float, float, float, float]:
    """p99 before and with one stopped, and the ring's lags."""
    count = place.sized(100, 10)
    async with (
        open_source(place, url, {"progress_timeout_s": 600}) as node,
        publisher(node.http_port, entities=50, topics=1, name="live") as publishing,
        crowd(node.grpc_port, count, criteria=_ONE_TOPIC, timed=1, loads=1) as others,
        crowd(node.grpc_port, 1, criteria="" if phase == "catch-up" else _ONE_TOPIC, first=count) as victim,
    ):
        publishing.total = head
        await others.connect()
        await others.reach(head)
        await _phase(node, others, publishing, 2)  # a warm-up
        before_s, lag_before = await _phase(node, others, publishing, seconds)
        await victim.connect()
        if phase == "tail":
            await victim.reach(publishing.total)
        elif phase == "catch-up":
            await victim.ask("begun", "load.begun")
        else:
            await victim.reach(publishing.total)
            await victim.ask(f"filter 2 {_NEARLY_ALL}", "load.asked")
            await victim.ask("begun backfill", "load.begun")
        victim.programs[0].freeze()
        try:
            stopped_s, lag = await _phase(node, others, publishing, seconds)
        finally:
            victim.programs[0].thaw()
    return before_s, stopped_s, lag_before, lag


async def run(place: Place) -> list[Table]:
    """Each phase with a cloud of its own, over one log."""
    total, seconds = place.sized(300_000, 20_000), place.sized(15, 3)
    table = Table(f"One consumer stopped; the others at the tail, {_RATE} events/s, {total:,} events before")
    with place.postgres.fresh() as url:
        await fill(url, total, 100)
        head = total
        for phase in ("tail", "catch-up", "backfill"):
            before_s, stopped_s, lag_before, lag = await _stopped(place, url, head, phase, seconds)
            head += _RATE * (2 + 2 * seconds)
            ratio = stopped_s / before_s
            table.judge(
                f"stopped in {phase}: p99 of the others",
                f"{before_s * 1e3:.1f} ms before, {stopped_s * 1e3:.1f} ms",
                f"<= {_P99_RATIO} times",
                ratio <= _P99_RATIO,
            )
            table.add("  largest lag of the ring, events", f"{lag_before:.0f} before, {lag:.0f}")
    return [table]
