"""Applications at the edges: they append at random, retry what they do not know the end of, and never give up early.

Each event has a payload of its own. A retry carries the idempotency key and the same events; after the disk under the
service was exchanged nothing is retried, since the key went with the disk.
"""

from __future__ import annotations

from random import Random
from typing import cast

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import join_metadata, join_tags, new_events
from common.core.journal.append import Appended, LocalAppend
from common.runtime.service_parts import Ports
from tests.simulation.facts import Submission
from tests.simulation.hosts import Host
from tests.simulation.plan import FaultPlan
from tests.simulation.referee import Referee
from tests.simulation.world import PLAIN_TYPE

_UNKNOWN = frozenset({"journal.closing", "journal.unavailable"})
_RETRY_S = 0.3


class _Request:
    """One request: the same events however often it is sent."""

    def __init__(
        self, application: str, number: int, entities: list[str], expected: dict[str, int], chance: Random
    ) -> None:
        self.number = number
        self.entities = entities
        self.expected = expected
        self.key = f"{application}-{number}" if chance.random() < 0.5 else ""
        self.tags = ("red", f"t:{application}") if chance.random() < 0.2 else ()
        self.metadata = {"trace": str(number)} if chance.random() < 0.2 else {}
        self.payloads: list[bytes] = []

    def made(self) -> LocalAppend:
        """The request as a caller builds it: the intake may change what it is given."""
        n = len(self.entities)
        events = new_events(
            list(self.entities),
            ["Read"] * n,
            list(self.payloads),
            event_time_us=[self.number] * n,
            tags=[join_tags(self.tags)] * n,
            metadata=[join_metadata(self.metadata)] * n,
        )
        return LocalAppend(events, dict(self.expected), self.key)


class Application:
    """The local programs of one edge. ``name`` tells a clone's events from those of its original."""

    def __init__(self, name: str, edge_id: str, host: Host, plan: FaultPlan, referee: Referee) -> None:
        self.stored = 0
        self.refused = 0
        self.unknown = 0
        self._name = name
        self._edge_id = edge_id
        self._host = host
        self._plan = plan
        self._referee = referee
        self._chance = Random(f"application {plan.seed} {name}")
        self._appends = 0
        self._seq_nr: dict[str, int] = {}
        self._entities = [f"Sensor|t{n}" for n in range(self._chance.randint(1, 4))] + [f"{PLAIN_TYPE}|p"]

    async def run(self, until_s: float) -> None:
        """Append until then; returns when the end of every request is known, or cannot be."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._plan.appenders):
                nursery.start_soon(self._append_until, until_s)

    async def _append_until(self, until_s: float) -> None:
        while True:
            await trio.sleep(self._chance.expovariate(1 / self._plan.pause_s))
            if trio.current_time() >= until_s:
                return
            await self._see_through(self._new_request())

    def _new_request(self) -> _Request:
        chance = self._chance
        self._appends += 1
        most = min(self._plan.sizes.batch_events, chance.choice((1, 1, 3, 8)))
        entities = [chance.choice(self._entities) for _ in range(chance.randint(1, most))]
        expected = {}
        if chance.random() < 0.3:
            name = entities[0]
            expected[name] = self._seq_nr.get(name, 0) + (chance.random() < 0.1)
        request = _Request(self._name, self._appends, entities, expected, chance)
        for index, entity in enumerate(entities):
            padding = b"." * chance.randint(0, self._plan.sizes.payload_bytes)
            request.payloads.append(f"{self._name}:{self._appends}:{index}:".encode() + padding)
            entity_type, _, entity_id = entity.partition("|")
            self._referee.facts.submissions[request.payloads[-1]] = Submission(
                self._edge_id,
                f"{self._name} {self._appends}",
                len(entities),
                f"{entity_type}|{self._edge_id}/{entity_id}",
                "Read",
                self._appends,
                request.tags,
                request.metadata,
            )
        return request

    async def _see_through(self, request: _Request) -> None:
        """Send until the outcome is known; now and then once more, which must change nothing."""
        disk = self._host.disk
        answer: Appended | None = None
        again = 1 if request.key and self._chance.random() < 0.2 else 0
        while True:
            ports = cast(Ports, await self._host.running())
            if self._host.disk is not disk:
                self.unknown += answer is None
                return
            try:
                outcome = await ports.intake.append(request.made())
            except BackhaulError as error:
                if error.code not in _UNKNOWN:
                    self._refused(request, error, answer)
                    return
                if not request.key:
                    self.unknown += 1
                    return
                await trio.sleep(_RETRY_S)
                continue
            if self._host.disk is disk:
                self._stored(request, outcome, answer)
            if not again:
                return
            answer, again = outcome, again - 1
            await trio.sleep(self._chance.uniform(0, 5))

    def _stored(self, request: _Request, outcome: Appended, before: Appended | None) -> None:
        referee = self._referee
        referee.appends.told_stored(request.payloads, outcome)
        if before is not None and not outcome.repeated:
            referee.complain("AppendsHonoured", f"{request.key} was stored again at {outcome.first_position}")
        self.stored += before is None
        for name, seq_nr in zip(request.entities, outcome.seq_nr, strict=True):
            self._seq_nr[name] = max(seq_nr, self._seq_nr.get(name, 0))
        for name, expected in request.expected.items():
            first = outcome.seq_nr[request.entities.index(name)]
            if first != expected + 1:
                referee.complain("AppendsHonoured", f"{name} was expected at {expected} and went on with {first}")

    def _refused(self, request: _Request, error: BackhaulError, before: Appended | None) -> None:
        self.refused += 1
        self._referee.appends.told_refused(request.payloads, error.code)
        if error.code != "append.wrong_expected_seq_nr" or before is not None:
            self._referee.complain("AppendsHonoured", f"{self._name} {request.number} was refused: {error}")
        for name in request.expected:
            self._seq_nr[name] = int(cast(int, error.details["actual"]))
