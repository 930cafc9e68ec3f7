"""The campaign of entities that come into what is pushed: the cloud asks an edge for some sites, and orders move between them.

Each time an order comes back, the edge brings what the cloud lacks of it before. The edge dies in the middle of that, the
cloud before and behind the commit that stores it. At the end the cloud has of each order all events up to the last one
that it asked for, each once and under its own number, and of the others none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Final

import orjson
import trio

from common.core.events.ids import SEPARATOR
from common.core.journal.url import parse_journal_url
from common.runtime.environment import Environment, real_environment
from examples.support.http_client import HttpClient, Unanswered
from examples.support.postgres import PostgresUnavailable
from tests.crash.campaign import PAST_POINTS, Plan, messages_of
from tests.crash.failure import CrashFailure
from tests.crash.flow_outcome import FlowOutcome
from tests.crash.killing import Killer, Tell
from tests.crash.orders import ENTITY_TYPE, HOME, SITES, Order, Publisher
from tests.crash.proof import Row
from tests.crash.stage import EDGE_ID, PREFIX, Stage, open_stage
from tests.crash.stores import read_log

ASKED: Final = frozenset({HOME, SITES[0]})
_CRITERIA: Final = [{"exclude_all": True}, {"include_topics": sorted(ASKED)}]
_IN_THE_CLOUD: Final = ("append.before_commit", "append.after_commit", "push.before_ack")
_EDGE_VISITS: Final = 4
_VISITS_MAX: Final = 3
# Small batches and one in flight: a past is many messages. What the edge has stays: how much is missing is exact.
_EDGE: Final = {"batch_max_events": 12, "window_max_batches": 1, "keep_acked_s": 86_400}
_CLOUD: Final = {"projections": ""}
_LEVEL_TIMEOUT_S: Final = 60.0
_LOOK_S: Final = 0.05
_FIRST_EVENTS: Final = 100


async def run_pasts_campaign(plan: Plan, directory: Path, tell: Tell) -> FlowOutcome:
    """Run the rounds of ``plan`` in ``directory``, where the stores and logs stay."""
    began_s = trio.current_time()
    outcome = FlowOutcome(plan)
    try:
        async with open_stage(
            directory, storage=plan.storage, nodes=1, chance=Random(), cloud=_CLOUD, edges=(_EDGE,)
        ) as stage:
            try:
                await _PastsCampaign(plan, stage, outcome, tell).run()
            finally:
                outcome.alarms = dict(sum((Counter(one.alarms()) for one in stage.services), Counter()))
    except* (CrashFailure, PostgresUnavailable) as group:
        outcome.problems += messages_of(group)
    outcome.took_s = trio.current_time() - began_s
    return outcome


class _PastsCampaign:
    """A campaign while it runs."""

    def __init__(self, plan: Plan, stage: Stage, outcome: FlowOutcome, tell: Tell) -> None:
        self._plan = plan
        self._stage = stage
        self._outcome = outcome
        self._published = outcome.published
        self._node = stage.nodes[0]
        self._points = {
            stage.edge: PAST_POINTS * (2 if plan.is_brief else _EDGE_VISITS),
            self._node: _IN_THE_CLOUD[:1] if plan.is_brief else _IN_THE_CLOUD,
        }
        self._killer = Killer(
            stage,
            outcome,
            Random(plan.seed),
            tell,
            load=lambda: f"{len(self._published.orders):>6,} published",
            until_level=self._until_acknowledged,
        )

    async def run(self) -> None:
        """Everything up to the proof. Raises CrashFailure for what the rest cannot go on without."""
        stage, stop = self._stage, trio.Event()
        await self._node.start()
        await self._node.until_ready()
        await self._ask_for_sites()
        await stage.edge.start()
        await stage.edge.until_ready()
        async with trio.open_nursery() as nursery:
            publisher = Publisher([stage.edge], self._published, Random(f"{self._plan.seed} publisher"))
            nursery.start_soon(publisher.run, stop)
            while len(self._published.orders) < _FIRST_EVENTS:  # noqa: ASYNC110  another process
                await trio.sleep(_LOOK_S)
            for _ in range(self._plan.rounds):
                await self._killer.visit(self._points, is_brief=self._plan.is_brief, visits_max=_VISITS_MAX)
            for service in stage.services:
                await service.until_ready()
            stop.set()
        await self._until_acknowledged()
        for service in reversed(stage.services):
            await service.stop()
        await self._prove()

    async def _ask_for_sites(self) -> None:
        client = HttpClient(lambda: self._node.http_port)
        try:
            answer = await client.post(f"/v1/origins/{EDGE_ID}/filter", {"criteria": _CRITERIA, "history": "full"})
        except Unanswered as error:
            raise CrashFailure(f"the cloud did not answer: {error}") from error
        finally:
            client.close()
        if answer.status != 200:
            raise CrashFailure(f"the filter was refused with status {answer.status}: {answer.body}")

    async def _until_acknowledged(self) -> None:
        """Wait until all that the edge holds now is acknowledged."""
        edge, wanted = None, 0
        with trio.move_on_after(_LEVEL_TIMEOUT_S):
            for service in self._stage.services:
                await service.until_ready()
            while True:
                await self._stage.tend()
                edge = await self._stage.ask(self._stage.edge)
                wanted = wanted or (edge["journal"]["head"] if edge is not None else 0)
                if wanted and edge is not None and edge["link"]["acked"] >= wanted:
                    return
                await trio.sleep(_LOOK_S)
        raise CrashFailure(f"{wanted} not acknowledged within {_LEVEL_TIMEOUT_S:g} s; the edge: {edge}")

    async def _prove(self) -> None:
        outcome, orders = self._outcome, self._published.orders
        async with real_environment() as environment:
            rows, parked = await _read(environment, self._stage.cloud_journal)
        outcome.problems += examine_pasts(orders, rows)
        if parked:
            outcome.problems.append(f"the cloud holds {parked} parked events")
        wanted = [("edge", point) for point in PAST_POINTS] + [("cloud", point) for point in self._points[self._node]]
        outcome.problems += [f"no {side} died at {point}" for side, point in wanted if not outcome.points[side, point]]
        shown = shown_through(orders)
        outcome.figures = {
            "events published": len(orders),
            "events in the cloud": len(rows),
            "brought as a past": sum(not _is_shown(one) and one.seq_nr <= shown[one.entity_id] for one in orders),
            "not asked for": sum(one.seq_nr > shown[one.entity_id] for one in orders),
        }
        if not all(outcome.figures.values()):
            outcome.problems.append(f"the campaign proved less than it should: {outcome.figures}")


def _is_shown(order: Order) -> bool:
    """Whether the event is asked for itself: it is at one of the sites, or leaves one."""
    return order.topic in ASKED or order.before in ASKED


def shown_through(orders: Iterable[Order]) -> Mapping[str, int]:
    """The number of each order's last event that is asked for; 0 where none is."""
    shown: dict[str, int] = {}
    for order in orders:
        shown[order.entity_id] = order.seq_nr if _is_shown(order) else shown.get(order.entity_id, 0)
    return shown


