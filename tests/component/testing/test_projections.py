"""The projection kit: what both databases take, on memory and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from common.core.errors import BackhaulError
from common.core.events.types import EventTypes
from common.core.journal.sql_text import portability_problem
from common.core.journal.statement import Statement
from common.projection.handlers import Event, Handler
from common.testing import projecting


@dataclass
class Moved:
    to: str


def remember(event: Event) -> Statement:
    return Statement("INSERT INTO places VALUES ($1, $2)", [(event.entity_id, event.value.to)])


def handler(*steps: Sequence[str]) -> Handler:
    return Handler("places", steps, each=remember)


PLACES = handler(["CREATE TABLE places (id TEXT, place TEXT)"])


@pytest.mark.parametrize("storage", ["memory", "postgres"])
async def test_the_kit_runs_on_both(storage: str, request: pytest.FixtureRequest) -> None:
    url = "memory" if storage == "memory" else request.getfixturevalue("postgres_url")
    async with projecting(PLACES, registry=EventTypes([Moved]), journal=url) as kit:
        await kit.given("Drone", "1", Moved("a1"))
        assert await kit.rows("SELECT id, place FROM places") == [("1", "a1")]
    if storage == "postgres":
        with pytest.raises(BackhaulError) as refused:
            async with projecting(PLACES, journal=url):
                pass
        assert refused.value.code == "testing.journal"


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("CREATE TABLE t (id SERIAL PRIMARY KEY)", "SERIAL"),
        ("CREATE TABLE t (id BIGINT, at TIMESTAMPTZ NOT NULL)", "TIMESTAMPTZ"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)", "AUTOINCREMENT"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INTEGER PRIMARY KEY"),
        ("create table t (id bigint generated always as identity)", "identity"),
        ("CREATE TABLE t (v JSONB)", "JSONB"),
        ("CREATE TABLE t (v BLOB)", "BLOB"),
        ("CREATE TABLE t (v TEXT[])", "arrays"),
        ("CREATE TABLE t (v TEXT) WITHOUT ROWID", "WITHOUT ROWID"),
        ("ALTER TABLE t ADD COLUMN at TIMESTAMP", "TIMESTAMP"),
        ("INSERT OR REPLACE INTO t VALUES (1)", "INSERT OR"),
    ],
)
async def test_what_one_database_lacks_is_refused_by_name(sql: str, word: str) -> None:
    with pytest.raises(BackhaulError) as refused:
        async with projecting(handler([sql])):
            pass
    assert refused.value.code == "projection.not_portable"
    assert word in refused.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (date TEXT, time BIGINT, json TEXT, uuid TEXT, blob BYTEA)",
        "CREATE TABLE serial (id BIGINT, note TEXT DEFAULT 'AUTOINCREMENT') -- SERIAL",
        "CREATE INDEX by_date ON t (date)",
        "DELETE FROM t",
    ],
)
def test_names_and_texts_are_no_types(sql: str) -> None:
    assert portability_problem(sql) == ""
