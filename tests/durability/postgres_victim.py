"""A process that is killed while it uses a journal: ``python -m tests.durability.postgres_victim URL WORK``.

It does and prints what ``sqlite_victim`` does.
"""

from __future__ import annotations

import sys

import trio

from common import border
from common.journal.postgres import open_postgres_journal
from tests.durability.sqlite_victim import WORKS
from tests.support.builders import START_US, ids


async def main(url: str, work: str) -> None:
    """Open the journal and do the work."""
    new_id = ids(work).__next__
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=lambda: START_US, new_id=new_id, notify=False) as journal,
    ):
        await WORKS[work](journal)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