def examine_pasts(orders: Sequence[Order], rows: Iterable[Row]) -> list[str]:
    """What is wrong with the cloud's log: of each order it has 1 to the last one asked for, in their order, as published."""
    shown = shown_through(orders)
    expected: dict[str, list[tuple[int, object]]] = {}
    for order in orders:
        if order.seq_nr <= shown[order.entity_id]:
            expected.setdefault(f"{ENTITY_TYPE}{SEPARATOR}{PREFIX}{order.entity_id}", []).append(
                (order.seq_nr, order.payload)
            )
    found: dict[str, list[tuple[int, object]]] = {}
    problems = []
    for row in rows:
        found.setdefault(row.entity, []).append((row.origin_seq_nr, orjson.loads(row.payload)))
        if row.seq_nr != row.origin_seq_nr:
            problems.append(f"{row.entity} {row.origin_seq_nr} is number {row.seq_nr} in the cloud")
    for name in sorted({*expected, *found}):
        if found.get(name, []) != expected.get(name, []):
            numbers = [seq_nr for seq_nr, _ in found.get(name, [])]
            problems.append(f"{name} should be there up to {len(expected.get(name, []))}, and has {numbers}")
    return problems


async def _read(environment: Environment, url: str) -> tuple[Sequence[Row], int]:
    async with environment.open_journal(parse_journal_url(url), max_bytes=None, notified=False) as journal:
        content = await read_log(journal)
    return content.rows, content.parked
