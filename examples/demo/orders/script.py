"""What happens to the way down: a filter is widened and its edge killed in mid-backfill, an edge stops reading with its
socket full, a new one starts late, from snapshots.

The acts come after the replay, so that the places they look at are moved by orders alone; orders flow all the time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import trio

from common.runtime.environment import utc_now_us
from examples.demo.cast import Cast, Service
from examples.demo.failure import DemoFailure
from examples.demo.orders.orders import (
    ARCHIVED_SITE,
    ORDER_TYPE,
    STREAM,
    TRAVELLER,
    Dispatcher,
    SiteProgram,
    only,
)
from examples.demo.script import Edge, Tell
from examples.support.http_client import Answer, HttpClient, Unanswered

_ASK_TIMEOUT_S: Final = 5.0
_LOOK_S: Final = 0.02
_ACT_TIMEOUT_S: Final = 20.0
_BACKFILL_SEEN_ROWS: Final = 500
_CALM_S: Final = 2.0
_STOPPED_S: Final = 3.0
_LARGE_ORDERS: Final = 120
_LATE_TICKS: Final = 10


@dataclass(slots=True)
class OrderActs:
    """What the acts left behind, for the proof and the closing tables. Times are UTC microseconds."""

    backfilled_at_kill: int = 0
    backfill_left_at_kill: int = 0
    calm_from_us: int = 0
    stopped_us: int = 0
    resumed_us: int = 0
    read_at_stop: int = 0
    late_from: int = 0
    """Head of the cloud's log when the late edge started: what came before has its snapshots."""


async def ask(service: Service, call: Callable[[HttpClient], Any]) -> Answer:
    """One answer of a service that is up. Raises DemoFailure when none comes."""
    client = HttpClient(lambda: service.http_port)
    try:
        with trio.fail_after(_ASK_TIMEOUT_S):
            answer: Answer = await call(client)
            return answer
    except (Unanswered, trio.TooSlowError) as error:
        raise DemoFailure(f"{service.name} does not answer: {error!r}") from error
    finally:
        client.close()


async def subscription_of(service: Service) -> dict[str, Any]:
    """Where an edge is in the stream of orders, as it says itself."""
    answer = await ask(service, lambda client: client.get("/v1/subscriptions"))
    found: dict[str, Any] = next(row for row in answer.body["subscriptions"] if row["name"] == STREAM)
    return found


async def widen_and_kill(edge: Edge, site: str, cast: Cast, acts: OrderActs, tell: Tell) -> None:
    """The edge wants the closed site's orders too, and is killed when some of them have come."""
    before = (await subscription_of(edge.service))["received"]
    wanted = {"criteria": only(site, ARCHIVED_SITE)}
    answer = await ask(edge.service, lambda client: client.put(f"/v1/subscriptions/{STREAM}/filter", wanted))
    if answer.status != 200:
        raise DemoFailure(f"{edge.id} refused a filter: {answer.body}")
    tell(edge.id, f"asks for site/{ARCHIVED_SITE} beside site/{site}, while it runs: its backfill begins at once")
    with trio.move_on_after(_ACT_TIMEOUT_S):
        await _until(edge.service, lambda place: place["received"] >= before + _BACKFILL_SEEN_ROWS)
    edge.line.set_mode("black-hole")
    await cast.kill(edge.service)
    place, received = _place_on_disk(edge.journal)
    backfill = place["backfill"]
    acts.backfilled_at_kill = received - before
    acts.backfill_left_at_kill = place["live"]["position"] - backfill["position"] if backfill else 0
    tell(
        edge.id,
        f"SIGKILL in mid-backfill: {acts.backfilled_at_kill:,} orders' events had come, "
        f"{acts.backfill_left_at_kill:,} positions were to be looked through",
    )
    edge.line.reset()
    edge.line.set_mode("pass")
    await cast.start(edge.service)
    tell(edge.id, "restarted on its file: the backfill goes on where it was")


def _place_on_disk(path: str) -> tuple[dict[str, Any], int]:
    """What a dead edge's file says, read without the product."""
    with closing(sqlite3.connect(path)) as file:
        place, received = file.execute("SELECT place, received FROM subscription WHERE name = ?", (STREAM,)).fetchone()
    return json.loads(place), received


