"""One and the same projection written in each form, over a table that shows every repeat, loss and wrong order.

An account's ``digest`` is a chained hash of its events' payloads: each new value depends on the one before, so adding
an event twice, never, or at another place gives another number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.core.events.batch import Envelope, EventBatch
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.tables import Tables
from common.projection.handlers import Event, Handler

MODULUS = 1_000_003
TABLES = [["CREATE TABLE {name} (account TEXT NOT NULL PRIMARY KEY, events BIGINT NOT NULL, digest BIGINT NOT NULL)"]]
UPSERT = f"""
INSERT INTO {{name}} (account, events, digest) VALUES ($1, 1, $2)
ON CONFLICT (account) DO UPDATE SET
    events = {{name}}.events + 1, digest = ({{name}}.digest * 31 + excluded.digest) % {MODULUS}
"""


def amount_of(payload: bytes) -> int:
    """What an event adds."""
    return (len(payload) * 7_919 + sum(payload)) % MODULUS


def decode(envelope: Envelope) -> int:
    """The payload's meaning, as an application's event types would give it."""
    return amount_of(envelope.payload)


class Ledger:
    """The projection in one form. ``poison`` are (persistence id, seq_nr) that its function cannot digest."""

    def __init__(self, form: str, name: str = "", **options: Any) -> None:  # noqa: ANN401
        self.name = name or f"ledger_{form}"
        self.poison: set[tuple[str, int]] = set()
        self.effects: dict[str, tuple[int, int]] = {}
        self.calls = 0
        tables = [[sql.format(name=self.name) for sql in step] for step in TABLES]
        options.setdefault("reset", [f"DELETE FROM {self.name}"])
        # What acts is given the running application, of which nothing is needed here.
        self.handler = Handler(self.name, tables, **{form: getattr(self, form)}, **options).bound(self)

    def _check(self, persistence_id: str, seq_nr: int) -> None:
        self.calls += 1
        if (persistence_id, seq_nr) in self.poison:
            if self.calls % 2:
                raise SystemExit("secret payload")  # it ends nothing but this call
            raise ZeroDivisionError("secret payload")

    def statements(self, events: EventBatch) -> list[Statement]:
        for key in zip(events.persistence_id, events.seq_nr, strict=True):
            self._check(*key)
        rows = list(zip(events.persistence_id, map(amount_of, events.payload), strict=True))
        return [Statement(UPSERT.format(name=self.name), rows)]

    def each(self, event: Event) -> Statement:
        self._check(event.envelope.persistence_id, event.envelope.seq_nr)
        return Statement(UPSERT.format(name=self.name), [(event.envelope.persistence_id, event.value)])

    def in_transaction(self, tables: Tables, event: Event) -> None:
        account, name = event.envelope.persistence_id, self.name
        self._check(account, event.envelope.seq_nr)
        found = tables.query(f"SELECT events, digest FROM {name} WHERE account = $1", account)
        if found:
            [(events, digest)] = found
            digest = (digest * 31 + event.value) % MODULUS
            tables.execute(
                f"UPDATE {name} SET events = $2, digest = $3 WHERE account = $1", account, events + 1, digest
            )
        else:
            tables.execute(f"INSERT INTO {name} VALUES ($1, 1, $2)", account, event.value)

    async def effect(self, event: Event) -> None:
        account = event.envelope.persistence_id
        self._check(account, event.envelope.seq_nr)
        events, digest = self.effects.get(account, (0, 0))
        self.effects[account] = (events + 1, (digest * 31 + event.value) % MODULUS if events else event.value)

    async def act(self, _running: object, event: Event) -> None:
        await self.effect(event)

    async def accounts(self, journal: Journal) -> Mapping[str, tuple[int, int]]:
        """What came of the events: the table, or the effects elsewhere."""
        if self.handler.effect is not None:
            return self.effects
        rows = await journal.projections.query(f"SELECT account, events, digest FROM {self.name}")
        return {account: (events, digest) for account, events, digest in rows}


def fold(events: EventBatch, without: Mapping[str, int] | None = None) -> dict[str, tuple[int, int]]:
    """What the table must say of a log; ``without`` maps entities to the number from which on their events are missing."""
    accounts: dict[str, tuple[int, int]] = {}
    for account, seq_nr, payload in zip(events.persistence_id, events.seq_nr, events.payload, strict=True):
        if without and seq_nr >= without.get(account, 1 << 62):
            continue
        count, digest = accounts.get(account, (0, 0))
        amount = amount_of(payload)
        accounts[account] = (count + 1, (digest * 31 + amount) % MODULUS if count else amount)
    return accounts
