"""What happens to services in a campaign: death at a named fail point, along several of them, at random; steps of their
clocks, failovers of their database; and how each is reported.

What has to hold before a death counts as recovered from is the campaign's own: ``until_level``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final, Protocol

import trio

from tests.crash.service_process import ServiceProcess
from tests.crash.stage import Stage
from tests.support.replication import away

Tell = Callable[[str], None]

_POINT_TIMEOUT_S: Final = 120.0
_VISITS_MAX: Final = 8
_PAUSE_MAX_S: Final = 1.0
_HASTE_SHARE: Final = 0.25
CLOCK, FAILOVER = "clock", "failover"
_HOUR_S, _YEAR_S = 3_600, 365 * 86_400
_STEPS_S: Final = (-55 * _YEAR_S, -_YEAR_S, -_HOUR_S, -2, 2, _HOUR_S, 30 * 86_400, 3 * _YEAR_S, 55 * _YEAR_S)
_AHEAD_MAX_S: Final = 56 * _YEAR_S


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

    async def at_random(self, kills: int, *, begin_with: Sequence[str] = ()) -> None:
        """Blows at random moments, to begin with of some kinds: each is recovered from, or the next comes before that.

        A blow is SIGKILL for a service or the database, a step of a service's wall clock, or a failover of the database.
        """
        waiting: tuple[float, str, str] | None = None
        first, blows = list(begin_with), self._blows()
        for number in range(1, kills + 1):
            kind = first.pop(0) if first else self._chance.choice(sorted(blows))
            pause_s, in_haste = self._chance.uniform(0, _PAUSE_MAX_S), self._chance.random() < _HASTE_SHARE
            await trio.sleep(pause_s)
            await self._stage.tend()
            if waiting is not None:
                self._report(waiting[0], waiting[1], "at random", waiting[2], "hit again before it recovered")
            died_s, load = trio.current_time(), self._load()
            name = await blows[kind]()
            self._toll.kills[kind] += 1
            if in_haste and number < kills:
                waiting = died_s, name, load
            else:
                waiting = None
                await self._recover(died_s, name, "at random", load)

    def _blows(self) -> dict[str, Callable[[], Awaitable[str]]]:
        """What can happen, by kind; each says in a few words what it was."""
        blows: dict[str, Callable[[], Awaitable[str]]] = {
            service.name: partial(_killed, service) for service in self._stage.services
        }
        blows[CLOCK] = self._step_a_clock
        if self._stage.databases is not None:
            blows["postgres"] = self._restart_database
            blows[FAILOVER] = self._fail_over
        return blows

    async def _step_a_clock(self) -> str:
        service, seconds = self._chance.choice(self._stage.services), self._chance.choice(_STEPS_S)
        seconds = -service.clock.ahead_s if abs(service.clock.ahead_s + seconds) > _AHEAD_MAX_S else seconds
        service.clock.step(seconds)
        if self._chance.random() < 0.5:  # a machine that starts in another year
            await _killed(service)
        return f"{service.name} {seconds:+} s"

    async def _restart_database(self) -> str:
        """SIGKILL, and start it again; it is up when this returns."""
        assert self._stage.postgres is not None
        await away(self._stage.postgres.restart)
        return "postgres"

    async def _fail_over(self) -> str:
        """The primary is lost in some way, its standby takes over, the address follows; then it has a standby again."""
        pair, address = self._stage.databases, self._stage.address
        assert pair is not None
        assert address is not None
        former, how = pair.primary, self._chance.choice(("crash", "stop", "pause", "read only"))
        await pair.caught_up()
        if how == "crash":
            await away(former.crash)
        elif how == "stop":
            await away(former.stop)
        elif how == "pause":
            former.pause()
        else:
            await away(pair.set_read_only)
        is_early = self._chance.random() < 0.5
        if is_early:
            address.lead_to(pair.standby)
        await away(pair.promote)
        if not is_early:
            await trio.sleep(self._chance.uniform(0, 1))
            address.lead_to(pair.primary)
        await trio.sleep(self._chance.uniform(0, 1))
        if how == "pause":
            former.pause(resume=True)
        await away(former.crash)  # what nobody is connected to any more
        await away(partial(pair.restore, synchronous=True))
        return f"failover, {how}"

    async def _recover(self, died_s: float, name: str, how: str, load: str) -> None:
        await self._until_level()
        recovered_s = trio.current_time() - died_s
        self._toll.recovered_s.append(recovered_s)
        self._report(died_s, name, how, load, f"recovered in {recovered_s:.2f} s")

    def _report(self, died_s: float, name: str, how: str, load: str, after: str) -> None:
        self._tell(f"  {died_s - self._began_s:7.2f} s  {name:<22} {how:<37} {load:<34}  {after}")


async def _killed(service: ServiceProcess) -> str:
    """SIGKILL and start again, not waiting for it to be ready."""
    await service.kill()
    await service.start()
    return service.name