async def stop_reading(
    edge: Edge, program: SiteProgram, site: str, cast: Cast, dispatcher: Dispatcher, acts: OrderActs, tell: Tell
) -> None:
    """SIGSTOP while more flows to the edge than the buffers between hold; the others must not feel it."""
    acts.calm_from_us = utc_now_us()
    await trio.sleep(_CALM_S)
    acts.read_at_stop = program.read
    cast.freeze(edge.service)
    acts.stopped_us = utc_now_us()
    tell(edge.id, f"SIGSTOP; {_LARGE_ORDERS} orders with drawings, {_LARGE_ORDERS // 10} MB, are on their way to it")
    with trio.move_on_after(_STOPPED_S):
        await dispatcher.publish_large(site, _LARGE_ORDERS)
        await trio.sleep_forever()
    acts.resumed_us = utc_now_us()
    cast.thaw(edge.service)
    tell(edge.id, f"SIGCONT after {(acts.resumed_us - acts.stopped_us) / 1e6:.1f} s")


async def _until(service: Service, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Until an edge is where it should be in the stream of orders."""
    while True:
        if holds(await subscription_of(service)):
            return
        await trio.sleep(_LOOK_S)


async def start_late(
    late: Service, cloud: Service, site: str, cast: Cast, dispatcher: Dispatcher, acts: OrderActs, tell: Tell
) -> None:
    """A second gateway at a site, after weeks as it were: it takes snapshots first, then what comes."""
    await _snapshots_taken(cloud)
    acts.late_from = await _head_of(cloud)
    await cast.start(late)
    tell(late.name, f"a new edge at site/{site}: it begins from the orders' snapshots")
    with trio.move_on_after(_ACT_TIMEOUT_S):
        await _until(late, lambda place: bool(place.get("position")))
    for _ in range(_LATE_TICKS):
        await dispatcher.tick()


async def move_an_order(cloud: Service, origin: str, target: str, dispatcher: Dispatcher, tell: Tell) -> None:
    """An order that one site has worked on goes to another one, which has nothing of it."""
    await dispatcher.publish_traveller(origin)
    await _snapshots_taken(cloud)
    await dispatcher.move_traveller(target)
    tell(
        "cloud",
        f"the order {TRAVELLER}, 3 steps at site/{origin}, moves to site/{target}: with the 4th step its history goes there, "
        f"and site/{origin} sees it leave",
    )


async def _snapshots_taken(cloud: Service) -> None:
    """Until the cloud's rule has looked at every order's event; it runs as a projection does."""
    with trio.move_on_after(_ACT_TIMEOUT_S):
        while True:
            rows = (await ask(cloud, lambda client: client.get("/v1/projections"))).body["projections"]
            if all(not row["behind"] for row in rows):
                return
            await trio.sleep(_LOOK_S)
    raise DemoFailure("the cloud's projections and snapshots are behind for too long")


async def _head_of(cloud: Service) -> int:
    """Last position of the cloud's log."""
    return int((await ask(cloud, lambda client: client.get("/status"))).body["journal"]["head"])


async def orders_arrived(
    edges: Sequence[tuple[Service, SiteProgram]], cloud: Service, *, at_most_s: float
) -> list[str]:
    """Until every edge is at the head of the cloud's log and its program has read all; what is not is a problem."""
    waiting: list[str] = []
    with trio.move_on_after(at_most_s):
        while True:
            head = await _head_of(cloud)
            waiting = []
            for service, program in edges:
                place = await subscription_of(service)
                is_there = place.get("position") == head and place["next"] is None and not place["awaiting"]
                if not is_there or program.read < place["inbox"]["last_id"]:
                    waiting.append(f"{service.name} at {place.get('position')} of {head}, backfill {place.get('next')}")
            if not waiting:
                return []
            await trio.sleep(_LOOK_S)
    return [f"after {at_most_s:.0f} s {ORDER_TYPE}s are still on their way: {'; '.join(waiting)}"]
