"""What stands beside a consuming edge: a program that reads its inbox, and an operator who changes its filter.

The reader goes on from the last row it has seen, acknowledges some of the time, and now and then forgets what it has not
acknowledged, as if it had died: then it must be given the same rows again. Everything it saw is kept for the proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Final, NamedTuple

import trio

from common.core.events.deleted import DELETED_TYPE
from common.core.events.restart import RESTART_TYPE
from examples.support.http_client import Answer, HttpClient, Unanswered
from tests.crash.failure import CrashFailure
from tests.crash.orders import ENTITY_TYPE, HOME, LATE, SITES
from tests.crash.service_process import ServiceProcess

STREAM: Final = ENTITY_TYPE
NEVER: Final = 2**62
FIRST_CRITERIA: Final = f'[{{"exclude_all":true}},{{"include_topics":["{HOME}"]}}]'
_RETRY_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 10.0
_READ_PAUSE_S: Final = 0.1
_CHANGE_PAUSE_S: Final = 0.7
_ROWS_MAX: Final = 60
_ACK_SHARE: Final = 0.4
_FORGET_SHARE: Final = 0.1


class Row(NamedTuple):
    """A row of the inbox."""

    id: int
    entity_id: str
    seq_nr: int
    position: int
    tags: tuple[str, ...]
    payload: object
    leaving: bool
    replaces: bool
    deleted: bool = False
    """No event: the payload says what the source had deleted before it came."""
    restarts: bool = False
    """No event: the payload says from which number on the entity begins again."""

    @property
    def is_event(self) -> bool:
        """Whether it is an event or a snapshot, and no mark."""
        return not (self.deleted or self.restarts)


class Wanted(NamedTuple):
    """A filter: topics, and the number from which on `late` is included by its id (``NEVER``: it is not)."""

    topics: frozenset[str]
    late_from: int = NEVER


class Consumer:
    """One edge's reader and operator, and what they know."""

    def __init__(self, edge: ServiceProcess, chance: Random) -> None:
        self.edge = edge
        self.rows: list[Row] = []
        self.wanted = [Wanted(frozenset({HOME}))]
        """Every filter that was ever asked for; the last one is the one in the end."""
        self.changes = 0
        self.reread = 0
        self.acks = 0
        self._chance = chance
        self._acked_at_least = 0
        self._acked_at_most = 0
        self._reader = HttpClient(lambda: edge.http_port)
        self._operator = HttpClient(lambda: edge.http_port)
        self._turns = {self._reader: trio.Lock(), self._operator: trio.Lock()}

    # -- the reader ------------------------------------------------------------------------------------------------
    async def read(self, stop: trio.Event) -> None:
        """Until ``stop``. Raises CrashFailure for rows that are not those of before, or do not follow them."""
        while not stop.is_set():
            if self._chance.random() < _FORGET_SHARE:
                await self._read_again()
            await self.read_page()
            if self.rows and self._chance.random() < _ACK_SHARE:
                await self._ack(self._chance.randint(self._acked_at_least, len(self.rows)))
            await trio.sleep(self._chance.uniform(0, _READ_PAUSE_S))

    async def read_page(self) -> None:
        """The rows that follow."""
        for row in await self._page(len(self.rows)):
            if row.id != len(self.rows) + 1:
                raise CrashFailure(f"{self.edge.name}: row {row.id} of the inbox came after {len(self.rows)}")
            self.rows.append(row)

    async def _read_again(self) -> None:
        """What was not acknowledged for sure: the same rows, without a hole."""
        page = await self._page(self._acked_at_least)
        self.reread += len(page)
        if page and page[0].id > self._acked_at_most + 1:
            raise CrashFailure(f"{self.edge.name}: row {self._acked_at_most + 1} is gone and was not acknowledged")
        for row in page:
            if row.id <= len(self.rows) and row != self.rows[row.id - 1]:
                raise CrashFailure(f"{self.edge.name}: row {row.id} was {self.rows[row.id - 1]} and is {row}")

    async def _page(self, after: int) -> list[Row]:
        answer = await self._ask(self._reader, "GET", f"/v1/inbox/{STREAM}?after={after}&max={_ROWS_MAX}")
        return [_row(event) for event in answer.body["events"]] if answer else []

    async def _ack(self, through: int) -> None:
        self._acked_at_most = max(self._acked_at_most, through)
        answer = await self._ask(self._reader, "POST", f"/v1/inbox/{STREAM}/ack", {"through": through})
        if answer:
            self._acked_at_least = max(self._acked_at_least, through)
            self.acks += 1

    # -- the operator ----------------------------------------------------------------------------------------------
    async def change(self, stop: trio.Event) -> None:
        """Ask for other filters until ``stop``."""
        while not stop.is_set():
            await self._ask_for(frozenset(self._chance.sample(SITES, self._chance.randint(0, 4))))
            await trio.sleep(self._chance.uniform(0, _CHANGE_PAUSE_S))

    async def settle(self) -> None:
        """The last filter: three sites, for sure."""
        topics = frozenset(self._chance.sample(SITES, 3))
        while not await self._ask_for(topics):  # noqa: ASYNC110 - the edge is about to be up
            await trio.sleep(_RETRY_S)

    async def _ask_for(self, sites: frozenset[str]) -> bool:
        topics = sites | {HOME}
        late_from = self._chance.randint(2, 5)
        self.wanted.append(Wanted(topics | {LATE}, late_from))
        late = {"id": f"{ENTITY_TYPE}|{LATE}", "from_seq_nr": late_from}
        criteria = [{"exclude_all": True}, {"include_topics": sorted(topics)}, {"include_ids": [late]}]
        path = f"/v1/subscriptions/{STREAM}/filter"
        answer = await self._ask(self._operator, "PUT", path, {"criteria": criteria})
        self.changes += answer is not None
        return answer is not None

    # -- both ------------------------------------------------------------------------------------------------------
    async def state(self) -> Mapping[str, Any] | None:
        """How the subscription is; None while nobody answers."""
        answer = await self._ask(self._operator, "GET", "/v1/subscriptions")
        found = [one for one in answer.body["subscriptions"] if one["name"] == STREAM] if answer else []
        return found[0] if found and "position" in found[0] else None

    def hang_up(self) -> None:
        """Close the connections."""
        self._reader.close()
        self._operator.close()

    async def _ask(self, client: HttpClient, method: str, path: str, body: object = None) -> Answer | None:
        """None when no answer came, or none that says that it was done."""
        try:
            async with self._turns[client]:
                with trio.fail_after(_ANSWER_TIMEOUT_S):
                    match method:
                        case "GET":
                            answer = await client.get(path)
                        case "PUT":
                            answer = await client.put(path, body)
                        case _:
                            answer = await client.post(path, body, key="")
        except (Unanswered, trio.TooSlowError):
            await trio.sleep(_RETRY_S)
            return None
        if 400 <= answer.status < 500:
            raise CrashFailure(f"{self.edge.name}: {path} was answered with status {answer.status}: {answer.body}")
        return answer if answer.status < 300 else None


def _row(event: Mapping[str, Any]) -> Row:
    return Row(
        event["id"],
        event["entity_id"],
        event["seq_nr"],
        event["position"],
        tuple(event["tags"]),
        event["payload"],
        event["leaving"],
        event["replaces"],
        event["event_type"] == DELETED_TYPE,
        event["event_type"] == RESTART_TYPE,
    )
