"""The way down: a dispatcher publishes work orders in the cloud, and a program at each site takes its own from the edge.

An order is an entity whose events carry the topic of the site it belongs to; an order that moves changes its topic. The
programs know nothing of the cloud: they read the inbox of the edge beside them over HTTP, as any program would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import trio

from common.runtime.environment import utc_now_us
from examples.demo.failure import DemoFailure
from examples.demo.orders.proof import Delivered, content_of, topic_of
from examples.support.http_client import HttpClient, Unanswered

ORDER_TYPE: Final = "WorkOrder"
STREAM: Final = "orders"
ARCHIVED_SITE: Final = "old"
ARCHIVE_EVENTS: Final = 20_000
SNAPSHOT_EVERY: Final = 3
TRAVELLER: Final = "traveller"
TRAVELLED_STEPS: Final = 4

_ARCHIVE_STEPS: Final = 5
_POST_EVENTS_MAX: Final = 2_000
_TICK_S: Final = 0.1
_LARGE_BYTES: Final = 100_000
_RETRY_S: Final = 0.05
_PAGE_ROWS: Final = 1_000
_WAIT_S: Final = 1


def only(*sites: str) -> list[dict[str, object]]:
    """The criteria that let through the orders of these sites and nothing else."""
    return [{"exclude_all": True}, {"include_topics": [f"site/{site}" for site in sites]}]


class Dispatcher:
    """Publishes orders through the cloud's `POST /v1/events`; every POST has a key and is repeated until answered."""

    def __init__(self, port: Callable[[], int], sites: Sequence[str], chance: random.Random) -> None:
        self._port = port
        self._sites = sites
        self._chance = chance
        self._posts = 0
        self._orders = 0
        self._open: list[tuple[str, int, str]] = []  # order, steps so far, site
        self.published = 0
        self.moved = 0

    async def publish_archive(self) -> None:
        """The closed site's orders, all of them done long ago."""
        orders = ARCHIVE_EVENTS // _ARCHIVE_STEPS
        events = [
            _event(f"old-{number}", step, "archived", ARCHIVED_SITE)
            for step in range(1, _ARCHIVE_STEPS + 1)
            for number in range(1, orders + 1)
        ]
        for start in range(0, len(events), _POST_EVENTS_MAX):
            await self._post(events[start : start + _POST_EVENTS_MAX])

    async def run(self) -> None:
        """Place orders and bring the open ones on, some every tick, until cancelled."""
        while True:
            await self.tick()
            await trio.sleep(_TICK_S)

    async def tick(self) -> None:
        """A new order, and a step of a few others."""
        self._orders += 1
        site = self._chance.choice(self._sites)
        events = [_event(f"order-{self._orders}", 1, "placed", site)]
        steps = self._chance.sample(self._open, min(3, len(self._open)))
        self._open.append((f"order-{self._orders}", 1, site))
        for order, step, at in steps:
            self._open.remove((order, step, at))
            what, now_at = self._next(step, at)
            events.append(_event(order, step + 1, what, now_at))
            if what != "done":
                self._open.append((order, step + 1, now_at))
        await self._post(events)

    def _next(self, step: int, site: str) -> tuple[str, str]:
        if step >= 4 and self._chance.random() < 0.5:
            return "done", site
        if self._chance.random() < 0.3:
            self.moved += 1
            return "moved", self._chance.choice([other for other in self._sites if other != site])
        return "worked on", site

    async def publish_large(self, site: str, orders: int) -> None:
        """Orders with a drawing each, more than the buffers of a connection hold."""
        for number in range(1, orders + 1):
            await self._post([_event(f"large-{number}", 1, "placed", site, drawing="x" * _LARGE_BYTES)])

    async def publish_traveller(self, site: str) -> None:
        """An order that is worked on at a site."""
        steps = enumerate(("placed", "worked on", "worked on"), 1)
        await self._post([_event(TRAVELLER, step, what, site) for step, what in steps])

    async def move_traveller(self, site: str) -> None:
        """It goes on at another one."""
        self.moved += 1
        await self._post([_event(TRAVELLER, TRAVELLED_STEPS, "moved", site)])

    async def _post(self, events: Sequence[dict[str, object]]) -> None:
        self._posts += 1
        client = HttpClient(self._port)
        try:
            while True:
                try:
                    answer = await client.post("/v1/events", {"events": events}, key=f"orders-{self._posts}")
                except Unanswered:
                    await trio.sleep(_RETRY_S)
                    continue
                if answer.status < 500:
                    break
                await trio.sleep(_RETRY_S)
        finally:
            client.close()
        if answer.status not in (200, 201):
            raise DemoFailure(f"the cloud refused orders with status {answer.status}: {answer.body}")
        self.published += len(events)


def _event(order: str, step: int, what: str, site: str, **more: object) -> dict[str, object]:
    return {
        "entity_type": ORDER_TYPE,
        "entity_id": order,
        "event_type": "OrderChanged",
        "tags": [topic_of(site)],
        "payload": {"order": order, "step": step, "what": what, "site": site, **more},
    }


@dataclass(slots=True)
class SiteProgram:
    """A program beside an edge that reads the inbox from the beginning, and acknowledges what it has if ``acks``.

    ``acked`` is what it acknowledged, so that it is in no store any more; ``waits`` are (stored in the cloud, read here),
    in UTC microseconds, of what it read as it came.
    """

    edge_id: str
    acks: bool = False
    acked: list[Delivered] = field(default_factory=list)
    waits: list[tuple[int, int]] = field(default_factory=list)
    read: int = 0
    """Id of the last row read; as many rows have come."""

    def disk_lost(self) -> None:
        """The edge has a new inbox, which counts from 1."""
        assert not self.acks, "what was acknowledged would come again"
        self.read = 0

    async def run(self, port: Callable[[], int]) -> None:
        """Read until cancelled; an edge that is away is asked again."""
        client = HttpClient(port)
        try:
            while True:
                try:
                    await self._read(client)
                except Unanswered:
                    await trio.sleep(_RETRY_S)
        finally:
            client.close()

    async def _read(self, client: HttpClient) -> None:
        after = self.read
        answer = await client.get(f"/v1/inbox/{STREAM}?after={after}&max={_PAGE_ROWS}&wait_s={_WAIT_S}")
        if answer.status != 200:
            await trio.sleep(_RETRY_S)  # no subscription yet: the edge has just been replaced
            return
        rows = answer.body["events"]
        now_us = utc_now_us()
        if not rows or self.read != after:  # the disk was lost meanwhile
            return
        self.waits.extend((row["stored_us"], now_us) for row in rows)
        if self.acks:
            acknowledged = await client.post(f"/v1/inbox/{STREAM}/ack", {"through": rows[-1]["id"]})
            if acknowledged.status != 200:
                raise DemoFailure(f"{self.edge_id} refused an ack: {acknowledged.body}")
            self.acked.extend(map(_delivered, rows))
        self.read = rows[-1]["id"]

    def waits_between(self, from_us: int, to_us: int) -> Iterator[tuple[int, int]]:
        """Those of what the cloud stored in that time."""
        return (pair for pair in self.waits if from_us <= pair[0] <= to_us)


def _delivered(row: dict[str, Any]) -> Delivered:
    return Delivered(
        f"{row['entity_type']}|{row['entity_id']}",
        row["seq_nr"],
        content_of(orjson.dumps(row["payload"])),
        row["leaving"],
        row["replaces"],
    )
