"""Who uses the way down: programs that publish in the cloud, work off inboxes at the edges, change filters, take snapshots.

All of them go through the doors that real ones have: the intake's, and the HTTP port of whatever process runs now. What
a process that died was asked may have happened or not; what was answered well has happened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import cast

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import join_tags, new_events
from common.core.filters.predicates import parse_filter
from common.core.journal.append import LocalAppend
from common.runtime.service_parts import Ports
from common.testing.http_in_memory import HttpAnswer, http_request
from tests.simulation.disks import Disk
from tests.simulation.down.orders_folded import NAME, FoldPlan
from tests.simulation.down.plan import ORDER_TYPE, ORDERS_MAX, SITES, DownPlan, FollowedStream, draw_criteria
from tests.simulation.facts import CLOUD, Submission
from tests.simulation.hosts import Host
from tests.simulation.plan import FaultPlan
from tests.simulation.referee import Referee
from tests.simulation.world import World

_UNKNOWN = frozenset({"journal.closing", "journal.unavailable"})
_RETRY_S = 0.3
_ANSWER_S = 20.0
_CALM_ACK_S = 0.5


async def ask(host: Host, method: str, path: str, body: object = None) -> HttpAnswer | None:
    """A request to the service that runs; None when none does, or when it died over it."""
    app = host.app
    if app is None:
        return None
    answer = None
    with trio.move_on_after(_ANSWER_S):
        answer = await http_request(app, method, path, body)
    return answer if host.app is app else None


class Publisher:
    """A program in the cloud: work orders, each at a site and for one edge or for all, that move now and then."""

    def __init__(self, number: int, plan: FaultPlan, down: DownPlan, world: World, referee: Referee) -> None:
        self._name = f"publisher-{number}"
        self._plan = plan
        self._down = down
        self._world = world
        self._referee = referee
        self._chance = Random(f"{self._name} {plan.seed}")
        self._appends = 0
        self._tags: dict[str, tuple[str, ...]] = {}

    async def run(self, until_s: float) -> None:
        """Publish until then; returns when the end of every request is known, or cannot be."""
        while True:
            await trio.sleep(self._chance.expovariate(1 / self._down.publish_s))
            if trio.current_time() >= until_s:
                return
            await self._publish()

    def _next_tags(self, order: str) -> tuple[str, ...]:
        chance = self._chance
        if order not in self._tags or chance.random() < self._down.move_chance:
            whose = chance.choice((*self._plan.edges, "all", "all"))
            tags = {f"t:for/{whose}", f"t:site/{chance.randrange(SITES)}/{chance.choice('ab')}"}
            tags |= {"red"} if chance.random() < 0.3 else set()
            self._tags[order] = tuple(sorted(tags)) if chance.random() < 0.95 else ()
        return self._tags[order]

    async def _publish(self) -> None:
        chance, facts = self._chance, self._referee.facts
        self._appends += 1
        n = chance.randint(1, min(self._plan.sizes.batch_events, chance.choice((1, 1, 3, 6))))
        orders = [f"{ORDER_TYPE}|o{chance.randrange(ORDERS_MAX)}" for _ in range(n)]
        tags = [self._next_tags(order) for order in orders]
        payloads: list[bytes] = []
        for index, order in enumerate(orders):
            padding = b"." * chance.randint(0, self._plan.sizes.payload_bytes)
            payloads.append(f"{self._name}:{self._appends}:{index}:".encode() + padding)
            facts.submissions[payloads[-1]] = Submission(
                CLOUD, f"{self._name} {self._appends}", n, order, "Changed", self._appends, tags[index], {}
            )
        key = f"{self._name}-{self._appends}" if chance.random() < 0.7 else ""
        life = facts.cloud_lives
        while True:
            node = self._chance.choice(list(self._world.nodes.values()))
            ports = cast(Ports, await node.running())
            if facts.cloud_lives != life:
                return
            events = new_events(
                list(orders),
                ["Changed"] * n,
                list(payloads),
                event_time_us=[self._appends] * n,
                tags=[join_tags(one) for one in tags],
            )
            try:
                reported = await ports.intake.append(LocalAppend(events, {}, key))
            except BackhaulError as error:
                if error.code not in _UNKNOWN:
                    self._referee.complain("PublishedIsKept", f"{self._name} {self._appends} was refused: {error}")
                if error.code not in _UNKNOWN or not key:
                    return
                await trio.sleep(_RETRY_S)
                continue
            if facts.cloud_lives == life:
                self._referee.appends.told_stored(payloads, reported)
                self._referee.down.published(payloads)
            return


class Reader:
    """A program at an edge: it fetches what waits in an inbox and acknowledges it, some or all of it, now or later.

    However slow it was among the faults, it is quick once they are over: what is slow to converge then is the services.
    """

    def __init__(
        self, followed: FollowedStream, plan: FaultPlan, down: DownPlan, world: World, referee: Referee
    ) -> None:
        self._name = followed.name
        self._host = world.edges[followed.edge]
        self._down = down
        self._calm = world.calm
        self._referee = referee
        self._chance = Random(f"reader {plan.seed} {followed.edge} {followed.name}")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            ack_s = min(self._down.ack_s, _CALM_ACK_S) if self._calm.is_set() else self._down.ack_s
            await trio.sleep(self._chance.expovariate(1 / ack_s))
            disk = self._host.disk
            answer = await ask(self._host, "GET", f"/v1/inbox/{self._name}?max={self._chance.choice((1, 10, 1_000))}")
            if answer is None or answer.status != 200 or self._host.disk is not disk:
                continue
            ids = [event["id"] for event in answer.json()["events"]]
            if ids != sorted(ids):
                self._referee.complain("InboxIsInOrder", f"{self._name} gives {ids}")
            if ids:
                through = self._chance.choice((ids[-1], ids[-1], ids[len(ids) // 2]))
                await ask(self._host, "POST", f"/v1/inbox/{self._name}/ack", {"through": through})


class FilterChanger:
    """An operator who wants other entities of a stream, again and again."""

    def __init__(self, followed: FollowedStream, host: Host, plan: FaultPlan, down: DownPlan, referee: Referee) -> None:
        self._name = followed.name
        self._host = host
        self._edges = plan.edges
        self._change_s = down.change_s
        self._referee = referee
        self._chance = Random(f"changer {plan.seed} {followed.edge} {followed.name}")

    async def run(self, until_s: float) -> None:
        """Change the filter until then."""
        while True:
            await trio.sleep(self._chance.expovariate(1 / self._change_s))
            if trio.current_time() >= until_s:
                return
            criteria = draw_criteria(self._chance, self._edges)
            disk = self._host.disk
            answer = await ask(
                self._host, "PUT", f"/v1/subscriptions/{self._name}/filter", {"criteria": json.loads(criteria)}
            )
            if answer is not None and answer.status == 200 and self._host.disk is disk:
                self._check_kept(disk, criteria)

    def _check_kept(self, disk: Disk, criteria: str) -> None:
        entry = disk.state.subscriptions.get(self._name)
        wanted = parse_filter(criteria).criteria
        if entry is None or entry.current.requested.criteria != wanted:
            self._referee.complain("AskedIsKept", f"{disk.name} was told {wanted} for {self._name} and has {entry}")


class SnapshotTaker:
    """A program that has the state of orders, and hands snapshots in through the HTTP port of some node."""

    def __init__(self, plan: FaultPlan, down: DownPlan, nodes: Mapping[str, Host], referee: Referee) -> None:
        self._chance = Random(f"snapshots {plan.seed}")
        self._snapshot_s = down.snapshot_s
        self._nodes = nodes
        self._referee = referee
        self._taken = 0

    async def run(self, until_s: float) -> None:
        """Take snapshots until then."""
        chance = self._chance
        while self._snapshot_s:
            await trio.sleep(chance.expovariate(1 / self._snapshot_s))
            if trio.current_time() >= until_s:
                return
            order = f"o{chance.randrange(ORDERS_MAX)}"
            head = self._referee.facts.cloud_disk.state.heads.get(f"{ORDER_TYPE}|{order}")
            if head is None:
                continue
            self._taken += 1
            body = {
                "seq_nr": max(1, head.seq_nr - chance.choice((0, 0, 0, 1, 3))),
                "event_type": "State",
                "payload": {"taken": self._taken},
            }
            await ask(chance.choice(list(self._nodes.values())), "PUT", f"/v1/snapshots/{ORDER_TYPE}/{order}", body)


class ProjectionResetter:
    """An operator who has the projection of orders begin again."""

    def __init__(self, plan: FaultPlan, fold: FoldPlan, nodes: Mapping[str, Host]) -> None:
        self._chance = Random(f"resetter {plan.seed}")
        self._resets_s = fold.resets_s
        self._nodes = nodes

    async def run(self, _until_s: float) -> None:
        """At the plan's times; where no node runs that has it, nothing happens."""
        for at_s in self._resets_s:
            await trio.sleep_until(at_s)
            node = self._chance.choice(list(self._nodes.values()))
            await ask(node, "POST", f"/v1/projections/{NAME}/reset", {"confirm": NAME})
