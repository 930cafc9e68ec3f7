"""Measuring program: entities in this process, or an edge's over HTTP.

``commands``: callers in a closed loop, then every state read again by another runtime. ``recovery``: one entity with many
events, then the same with a snapshot. ``touch``: many entities, one command each, with a small cache. ``http``: callers that
post commands to a port; ``states`` reads all states there.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice, pairwise
from random import Random
from statistics import median
from typing import Any

import orjson
import trio

from common.core.events.types import EventTypes
from common.core.journal.url import parse_journal_url
from common.entity.definition import define
from common.entity.live import LiveEntity
from common.entity.runtime import Entities, open_entities
from common.entity.settings import EntitySettings
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.stores.journal import Journal
from common.runtime.environment import real_environment
from tests.bench.entity.app import Snapped
from tests.bench.processes import answer
from tests.bench.up.http_door import HttpDoor, open_http_door
from tests.support.entities import Add, AddEach, Count, Counters

_WARM_UP_S = 0.5
_CALLERS = 64


@asynccontextmanager
async def _journal(url: str) -> AsyncIterator[tuple[Journal, GroupCommit]]:
    async with real_environment() as environment:
        async with environment.open_journal(parse_journal_url(url), max_bytes=None, notified=False) as journal:
            async with open_group_commit(journal.log) as commit:
                yield journal, commit


@asynccontextmanager
async def _entities(journal: Journal, commit: GroupCommit, cached_max: int = 10_000) -> AsyncIterator[Entities]:
    settings = EntitySettings(cached_max=cached_max, deadline_s=60)
    definitions = define([Counters, Snapped], EventTypes())
    async with open_entities(journal, commit, definitions, settings, node=uuid.uuid4().hex, chance=Random(1)) as found:
        yield found


async def _commands(result: dict[str, Any]) -> dict[str, Any]:
    entities_count, callers, seconds = result["entities"], result["callers"], result["seconds"]
    acknowledged, within, busy_s = 0, 0, 0.0

    async def call(entities: Entities, chance: Random, begin_s: float, end_s: float) -> None:
        nonlocal acknowledged, within
        while trio.current_time() < end_s:
            await entities.ask("Counter", str(chance.randrange(entities_count)), Add(1))
            acknowledged += 1
            within += begin_s <= trio.current_time() <= end_s

    async with _journal(result["url"]) as (journal, commit):
        async with _entities(journal, commit) as entities, trio.open_nursery() as nursery:
            begin_s = trio.current_time() + _WARM_UP_S
            busy_s = -time.process_time()
            for number in range(callers):
                nursery.start_soon(call, entities, Random(number), begin_s, begin_s + seconds)
        busy_s += time.process_time()
        commits = commit.commits
        async with _entities(journal, commit) as entities:
            began_s = trio.current_time()
            total = await _sum(entities, entities_count)
            reread_s = trio.current_time() - began_s
    return {
        "rate": within / seconds,
        "cpu_us": busy_s / acknowledged * 1e6,
        "each_commit": acknowledged / commits,
        "reread_s": reread_s,
        "is_right": total == acknowledged,
    }


async def _sum(entities: Entities, count: int) -> int:
    """Every state, as many at a time as there are callers."""
    total, names = 0, iter(range(count))

    async def read() -> None:
        nonlocal total
        for name in names:
            state = (await entities.look("Counter", str(name))).state
            assert isinstance(state, Count)
            total += state.value

    async with trio.open_nursery() as nursery:
        for _ in range(_CALLERS):
            nursery.start_soon(read)
    return total


async def _recovery(result: dict[str, Any]) -> dict[str, Any]:
    events, rounds = result["events"], result["rounds"]
    found: dict[str, Any] = {}
    async with _journal(result["url"]) as (journal, commit):
        for entity_type in ("Counter", "Snapped"):
            async with _entities(journal, commit) as entities:
                for _ in range(events // 1_000):
                    await entities.ask(entity_type, "long", AddEach((1,) * 1_000))
                while entity_type == "Snapped":
                    snapshot = await journal.snapshots.get("Snapped|long")
                    if snapshot is not None and snapshot.seq_nr == events:
                        break
                    await trio.sleep(0.01)
            took = []
            for _ in range(rounds):
                async with _entities(journal, commit) as entities:
                    began_s = trio.current_time()
                    state = (await entities.look(entity_type, "long")).state
                    took.append(trio.current_time() - began_s)
                    assert state == Count(events)
            found[entity_type] = median(took)
    return found


async def _touch(result: dict[str, Any]) -> dict[str, Any]:
    """One command to each of many entities; memory with a full cache, after so many touched each time, and at most."""
    names = iter(range(result["touched"][-1]))

    async def call(entities: Entities, names: Iterator[int]) -> None:
        for name in names:
            await entities.ask("Counter", str(name), Add(1))

    resident_mb, took_s, live = [], 0.0, 0
    async with _journal(result["url"]) as (journal, commit):
        async with _entities(journal, commit, result["cached"]) as entities:
            for number in range(result["cached"]):
                await entities.ask("Snapped", str(number), Add(1))
            before_mb, _ = _held()
            for more in (after - before for before, after in pairwise([0, *result["touched"]])):
                began_s = trio.current_time()
                async with trio.open_nursery() as nursery:
                    some = islice(names, more)
                    for _ in range(_CALLERS):
                        nursery.start_soon(call, entities, some)
                took_s += trio.current_time() - began_s
                mb, live = _held()
                resident_mb.append(mb)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    rate = result["touched"][-1] / took_s
    return {"rate": rate, "before_mb": before_mb, "resident_mb": resident_mb, "peak_mb": peak_mb, "live": live}


def _held() -> tuple[float, int]:
    """Resident MB, and how many entities there are in memory, whichever store holds them."""
    gc.collect()
    return _rss_mb(), sum(type(one) is LiveEntity for one in gc.get_objects())


def _rss_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _http(result: dict[str, Any]) -> dict[str, Any]:
    acknowledged, within = 0, 0

    async def call(door: HttpDoor, chance: Random, begin_s: float, end_s: float) -> None:
        nonlocal acknowledged, within
        while trio.current_time() < end_s:
            await door.ask("POST", f"/v1/entities/Counter/{chance.randrange(result['entities'])}/Add", b'{"by":1}')
            acknowledged += 1
            within += begin_s <= trio.current_time() <= end_s

    async with AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(open_http_door(result["port"])) for _ in range(result["callers"])]
        begin_s = trio.current_time() + _WARM_UP_S
        async with trio.open_nursery() as nursery:
            for number, door in enumerate(doors):
                nursery.start_soon(call, door, Random(number), begin_s, begin_s + result["seconds"])
    return {"rate": within / result["seconds"], "acknowledged": acknowledged}


async def _states(result: dict[str, Any]) -> dict[str, Any]:
    total, names = 0, iter(range(result["entities"]))

    async def read(door: HttpDoor) -> None:
        nonlocal total
        for name in names:
            answered = orjson.loads(await door.ask("GET", f"/v1/entities/Counter/{name}", b""))
            total += answered["state"]["value"]

    began_s = trio.current_time()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(read, await stack.enter_async_context(open_http_door(result["port"])))
    return {"total": total, "took_s": trio.current_time() - began_s}


_KINDS = {"commands": _commands, "recovery": _recovery, "touch": _touch, "http": _http, "states": _states}


def main() -> None:
    """Arguments as JSON: ``kind``, and those of the kind."""
    result = json.loads(sys.argv[1])
    answer("result", **trio.run(_KINDS[result["kind"]], result))


if __name__ == "__main__":
    main()
