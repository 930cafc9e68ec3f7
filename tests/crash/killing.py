"""How services die in a campaign: at a named fail point, along several of them, at random; and how each death is reported.

What has to hold before a death counts as recovered from is the campaign's own: ``until_level``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Final, Protocol

import trio

from tests.crash.service_process import ServiceProcess
from tests.crash.stage import Stage

Tell = Callable[[str], None]

_POINT_TIMEOUT_S: Final = 40.0
_VISITS_MAX: Final = 8
_PAUSE_MAX_S: Final = 1.0
_HASTE_SHARE: Final = 0.25


class Toll(Protocol):
    """What the deaths are counted in. ``recovered_s`` has those that were recovered from before the next."""

    kills: Counter[str]
    points: Counter[tuple[str, str]]
    recovered_s: list[float]


class Killer:
    """Ends services of a stage and starts them again; ``load`` says in a few words what is going on."""

    def __init__(
        self,
        stage: Stage,
        toll: Toll,
        chance: Random,
        tell: Tell,
        *,
        load: Callable[[], str],
        until_level: Callable[[], Awaitable[None]],
    ) -> None:
        self._stage = stage
        self._toll = toll
        self._chance = chance
        self._tell = tell
        self._load = load
        self._until_level = until_level
        self._began_s = trio.current_time()

    async def visit(
        self, points: Mapping[ServiceProcess, Sequence[str]], *, is_brief: bool, visits_max: int = _VISITS_MAX
    ) -> None:
        """Each of a service's points once; a brief visit does the services side by side and awaits no recovery."""
        visits = [(service, point) for service, names in points.items() for point in names]
        self._chance.shuffle(visits)
        armed = [(service, f"{point}:{self._chance.randint(1, visits_max)}") for service, point in visits]
        if is_brief:
            async with trio.open_nursery() as nursery:
                for service in points:
                    await service.kill()
                    nursery.start_soon(self.die_along, service, [point for one, point in armed if one is service])
            return
        for service, point in armed:
            await service.kill()
            await service.start(fail_point=point)
            died_s, load = await self._dies_at(service, point)
            await service.start()
            await self._recover(died_s, service.name, point, load)

    async def die_along(self, service: ServiceProcess, points: Sequence[str]) -> None:
        """From one death straight to the next, then up again."""
        for point in points:
            await service.start(fail_point=point)
            died_s, load = await self._dies_at(service, point)
            self._report(died_s, service.name, point, load, "started again")
        await service.start()

    async def _dies_at(self, service: ServiceProcess, point: str) -> tuple[float, str]:
        """Wait for it; returns when that was and what was going on."""
        await service.until_dead_at(point, _POINT_TIMEOUT_S)
        self._toll.points[service.side, point.partition(":")[0]] += 1
        self._toll.kills[service.name] += 1
        return trio.current_time(), self._load()

    async def at_random(self, kills: int) -> None:
        """SIGKILL at random moments for any of the services and, where there is one, the database."""
        victims: list[ServiceProcess | None] = [*self._stage.services]
        if self._stage.postgres is not None:
            victims.append(None)
        waiting: tuple[float, str, str] | None = None
        for number in range(1, kills + 1):
            victim = self._chance.choice(victims)
            pause_s, in_haste = self._chance.uniform(0, _PAUSE_MAX_S), self._chance.random() < _HASTE_SHARE
            await trio.sleep(pause_s)
            await self._stage.tend()
            if waiting is not None:
                self._report(waiting[0], waiting[1], "at random", waiting[2], "killed again before it recovered")
            died_s, load = trio.current_time(), self._load()
            name = await self._kill(victim)
            self._toll.kills[name] += 1
            if in_haste and number < kills:
                waiting = died_s, name, load
            else:
                waiting = None
                await self._recover(died_s, name, "at random", load)

    async def _kill(self, victim: ServiceProcess | None) -> str:
        """SIGKILL and start again, not waiting for a service to be ready; PostgreSQL (None) is, when it is back."""
        if victim is not None:
            await victim.kill()
            await victim.start()
            return victim.name
        assert self._stage.postgres is not None
        await trio.to_thread.run_sync(self._stage.postgres.restart)
        return "postgres"

    async def _recover(self, died_s: float, name: str, how: str, load: str) -> None:
        await self._until_level()
        recovered_s = trio.current_time() - died_s
        self._toll.recovered_s.append(recovered_s)
        self._report(died_s, name, how, load, f"recovered in {recovered_s:.2f} s")

    def _report(self, died_s: float, name: str, how: str, load: str, after: str) -> None:
        self._tell(f"  {died_s - self._began_s:7.2f} s  {name:<9} {how:<37} {load:<34}  {after}")
