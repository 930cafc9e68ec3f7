"""A projection that sums what accounts are given, and the truth beside it: wrong when an event is missing or comes twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.core.events.batch import Envelope, new_events
from common.core.events.replacing import with_mark
from common.core.journal.append import LocalAppend
from common.core.journal.snapshot import NewSnapshot
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.journal.tables import Tables
from common.projection.handlers import Event, Handler
from common.projection.progress import ProjectionSettings

QUICK = ProjectionSettings(page_max_events=7, backoff_min_s=0.01, backoff_max_s=0.05, standby_poll_s=0.02, poll_s=0.05)
TABLE = "CREATE TABLE sums (account TEXT NOT NULL PRIMARY KEY, total BIGINT NOT NULL, seq_nr BIGINT NOT NULL)"
ADD = (
    "INSERT INTO sums (account, total, seq_nr) VALUES ($1, $2, $3) ON CONFLICT (account) DO UPDATE SET"
    " total = sums.total + excluded.total, seq_nr = excluded.seq_nr"
)
SET = ADD.replace("sums.total + excluded.total", "excluded.total")


def decode(envelope: Envelope) -> int:
    return int(envelope.payload)


class Sums:
    """A fold that is wrong when an event is missing or comes twice: a snapshot says the sum so far."""

    def __init__(self, form: str, *, takes_snapshots: bool = True, **options: Any) -> None:  # noqa: ANN401
        self.effects: dict[str, tuple[int, int]] = {}
        self.seen: list[tuple[str, int, bool, int]] = []
        self.poison: set[tuple[str, int]] = set()
        function = getattr(self, form)
        self.handler = Handler(
            "sums", [[TABLE]], **{form: function}, snapshots=takes_snapshots, reset=["DELETE FROM sums"], **options
        ).bound(self)

    def _note(self, event: Event) -> tuple[str, int, int]:
        name, seq_nr = event.envelope.persistence_id, event.envelope.seq_nr
        if (name, seq_nr) in self.poison:
            raise ZeroDivisionError
        self.seen.append((name, seq_nr, event.replaces, event.deleted.to_seq_nr if event.deleted else 0))
        return name, 0 if event.deleted else event.value, seq_nr

    def each(self, event: Event) -> Statement:
        row = self._note(event)
        return Statement(SET if event.replaces else ADD, [row])

    def in_transaction(self, tables: Tables, event: Event) -> None:
        tables.execute(SET if event.replaces else ADD, *self._note(event))

    async def effect(self, event: Event) -> None:
        name, amount, seq_nr = self._note(event)
        total, last = (0, 0) if event.replaces else self.effects.get(name, (0, 0))
        if seq_nr > last:  # at least once: a repeat has its number
            self.effects[name] = (total + amount, seq_nr)

    async def act(self, _running: object, event: Event) -> None:
        await self.effect(event)

    async def rows(self, journal: Journal) -> Mapping[str, tuple[int, int]]:
        """Account → sum and last number."""
        if self.handler.effect is not None:
            return self.effects
        rows = await journal.projections.query("SELECT account, total, seq_nr FROM sums")
        return {account: (total, seq_nr) for account, total, seq_nr in rows}


@dataclass
class Accounts:
    """The truth beside the journal, whatever retention deletes."""

    journal: Journal
    sums: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    async def add(self, names: Sequence[str], amounts: Sequence[int]) -> None:
        batch = new_events(list(names), ["Added"] * len(names), [b"%d" % amount for amount in amounts])
        await self.journal.log.append_group([LocalAppend(batch)])
        for name, amount in zip(names, amounts, strict=True):
            self.sums[name] = self.sums.get(name, 0) + amount
            self.counts[name] = self.counts.get(name, 0) + 1

    async def snapshot(self, *names: str) -> None:
        await self.journal.snapshots.put(
            [NewSnapshot(name, self.counts[name], "Sum", "json", b"%d" % self.sums[name]) for name in names]
        )

    @property
    def rows(self) -> Mapping[str, tuple[int, int]]:
        return {name: (self.sums[name], self.counts[name]) for name in self.sums}


async def filled(journal: Journal) -> Accounts:
    """Accounts with a snapshot and deleted events, with a snapshot only, with neither."""
    accounts = Accounts(journal)
    await accounts.add(["A|gone", "A|gone", "A|kept", "A|kept", "A|gone"], [1, 2, 3, 4, 5])
    await accounts.snapshot("A|gone", "A|kept")
    await accounts.add(["A|gone", "A|plain", "A|kept"], [6, 7, 8])
    await journal.log.trim(TrimLimit(2, 100))
    return accounts


async def pushed_snapshot(accounts: Accounts, name: str, total: int) -> None:
    """As it stands in a log that it was pushed to."""
    batch = new_events([name], ["Sum"], [b"%d" % total], metadata=[with_mark("")])
    await accounts.journal.log.append_group([LocalAppend(batch)])
