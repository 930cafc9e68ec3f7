"""Measuring program: publishes into a cloud over HTTP, on a schedule or as fast as it is let.

Each event carries the time it was due as its own time. Topics are given to entities in turn, so that an entity always
has the same one. ``publish COUNT BATCH RATE`` on standard input begins; the answer comes when all is stored.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import orjson
import trio

from common.runtime.environment import utc_now_us
from tests.bench.processes import answer
from tests.bench.timer import open_timer
from tests.bench.up.http_door import open_http_door
from tests.bench.workload import PAYLOAD_BYTES

_DOORS = 4
# On a schedule no event waits for the answer to an earlier one.
_SCHEDULED_DOORS = 48
_READY_S = 0.5
_PAYLOAD = orjson.Fragment(b'"' + b"x" * (PAYLOAD_BYTES - 2) + b'"')


class _Publisher:
    """Goes on where it was."""

    def __init__(self, port: int, entities: int, topics: int, name: str, root: str) -> None:
        self._port = port
        self._entities = entities
        self._topics = topics
        self._name = name
        self._root = root
        self._next = 0

    async def publish(self, count: int, batch: int, rate: float) -> None:
        """``count`` events in requests of ``batch``; ``rate`` events a second, 0 = as they are taken."""
        begin_s, begin_us = trio.current_time() + _READY_S, utc_now_us() + round(_READY_S * 1e6)
        first, self._next = self._next, self._next + count
        late_s, doors = 0.0, _SCHEDULED_DOORS if rate else _DOORS

        async def post(door_number: int) -> None:
            nonlocal late_s
            async with open_http_door(self._port) as door:
                with open_timer() as timer:
                    for at in range(door_number * batch, count, batch * doors):
                        due_us = begin_us + round(at / rate * 1e6) if rate else 0
                        n = min(batch, count - at)
                        if rate:
                            body = self._body(first + at, n, due_us)
                            await timer.wait_until(begin_s + at / rate)
                            late_s = max(late_s, trio.current_time() - begin_s - at / rate)
                        else:
                            body = self._body(first + at, n, utc_now_us())
                        await door.append(body)

        async with trio.open_nursery() as nursery:
            for number in range(doors):
                nursery.start_soon(post, number)
        answer("published", total=self._next, late_s=late_s, seconds=trio.current_time() - begin_s)

    def _body(self, first: int, count: int, due_us: int) -> bytes:
        seconds, us = divmod(due_us, 1_000_000)
        when = f"{_instant(seconds)}.{us:06}Z"
        rows = []
        for number in range(first, first + count):
            entity = number % self._entities
            row = {
                "entity_type": "Sensor",
                "entity_id": f"{self._name}-{entity:05}",
                "event_type": "TemperatureRead",
                "payload": _PAYLOAD,
                "event_time": when,
            }
            if self._topics:
                row["tags"] = [f"t:{self._root}/{entity % self._topics}/line"]
            rows.append(row)
        return orjson.dumps({"events": rows})


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


async def _main(port: int, entities: int, topics: int, name: str, root: str) -> None:
    publisher = _Publisher(port, entities, topics, name, root)
    answer("publisher.ready")
    async for line in trio.wrap_file(sys.stdin):
        count, batch, rate = line.split()
        await publisher.publish(int(count), int(batch), float(rate))


def main() -> None:
    """Arguments as JSON: ``port`` (HTTP), ``entities``, ``topics`` (0 = none) below ``root``, ``name`` of the entities."""
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
