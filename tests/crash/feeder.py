"""The load: programs beside the edge that POST batches under idempotency keys and repeat what was not answered.

Each feeder has entities of its own, shares one with the others, makes new ones now and then, and keeps one that it
appends to with the expected number only. After a POST whose answer was lost it sometimes gives up instead of repeating:
that append must then be stored whole or not at all. Now and then it repeats one that was acknowledged long ago.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import orjson
import trio

from examples.support.http_client import Answer, HttpClient, Unanswered
from tests.crash.failure import CrashFailure
from tests.crash.ledger import Ledger, Request, Wanted

ENTITY_TYPE: Final = "Meter"
_EVENTS_MAX: Final = 20
_PAUSE_S: Final = 0.06
_RETRY_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 10.0
_GIVE_UP_SHARE: Final = 0.3
_ASK_AGAIN_SHARE: Final = 0.04
_NEW_ENTITY_SHARE: Final = 0.1
_STRICT_SHARE: Final = 0.15
_REMEMBERED_MAX: Final = 100


class Feeder:
    """One program. ``port`` gives the edge's HTTP port, 0 while it is down; ``prefix`` is what the edge puts before ids."""

    def __init__(self, number: int, ledger: Ledger, port: Callable[[], int], prefix: str, chance: Random) -> None:
        self._number = number
        self._ledger = ledger
        self._port = port
        self._client = HttpClient(port)
        self._prefix = prefix
        self._chance = chance
        self._made = 0
        self._strict_seq_nr = 0
        self._remembered: list[tuple[Request, object]] = []

    async def run(self, stop: trio.Event) -> None:
        """Until ``stop``; what is in hand then is brought to its end. Raises CrashFailure for a wrong answer."""
        try:
            while not stop.is_set():
                strict = self._chance.random() < _STRICT_SHARE
                ids = [f"strict{self._number}"] * self._chance.randint(1, 5) if strict else self._some_ids()
                await self._append(ids, expected=self._strict_seq_nr if strict else None)
                if self._remembered and self._chance.random() < _ASK_AGAIN_SHARE:
                    await self._ask_again()
                await trio.sleep(self._chance.uniform(0, _PAUSE_S))
        finally:
            self._client.close()

    def _some_ids(self) -> list[str]:
        own = [f"own{self._number}-{index}" for index in range(4)] + ["shared"]
        if self._chance.random() < _NEW_ENTITY_SHARE:
            own.append(f"new{self._number}-{self._made}")
        return self._chance.choices(own, k=self._chance.randint(1, _EVENTS_MAX))

    async def _append(self, ids: list[str], expected: int | None) -> None:
        self._made += 1
        key = f"feeder{self._number}:{self._made}"
        payloads = [
            {"key": key, "index": index, "value": self._chance.randbytes(25).hex()} for index in range(len(ids))
        ]
        request = Request(
            key,
            tuple(
                Wanted(f"{ENTITY_TYPE}|{self._prefix}{name}", orjson.dumps(payload))
                for name, payload in zip(ids, payloads, strict=True)
            ),
        )
        body = {
            "events": [
                {"entity_type": ENTITY_TYPE, "entity_id": name, "event_type": "Read", "payload": payload}
                | ({} if expected is None else {"expected_seq_nr": expected})
                for name, payload in zip(ids, payloads, strict=True)
            ]
        }
        self._ledger.requests.append(request)
        answer = await self._answer(request, body, may_give_up=expected is None)
        if answer is None:
            return
        request.first_position = int(answer.body["first_position"])
        request.seq_nr = tuple(event["seq_nr"] for event in answer.body["events"])
        self._ledger.answered_events += len(ids)
        self._remember(request, body)
        if expected is not None:
            self._strict_seq_nr += len(ids)
            if request.seq_nr != tuple(range(expected + 1, expected + 1 + len(ids))):
                raise CrashFailure(f"{key} expected number {expected} and was answered with {request.seq_nr}")

    async def _answer(self, request: Request, body: object, *, may_give_up: bool) -> Answer | None:
        """POST until it is answered; None when given up."""
        was_lost = False
        while (answer := await self._try(request.key, body)) is None:
            if may_give_up and not was_lost and self._chance.random() < _GIVE_UP_SHARE:
                request.was_abandoned = True
                return None
            was_lost = True
            await trio.sleep(_RETRY_S)
        if was_lost:
            self._ledger.found_stored += bool(answer.body["repeated"])
            self._ledger.found_unstored += not answer.body["repeated"]
        elif answer.body["repeated"]:
            raise CrashFailure(f"{request.key} was sent for the first time and answered as a repeat")
        return answer

    async def _try(self, key: str, body: object) -> Answer | None:
        """One POST, once the edge is up; None when the answer leaves open, or does not tell, what became of it."""
        while True:
            if self._port():
                break
            await trio.sleep(_RETRY_S)
        self._ledger.in_flight += 1
        try:
            with trio.fail_after(_ANSWER_TIMEOUT_S):
                answer = await self._client.post("/v1/events", body, key=key)
        except (Unanswered, trio.TooSlowError):
            return None
        finally:
            self._ledger.in_flight -= 1
        if 400 <= answer.status < 500:
            raise CrashFailure(f"{key} was refused with status {answer.status}: {answer.body}")
        return answer if answer.status < 300 else None

    def _remember(self, request: Request, body: object) -> None:
        if len(self._remembered) < _REMEMBERED_MAX:
            self._remembered.append((request, body))
        elif self._chance.random() < _ASK_AGAIN_SHARE:
            self._remembered[self._chance.randrange(_REMEMBERED_MAX)] = (request, body)

    async def _ask_again(self) -> None:
        """An acknowledged request, whatever happened since, is answered as it was and stored no second time."""
        request, body = self._chance.choice(self._remembered)
        answer = await self._try(request.key, body)
        if answer is None:
            return
        again = (answer.body.get("first_position"), tuple(event["seq_nr"] for event in answer.body.get("events", ())))
        if not answer.body.get("repeated") or again != (request.first_position, request.seq_nr):
            raise CrashFailure(
                f"{request.key} was acknowledged at {request.first_position} as {request.seq_nr}; "
                f"its repeat was answered with status {answer.status}: {answer.body}"
            )
        self._ledger.asked_again += 1
