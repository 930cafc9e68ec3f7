"""One text and its values mean the same on every storage: stored alike, or refused alike as the handler's fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.tables import Tables
from common.projection import parking
from common.projection.handlers import Event, Handler, OnFailure
from common.projection.progress import ProjectionSettings
from tests.support.builders import append, local
from tests.support.projections import running, until

TYPES = ("BIGINT", "DOUBLE PRECISION", "TEXT", "BOOLEAN", "BYTEA")
CREATE = (
    *(f"CREATE TABLE v_{name.split()[0].lower()} (k TEXT PRIMARY KEY, v {name})" for name in TYPES),
    "CREATE TABLE pair (a TEXT, b BIGINT)",
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# Value → the types of columns that take it; into every other it is refused.
VALUES: list[tuple[object, Sequence[str]]] = [
    (7, ("BIGINT", "DOUBLE PRECISION")),
    (-(2**63), ("BIGINT", "DOUBLE PRECISION")),
    (2**63 - 1, ("BIGINT", "DOUBLE PRECISION")),
    (2**63, ()),
    (-(2**63) - 1, ()),
    (10**40, ()),
    (1.5, ("DOUBLE PRECISION",)),
    (2.0, ("DOUBLE PRECISION",)),
    (float("inf"), ("DOUBLE PRECISION",)),
    (float("nan"), ()),
    ("7", ("TEXT",)),
    ("", ("TEXT",)),
    ("it's \\ \u00e9 \U0001f600", ("TEXT",)),
    ("a\0b", ()),
    ("\ud800", ()),
    (True, ("BOOLEAN", "BIGINT", "DOUBLE PRECISION")),
    (b"\0\xff", ("BYTEA",)),
    (b"", ("BYTEA",)),
    (None, TYPES),
    (NOW, ()),
    (NOW.date(), ()),
    (Decimal("1.5"), ()),
    ([1], ()),
    ({"a": 1}, ()),
    (object(), ()),
]
# Texts with rows that do not fit them.
MISFITS: list[tuple[str, Any]] = [
    ("INSERT INTO pair VALUES ($1, $2)", [("a",)]),
    ("INSERT INTO pair VALUES ($1, $2)", [("a", 1, 2)]),
    ("INSERT INTO pair VALUES ($1, $2)", [("a", 1), ("b",)]),
    ("INSERT INTO pair VALUES ($1, $2)", [()]),
    ("INSERT INTO pair VALUES ($1, 1)", ["1"]),
    ("INSERT INTO pair VALUES ($1, 1)", ["12"]),
    ("INSERT INTO pair VALUES ($1, 1)", [b"1"]),
    ("INSERT INTO pair VALUES ($1, 1)", [{"a"}]),
    ("INSERT INTO pair VALUES ($1, 1)", [{1: "a"}]),
    ("INSERT INTO pair VALUES ($1, 1)", "1"),
    ("INSERT INTO pair VALUES ($2, 1)", [("a", "b")]),
    ("INSERT INTO pair VALUES (?, 1)", [("a",)]),
    ("INSERT INTO pair VALUES ('a', 1)", [("a",)]),
    ("INSERT INTO pair VALUES ('$1', 1)", [("a",)]),
    ("INSERT INTO nowhere VALUES ($1)", [("a",)]),
    ("INSERT INTO pair (b, a) VALUES ($1, $2)", [("a", 1)]),
    ("INSERT INTO pair (b, a) VALUES (1, 'x'), ($1, $2)", [("a", 1)]),
    ("UPDATE pair SET b = $1 WHERE a = $2", [("1", "a")]),
    ("UPDATE pair SET b = $1 WHERE a = $2", [(1, 5)]),
    ("UPDATE pair SET b = $2 WHERE pair.a = $1", [("a", 1.5)]),
    ("DELETE FROM pair WHERE b = $1", [("1",)]),
    ("SELECT a FROM pair AS p WHERE p.b > $1", [("1",)]),
]


@dataclass
class Way:
    """One way of running a statement; raises what the store refuses with."""

    journal: Journal

    async def statements(self, statement: Statement) -> None:
        lease = await self.journal.projections.acquire("p", ALL_SLICES, "test", 60.0)
        assert lease is not None
        await self.journal.projections.commit(lease, lease.position + 1, [statement], 60.0)

    async def many_rows(self, statement: Statement) -> None:
        """Beyond what goes to PostgreSQL in one exchange."""
        if not isinstance(statement.rows, list):
            await self.statements(statement)
            return
        filling = [Statement("INSERT INTO filling VALUES ($1)", [(n,) for n in range(60)])]
        lease = await self.journal.projections.acquire("p", ALL_SLICES, "test", 60.0)
        assert lease is not None
        await self.journal.projections.commit(lease, lease.position + 1, [*filling, statement], 60.0)

    async def in_transaction(self, statement: Statement) -> None:
        lease = await self.journal.projections.acquire("p", ALL_SLICES, "test", 60.0)
        assert lease is not None

        async def work(tables: Tables) -> None:
            def call() -> None:
                for row in statement.rows:
                    tables.execute(statement.sql, *row)

            await trio.to_thread.run_sync(call)

        await self.journal.projections.commit_in_transaction(lease, lease.position + 1, work, [], 60.0)

    async def intervene(self, statement: Statement) -> None:
        await self.journal.projections.intervene("p", [statement])


WAYS: list[Callable[[Way, Statement], Any]] = [Way.statements, Way.many_rows, Way.in_transaction, Way.intervene]


async def outcome(run: Callable[[Way, Statement], Any], journal: Journal, statement: Statement) -> str:
    try:
        await run(Way(journal), statement)
    except BackhaulError as error:
        return error.code
    return "stored"


@pytest.fixture
async def tables(journal: Journal) -> Journal:
    await journal.projections.migrate(
        "p", [[*CREATE, "CREATE TABLE filling (n BIGINT)", "INSERT INTO pair VALUES ('a', 1)"]]
    )
    return journal


@pytest.mark.parametrize("run", WAYS, ids=lambda run: run.__name__)
async def test_a_value_is_stored_as_it_is_or_refused(tables: Journal, run: Callable[[Way, Statement], Any]) -> None:
    number = 0
    for value, fitting in VALUES:
        for declared in TYPES:
            number += 1
            table = f"v_{declared.split()[0].lower()}"
            for sql in (f"INSERT INTO {table} VALUES ($1, $2)", f"INSERT INTO {table} (v, k) VALUES ($2, $1)"):
                key = f"{number}{len(sql)}"
                found = await outcome(run, tables, Statement(sql, [(key, value)]))
                wanted = "stored" if declared in fitting else "projection.statement_failed"
                assert found == wanted, (value, declared, sql)
                stored = await tables.projections.query(f"SELECT v FROM {table} WHERE k = $1", (key,))
                if wanted != "stored":
                    assert stored == []
                elif declared == "DOUBLE PRECISION" and isinstance(value, int | float):
                    assert stored == [(float(value),)]
                else:
                    assert stored == [(value,)]


@pytest.mark.parametrize("run", WAYS, ids=lambda run: run.__name__)
async def test_rows_that_do_not_fit_their_text_are_refused(
    tables: Journal, run: Callable[[Way, Statement], Any]
) -> None:
    for sql, rows in MISFITS:
        if run is Way.in_transaction and not all(isinstance(row, tuple) for row in rows):
            continue  # a row is given as arguments there
        assert await outcome(run, tables, Statement(sql, rows)) == "projection.statement_failed", (sql, rows)
    assert await tables.projections.query("SELECT a, b FROM pair") == [("a", 1)]


async def test_a_question_is_checked_alike(tables: Journal) -> None:
    for args in ((), (1, 2), ("1",), (1.5,), (NOW,), (2**63,)):
        with pytest.raises(BackhaulError) as refused:
            await tables.projections.query("SELECT a FROM pair WHERE b = $1", args)
        assert refused.value.code == "projection.statement_failed", args


async def test_the_message_names_what_is_wrong(tables: Journal) -> None:
    for statement, words in (
        (Statement("INSERT INTO pair VALUES ($1, 1)", ["12"]), "row 0 is a str, not a tuple: write (value,)"),
        (Statement("INSERT INTO pair VALUES ($1, $2)", [("a",)]), "row 0 has 1 values, the statement has 2 parameters"),
        (Statement("INSERT INTO pair VALUES ($1, $2)", [("a", "7")]), "$2 is a str, its column is BIGINT"),
        (Statement("INSERT INTO pair VALUES ($1, $2)", [("a", NOW)]), "$2 is a datetime: values are"),
    ):
        with pytest.raises(BackhaulError) as refused:
            await Way(tables).statements(statement)
        assert words in refused.value.message


@pytest.mark.parametrize(
    "wrong",
    [
        Statement("INSERT INTO kept VALUES ($1)", [(1, 2)]),
        Statement("INSERT INTO kept VALUES ($1)", ["7"]),
        Statement("INSERT INTO kept VALUES ($1)", [("7",)]),
        Statement("INSERT INTO kept VALUES ($1)", [(1.5,)]),
    ],
)
@pytest.mark.parametrize("policy", [OnFailure.PARK, OnFailure.STOP])
async def test_the_policy_takes_over(journal: Journal, wrong: Statement, policy: OnFailure) -> None:
    """A wrong statement never looks like a database that may answer later."""

    def write(event: Event) -> Statement:
        return wrong if event.entity_id == "bad" else Statement("INSERT INTO kept VALUES ($1)", [(1,)])

    handler = Handler("p", [["CREATE TABLE kept (n BIGINT)"]], each=write, on_failure=policy, attempts=2)
    quick = ProjectionSettings(page_max_events=20, backoff_min_s=0.01, backoff_max_s=0.02)
    await append(journal, local("A|good", "A|bad"))
    async with running(journal, handler, settings=quick) as [progress]:
        if policy is OnFailure.PARK:
            await until(lambda: progress.position == 2)
            [row] = await parking.parked_events(journal.projections, "p")
            assert (row.code, row.event.position) == ("projection.statement_failed", 2)
        else:
            await until(lambda: progress.failures >= 2)
            rows = await journal.projections.rows()
            assert [row.position for row in rows] == [1]
