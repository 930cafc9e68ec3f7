"""A node that runs while a later version changes the tables: it names that, and never calls the journal broken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from common import border
from common.core.errors import BackhaulError, ErrorKind
from common.journal.migrations import load_migrations
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from examples.support.postgres import Databases
from tests.support.builders import START_US, append, ids, local

# What a schema step may do to what the running version's statements say.
STEPS = {
    "functions take something else": (
        "ALTER FUNCTION backhaul.append_batch RENAME TO append_batch_2;"
        " ALTER FUNCTION backhaul.append_plain RENAME TO append_plain_2"
    ),
    "columns are renamed": (
        "ALTER TABLE backhaul.head RENAME position TO place; ALTER TABLE backhaul.event RENAME payload TO bytes"
    ),
    "a table is gone": "ALTER TABLE backhaul.event RENAME TO events",
    "what it says still runs": "SELECT 1",
}
USES: dict[str, Callable[[Journal], Awaitable[object]]] = {
    "append": lambda journal: append(journal, local("Sensor|a")),
    "read": lambda journal: journal.log.read(0, max_events=10, max_bytes=10_000),
    "probe": lambda journal: journal.log.probe(0),
    "projection": lambda journal: journal.projections.rows(),
}


def upgrade(url: str, step: str) -> None:
    """What a node of the next version does when it starts."""
    following = len(load_migrations("postgres")) + 1
    database = Databases(url)
    database.run(f"{STEPS[step]}; INSERT INTO backhaul.schema_version VALUES ({following}, 'next')")


async def refusal(use: Callable[[Journal], Awaitable[object]], journal: Journal) -> tuple[str, ErrorKind] | None:
    """How the use was refused, if it was."""
    try:
        await use(journal)
    except BackhaulError as error:
        return error.code, error.kind
    return None


@pytest.mark.parametrize("step", STEPS)
async def test_a_running_node_names_the_later_version(postgres: Databases, step: str) -> None:
    with postgres.fresh() as url:
        async with (
            border.open_loop(),
            open_postgres_journal(url, now_us=lambda: START_US, new_id=ids().__next__) as journal,
        ):
            for use in USES.values():
                await use(journal)
            upgrade(url, step)
            refusals = [await refusal(use, journal) for use in USES.values()]
            assert set(refusals) <= {None, ("journal.schema_newer", ErrorKind.UNAVAILABLE)}
            with pytest.raises(BackhaulError, match=r"journal\.schema_newer"):  # what readiness looks at
                await journal.log.stats()


async def test_tables_that_were_changed_by_hand_are_still_called_broken(postgres: Databases) -> None:
    with postgres.fresh() as url:
        async with (
            border.open_loop(),
            open_postgres_journal(url, now_us=lambda: START_US, new_id=ids().__next__) as journal,
        ):
            Databases(url).run(STEPS["a table is gone"])
            with pytest.raises(BackhaulError, match=r"journal\.broken"):
                await append(journal, local("Sensor|a"))
