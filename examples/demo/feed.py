"""The programs beside an edge: each replays one sensor's series to the edge's HTTP intake and waits for every answer.

A batch is posted under an idempotency key until it is answered, so a POST that was in flight when the edge died is
repeated without harm, whether it had been stored or not. What an edge answered for is written down with its position:
that is what the proof holds the system to.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import trio

from common.transport.link.gate import Gate
from examples.demo.failure import DemoFailure
from examples.demo.series import Reading, Series, event_of
from examples.support.http_client import HttpClient, Unanswered

_POST_INTERVAL_S: Final = 0.1
_BATCH_MAX: Final = 1_000
_RETRY_S: Final = 0.05


@dataclass(slots=True)
class Feed:
    """What the programs of one edge have to write, and what the edge answered for.

    ``positions`` are those of the journal the edge has now; `disk_lost` forgets them. ``unanswered``
    are the keys of POSTs of which a try went without an answer, ``repeated`` says whether the edge had stored them then.
    """

    edge_id: str
    series: Sequence[Series]
    answered: list[Reading] = field(default_factory=list)
    positions: dict[Reading, int] = field(default_factory=dict)
    in_flight: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    repeated: dict[str, bool] = field(default_factory=dict)
    _may_post: Gate = field(default_factory=lambda: Gate(is_open=True))
    _changed: trio.Event = field(default_factory=trio.Event)

    @property
    def total(self) -> int:
        """Readings there are to write."""
        return sum(len(series.readings) for series in self.series)

    def pause(self) -> None:
        """Let no further POST go out; those in flight go on."""
        self._may_post.clear()

    def resume(self) -> None:
        """Let them go out again."""
        self._may_post.set()

    async def reached(self, share: float) -> None:
        """Until the edge answered for that share of the readings."""
        await self._until(lambda: len(self.answered) >= share * self.total)

    async def grown_by(self, readings: int) -> None:
        """Until the edge answered for that many more, or for all."""
        goal = min(len(self.answered) + readings, self.total)
        await self._until(lambda: len(self.answered) >= goal)

    async def posts_in_flight(self, count: int) -> None:
        """Until that many POSTs are out at once."""
        await self._until(lambda: len(self.in_flight) >= count)

    async def settled(self, keys: Set[str]) -> None:
        """Until it is known of each of these POSTs whether its answer came."""
        await self._until(lambda: not (keys & self.in_flight) - self.unanswered)

    async def idle(self) -> None:
        """Until no POST is in flight."""
        await self._until(lambda: not self.in_flight)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._changed.wait()

    def disk_lost(self) -> None:
        """Positions named places in a journal that is gone."""
        self.positions.clear()

    async def run(self, port: Callable[[], int], *, pace_s: float, chance: random.Random) -> None:
        """Write all series side by side, each spread over ``pace_s``; late ones catch up. Raises DemoFailure."""
        async with trio.open_nursery() as nursery:
            for series in self.series:
                nursery.start_soon(self._replay, series, port, pace_s, chance.uniform(0, _POST_INTERVAL_S))

    async def _replay(self, series: Series, port: Callable[[], int], pace_s: float, first_s: float) -> None:
        posts = max(1, round(pace_s / _POST_INTERVAL_S))
        batch = min(_BATCH_MAX, math.ceil(len(series.readings) / posts))
        interval_s = pace_s * batch / len(series.readings)
        began_s = trio.current_time() + first_s
        client = HttpClient(port)
        try:
            for index, start in enumerate(range(0, len(series.readings), batch)):
                await trio.sleep_until(began_s + index * interval_s)
                # No checkpoint between the look and the POST: who pauses and sees none in flight may rely on it.
                while not self._may_post.is_set():
                    await self._may_post.wait()
                await self._post(client, series, series.readings[start : start + batch])
        finally:
            client.close()

    async def _post(self, client: HttpClient, series: Series, readings: Sequence[Reading]) -> None:
        key = f"{series.file}:{readings[0].row}"
        body = {"events": [event_of(series, reading) for reading in readings]}
        self.in_flight.add(key)
        self._tell()
        while True:
            try:
                answer = await client.post("/v1/events", body, key=key)
            except Unanswered:
                self.unanswered.add(key)
                self._tell()
                await trio.sleep(_RETRY_S)
                continue
            if answer.status < 500:
                break
            await trio.sleep(_RETRY_S)
        if answer.status not in (200, 201):
            raise DemoFailure(f"{self.edge_id} refused a POST with status {answer.status}: {answer.body}")
        if key in self.unanswered:
            self.repeated[key] = bool(answer.body["repeated"])
        self.answered.extend(readings)
        first = int(answer.body["first_position"])
        self.positions.update((reading, first + index) for index, reading in enumerate(readings))
        self.in_flight.discard(key)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
