"""The campaign on the way down: two edges follow the cloud's orders, each with a filter that changes all the time.

One begins with the log, one with snapshots; a program reads each inbox and acknowledges; the cloud takes snapshots and
removes what they cover. Either side dies at every fail point of the way down, then anybody at random. At the end each
inbox is compared with the log, and the stores with what the programs saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from common.core.events.ids import SEPARATOR
from common.core.journal.url import parse_journal_url
from common.runtime.environment import Environment, real_environment
from examples.support.postgres import PostgresUnavailable
from tests.crash.campaign import CONSUMER_POINTS, SOURCE_POINTS, Plan, messages_of
from tests.crash.consumer import FIRST_CRITERIA, STREAM, Consumer
from tests.crash.down.proof import examine_inbox
from tests.crash.failure import CrashFailure
from tests.crash.flow_outcome import FlowOutcome
from tests.crash.killing import Killer, Tell
from tests.crash.orders import ENTITY_TYPE, Order, Publisher
from tests.crash.stage import Stage, open_stage
from tests.crash.stores import read_log

TRIM: Final = "trim.before_commit"
_SNAPSHOT_EVERY: Final = 4
_CLOUD: Final = {
    "projections": "",
    "snapshot_every": f"{ENTITY_TYPE}={_SNAPSHOT_EVERY}",
    "retention_age_s": 3,
    "retention_least_age_s": 0,
    "retention_interval_s": 0.2,
}
# Small batches and windows: many deliveries, acks and pages for little data.
_EDGE: Final = {
    "subscriptions": STREAM,
    "subscription_filters": f"{STREAM}={FIRST_CRITERIA}",
    "lease_s": 1,
    "batch_max_events": 20,
}
_EDGES: Final = ({**_EDGE, "start_from": "log"}, {**_EDGE, "start_from": "snapshots"})
# A brief campaign goes through half of them: they are above the storage, which differs.
_BRIEF_POINTS: Final = {"sqlite": SOURCE_POINTS[::2], "postgres": SOURCE_POINTS[1::2]}
_VISITS_MAX: Final = 3
_LEVEL_TIMEOUT_S: Final = 60.0
_LOOK_S: Final = 0.1
_FIRST_EVENTS: Final = 100


async def run_down_campaign(plan: Plan, directory: Path, tell: Tell) -> FlowOutcome:
    """Run ``plan`` in ``directory``, where the stores and logs stay."""
    began_s = trio.current_time()
    outcome = FlowOutcome(plan)
    try:
        async with open_stage(
            directory, storage=plan.storage, nodes=plan.nodes, chance=Random(), cloud=_CLOUD, edges=_EDGES
        ) as stage:
            campaign = _DownCampaign(plan, stage, outcome, tell)
            try:
                await campaign.run()
            finally:
                campaign.hang_up()
                outcome.alarms = dict(sum((Counter(one.alarms()) for one in stage.services), Counter()))
    except* (CrashFailure, PostgresUnavailable) as group:
        outcome.problems += messages_of(group)
    outcome.took_s = trio.current_time() - began_s
    return outcome


class _DownCampaign:
    """A campaign while it runs."""

    def __init__(self, plan: Plan, stage: Stage, outcome: FlowOutcome, tell: Tell) -> None:
        self._plan = plan
        self._stage = stage
        self._outcome = outcome
        self._published = outcome.published
        self._source_points = (*_BRIEF_POINTS[plan.storage], TRIM) if plan.is_brief else (*SOURCE_POINTS, TRIM)
        self._consumers = [Consumer(edge, Random(f"{plan.seed} {edge.name}")) for edge in stage.edges]
        self._killer = Killer(
            stage, outcome, Random(plan.seed), tell, load=self._load, until_level=self._until_received
        )

    async def run(self) -> None:
        """Everything up to the proof. Raises CrashFailure for what the rest cannot go on without."""
        stage, nodes = self._stage, self._stage.nodes[: 1 if self._plan.rounds else None]
        stop_load, stop_reading = trio.Event(), trio.Event()
        for service in (*nodes, stage.edge):
            await service.start()
        async with trio.open_nursery() as nursery:
            publisher = Publisher(nodes, self._published, Random(f"{self._plan.seed} publisher"))
            nursery.start_soon(publisher.run, stop_load)
            while len(self._published.orders) < _FIRST_EVENTS:  # noqa: ASYNC110 - so that the other edge comes late
                await trio.sleep(_LOOK_S)
            for edge in stage.more_edges:
                await edge.start()
            for consumer in self._consumers:
                nursery.start_soon(consumer.read, stop_reading)
                nursery.start_soon(consumer.change, stop_load)
            for _ in range(self._plan.rounds):
                points = {
                    stage.edges[0]: CONSUMER_POINTS[::2],
                    stage.edges[1]: CONSUMER_POINTS[1::2],
                    stage.nodes[0]: self._source_points,
                }
                await self._killer.visit(points, is_brief=self._plan.is_brief, visits_max=_VISITS_MAX)
            for node in stage.nodes[len(nodes) :]:
                await node.start()
            await self._killer.at_random(self._plan.kills)
            for service in stage.services:
                await service.until_ready()
            stop_load.set()
            for consumer in self._consumers:
                await consumer.settle()
            await self._until_received(settled=True)
            stop_reading.set()
        for service in reversed(stage.services):
            await service.stop()
        await self._prove()

    def hang_up(self) -> None:
        """Close the programs' connections."""
        for consumer in self._consumers:
            consumer.hang_up()

    def _load(self) -> str:
        rows = "+".join(f"{len(consumer.rows):,}" for consumer in self._consumers)
        return f"{len(self._published.orders):>6,} published, {rows} received"

    async def _until_received(self, *, settled: bool = False) -> None:
        """Wait until every consumer is where the log ends now; when settled, with its last filter and all rows read."""
        states: list[Any] = []
        with trio.move_on_after(_LEVEL_TIMEOUT_S):
            head = len(self._published.orders)
            while True:
                await self._stage.tend()
                states = [await consumer.state() for consumer in self._consumers]
                if all(
                    state is not None and state["position"] >= head and (not settled or _is_settled(state, consumer))
                    for state, consumer in zip(states, self._consumers, strict=True)
                ):
                    return
                await trio.sleep(_LOOK_S)
        raise CrashFailure(f"not received within {_LEVEL_TIMEOUT_S:g} s; the log ends at {head}; the edges: {states}")

    async def _prove(self) -> None:
        outcome, orders = self._outcome, self._published.orders
        deleted_to: dict[str, int] = {}
        async with real_environment() as environment:
            outcome.problems += await _examine_log(environment, self._stage.cloud_journal, orders, deleted_to)
            for consumer, settings in zip(self._consumers, _EDGES, strict=True):
                found = examine_inbox(
                    orders,
                    consumer.rows,
                    consumer.wanted,
                    deleted_to,
                    from_snapshots=settings["start_from"] == "snapshots",
                )
                found += await _examine_store(
                    environment, str(self._stage.directory / f"{consumer.edge.name}.db"), consumer
                )
                outcome.problems += [f"{consumer.edge.name}: {problem}" for problem in found]
        if self._plan.rounds:
            wanted = [("edge", point) for point in CONSUMER_POINTS]
            wanted += [("cloud", point) for point in self._source_points]
            outcome.problems += [
                f"no {side} died at {point}" for side, point in wanted if not outcome.points[side, point]
            ]
        outcome.figures = {
            "events published": len(orders),
            "filters changed": sum(consumer.changes for consumer in self._consumers),
            "rows received": sum(len(consumer.rows) for consumer in self._consumers),
            "of them snapshots": sum(row.replaces for consumer in self._consumers for row in consumer.rows),
            "rows read again": sum(consumer.reread for consumer in self._consumers),
            "acknowledgements": sum(consumer.acks for consumer in self._consumers),
            "removed at the source": sum(deleted_to.values()),
        }
        if self._plan.rounds and not all(outcome.figures.values()):
            outcome.problems.append(f"the campaign proved less than it should: {outcome.figures}")
        rows = [row for consumer in self._consumers for row in consumer.rows]
        # None in a run whose consumers keep up, or whose filters come in another order.
        outcome.figures["of them for what was deleted"] = sum(row.deleted for row in rows)
        outcome.figures["of them restarts"] = sum(row.restarts for row in rows)


