"""Nodes that are killed while ranges move between them: three on one PostgreSQL, at fail points of moves and at random.

One after the other a node is killed, every fourth at a fail point of a hand-over or a takeover, and started again; now and then
an operator drains one, so that ranges move without anybody dying. Events are stored all the time. At the end the tally must
be a fold of the log: each event once, in order.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import trio

from common import border
from common.core.journal.append import LocalAppend
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from common.projection.tally import all_tallies, fold_all
from common.runtime.environment import utc_now_us
from examples.support.processes import Program, Programs, open_programs, service_variables
from tests.bench.workload import batches

NODES: Final = ("n1", "n2", "n3")
_TAKEOVER: Final = "projection.taken_over"
_HAND_OVER: Final = "projection.handed_over"
POINTS: Final = (_HAND_OVER, _TAKEOVER, "projection.accepted")
_RANGES: Final = 8
# A range stays for five seconds where it has come to, so some lives are longer.
_LIFE_S: Final = (0.2, 8.0)
_STAYS_S: Final = 8.0
_AT_A_POINT_S: Final = 60.0
_SETTLED_S: Final = 10.0
_CAUGHT_UP_S: Final = 120.0
_READY_S: Final = 60.0


@dataclass(slots=True)
class NodesOutcome:
    """What came of it."""

    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems


async def run_nodes_campaign(
    url: str, kills: int, seed: int, say: Callable[[str], None], logs: Path | None = None
) -> NodesOutcome:
    """Kill so many nodes, one at a time; each is started again before the next dies. What they log is kept in ``logs``."""
    chance, outcome = Random(seed), NodesOutcome()
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as journal,
        open_programs() as programs,
        trio.open_nursery() as nursery,
    ):
        start = partial(_start, programs, url, logs)
        running = {name: await start(name) for name in NODES}
        storing = trio.CancelScope()
        nursery.start_soon(_store, journal, storing)
        ended: list[Program] = []
        aimed: Counter[str] = Counter()
        for number in range(kills):
            name = chance.choice(NODES)
            point = POINTS[number // 4 % len(POINTS)] if number % 4 == 3 else ""
            if point:
                aimed[point] += 1
                await running[name].stop(20.0)
                ended.append(running[name])
                other = chance.choice([one for one in NODES if one != name])
                running[name] = await start(name, f"{point}:1")
                if point == _TAKEOVER:
                    with trio.move_on_after(_AT_A_POINT_S):
                        while running[name].status is None:
                            await _until_it_has_ranges(journal, name, running[name])
                            await running[other].kill()
                            ended.append(running[other])
                            outcome.kills += 1
                            await _dies(running[name])
                            running[other] = await start(other)
                            await _until_it_has_ranges(journal, other, running[name])
                else:
                    await _provoke(journal, name if point == _HAND_OVER else other, running[name])
                if running[other].status is not None:
                    running[other] = await start(other)
                outcome.points[point] += running[name].status is not None
            else:
                await trio.sleep(chance.uniform(*_LIFE_S))
            await running[name].kill()
            outcome.kills += 1
            ended.append(running[name])
            running[name] = await start(name)
            if number % 20 == 19:
                say(f"  {number + 1} kills")
        storing.cancel()
        await _judge(journal, outcome)
        outcome.moves = sum(len(one.said("projection.handed_over")) for one in (*ended, *running.values()))
        for program in running.values():
            await program.stop(20.0)
    outcome.problems += [
        f"{point} was never hit, of {times} times" for point, times in aimed.items() if not outcome.points[point]
    ]
    if not outcome.events or (kills >= 8 and not outcome.moves):
        outcome.problems.append(f"{outcome.events} events and {outcome.moves} moves show nothing")
    return outcome


async def _start(programs: Programs, url: str, logs: Path | None, name: str, fail_point: str = "") -> Program:
    settings = {
        "journal": url,
        "node": name,
        "projection_ranges": _RANGES,
        "grpc_port": 0,
        "http_port": 0,
        "log_format": "json",
        "summary_interval_s": 5,
    }
    variables = service_variables("cloud_service", settings)
    if fail_point:
        variables["BACKHAUL_FAIL_POINT"] = fail_point
    program = await programs.start(name, "cloud_service", "run", variables=variables, log=logs and logs / f"{name}.log")
    with trio.move_on_after(_READY_S):
        # One that dies at its point may do so before it is ready.
        while not program.said("service.ready") and program.status is None:  # noqa: ASYNC110  another process
            await trio.sleep(0.02)
    return program


async def _provoke(journal: Journal, giver: str, aimed: Program) -> None:
    """Have ranges move away from ``giver`` and back by draining it, until the one that is aimed at has died, or for a while.

    It is drained for longer than a range stays where it has moved to, and has got some before.
    """
    with trio.move_on_after(_AT_A_POINT_S):
        while aimed.status is None:
            await _until_it_has_ranges(journal, giver, aimed)
            await journal.members.set_drained(giver, True)
            await _dies(aimed)
            await journal.members.set_drained(giver, False)
    await journal.members.set_drained(giver, False)


async def _until_it_has_ranges(journal: Journal, name: str, aimed: Program) -> None:
    with trio.move_on_after(_SETTLED_S):
        while not await _has_ranges(journal, name) and aimed.status is None:  # noqa: ASYNC110  another process
            await trio.sleep(0.1)


async def _dies(aimed: Program) -> None:
    with trio.move_on_after(_STAYS_S):
        while aimed.status is None:  # noqa: ASYNC110  another process
            await trio.sleep(0.05)


async def _has_ranges(journal: Journal, name: str) -> bool:
    """Whether the present start of the node has any."""
    live = {one.instance for one in (await journal.members.look()).live if one.report.node == name}
    return any(row.owner in live for row in await journal.projections.rows())


async def _store(journal: Journal, storing: trio.CancelScope) -> None:
    """A few events again and again, of many entities, from a program that is no node."""
    with storing:
        for batch in batches("node", 1_000_000, 20):
            await journal.log.append_group([LocalAppend(batch)])
            await trio.sleep(0.03)


async def _judge(journal: Journal, outcome: NodesOutcome) -> None:
    head = (await journal.log.stats()).head_position
    outcome.events = head
    with trio.move_on_after(_CAUGHT_UP_S) as waiting:
        while True:
            tallies = await all_tallies(journal.projections)
            if sum(tally.events for tally in tallies.values()) >= head:
                break
            await trio.sleep(0.2)
    if waiting.cancelled_caught:
        rows = [(row.name, str(row.slices), row.position, row.owner) for row in await journal.projections.rows()]
        outcome.problems.append(f"after {_CAUGHT_UP_S:g} s ranges are behind {head}: {rows}")
        return
    log, after = [], 0
    while after < head:
        page = await journal.log.read(after, max_events=5_000, max_bytes=1 << 24)
        log.append(page.events)
        after = page.through
    wanted = fold_all(log)
    wrong = [name for name in {*wanted, *tallies} if wanted.get(name) != tallies.get(name)]
    if wrong:
        first = wrong[0]
        outcome.problems.append(f"{len(wrong)} tallies differ: {first} {tallies.get(first)}, not {wanted.get(first)}")
