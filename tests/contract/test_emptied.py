"""The database that the suites share is, each time it is given, as it was when it had been made."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from examples.support.postgres import Databases
from tests.contract.emptied import EmptiedDatabase
from tests.contract.journals import open_storage
from tests.support.builders import Origin

TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace IN ('backhaul'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'S')
"""


def content(databases: Databases, url: str) -> dict[str, str]:
    """All rows, and where each sequence stands, by table."""
    tables = databases.run(TABLES, database=name_of(url)).splitlines()
    rows = "SELECT '{0}', string_agg(each::text, ' ') FROM (SELECT * FROM {0}) AS each"
    query = " UNION ALL ".join(rows.format(table) for table in tables)
    found = databases.run(f"SET search_path = backhaul, public; {query}", database=name_of(url))
    return dict(line.split("|", 1) for line in found.splitlines())


def name_of(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


async def use(url: str, folder: Path) -> None:
    """What tests do: open, append, keep a subscription's place, make a table."""
    async with open_storage("postgres", folder, url) as storage, storage.open() as journal:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|2", 1))
        await journal.projections.migrate("mine", [["CREATE TABLE mine (n integer)", "INSERT INTO mine VALUES (1)"]])


def test_it_is_empty_each_time(postgres: Databases, tmp_path: Path) -> None:
    with postgres.fresh() as url:
        emptied = EmptiedDatabase(postgres, url)
        made = content(postgres, emptied())
        trio.run(use, url, tmp_path)
        used = content(postgres, url)
        assert {name for name in made if used[name] != made[name]} >= {
            "head",
            "event",
            "entity",
        }
        assert content(postgres, emptied()) == made


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE event_tag DROP CONSTRAINT event_tag_pkey",
        "ALTER TABLE origin ADD COLUMN more integer",
        "DROP FUNCTION prompt_members() CASCADE",
        "DROP SCHEMA backhaul CASCADE",
    ],
)
def test_tables_that_were_changed_are_made_anew(postgres: Databases, change: str) -> None:
    with postgres.fresh() as url:
        emptied = EmptiedDatabase(postgres, url)
        made = content(postgres, emptied())
        postgres.run(f"SET search_path = backhaul; {change}", database=name_of(url))
        again = content(postgres, emptied())
        assert again.keys() == made.keys()
        assert again["place_key"] != made["place_key"]