def _is_settled(state: dict[str, Any], consumer: Consumer) -> bool:
    is_applied = state["applied"]["version"] == state["requested"]["version"] and state["backfill_position"] is None
    return is_applied and not state["awaiting"] and len(consumer.rows) == state["inbox"]["last_id"]


async def _examine_log(
    environment: Environment, url: str, orders: Sequence[Order], deleted_to: dict[str, int]
) -> list[str]:
    """Compare the cloud's log with what was published; ``deleted_to`` is filled."""
    async with environment.open_journal(parse_journal_url(url), max_bytes=None, notified=False) as journal:
        content = await read_log(journal)
        for entity_id in sorted({order.entity_id for order in orders}):
            head = await journal.log.entity_head(f"{ENTITY_TYPE}{SEPARATOR}{entity_id}")
            deleted_to[entity_id] = head.deleted_to if head else 0
    expected = [
        (order.position, f"{ENTITY_TYPE}{SEPARATOR}{order.entity_id}", order.seq_nr)
        for order in orders
        if order.seq_nr > deleted_to[order.entity_id]
    ]
    if [(row.position, row.entity, row.seq_nr) for row in content.rows] != expected:
        return [f"the cloud's log holds {len(content.rows)} events instead of the {len(expected)} that should be left"]
    return [] if content.head == len(orders) else [f"the cloud's log ends at {content.head}, not at {len(orders)}"]


async def _examine_store(environment: Environment, path: str, consumer: Consumer) -> list[str]:
    """The inbox in the edge's journal: what the reader has not acknowledged is there, and the count is right."""
    async with environment.open_journal(parse_journal_url(path), max_bytes=None, notified=False) as journal:
        stats = await journal.subscriptions.inbox_stats(STREAM)
        rows = await journal.subscriptions.inbox(STREAM, 0, max_rows=10**6, max_bytes=2**40)
        stored = await journal.subscriptions.get(STREAM)
    problems = []
    seen = [(row.id, f"{ENTITY_TYPE}{SEPARATOR}{row.entity_id}", row.seq_nr) for row in consumer.rows[stats.acked_id :]]
    if [(row.id, row.event.persistence_id, row.event.seq_nr) for row in rows] != seen:
        problems.append(f"the inbox holds {len(rows)} rows behind {stats.acked_id}, the reader saw {len(seen)} there")
    came = sum(row.is_event for row in consumer.rows)
    if stored is None or stored.received != came:
        problems.append(f"the store counts {stored and stored.received} received, the reader saw {came}")
    return problems
