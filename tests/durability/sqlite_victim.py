"""A process that is killed while it uses a journal: ``python -m tests.durability.sqlite_victim FILE WORK``.

It prints one line for each thing that was acknowledged to it.
"""

from __future__ import annotations

import sys

import trio

from common.core.ids import ALL_SLICES
from common.journal.interface import Journal, Statement, TrimLimit
from common.journal.sqlite import open_sqlite_journal
from tests.support.builders import START_US, appended, ids, local

TABLE = "CREATE TABLE counted (position BIGINT PRIMARY KEY)"


def request(number: int) -> tuple[str, ...]:
    """Entities of the append with this number: two events, one entity shared by all."""
    return "Sensor|shared", f"Sensor|{number}"


def tell(*words: object) -> None:
    """One line for the one who watches, out before anything else is done."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def _append(journal: Journal) -> None:
    for number in range(1, 21):
        outcome = await appended(journal, local(*request(number), append_id=f"key-{number}"))
        tell(number, outcome.first_position, *outcome.seq_nr)


async def _trim(journal: Journal) -> None:
    await _append(journal)
    for through in (10, 20):
        tell("trimmed", await journal.trim(TrimLimit(through, START_US * 2, 1_000)))


async def _project(journal: Journal) -> None:
    await _append(journal)
    await journal.migrate("counted", [[TABLE]])
    lease = await journal.acquire("counted", ALL_SLICES, "me", 60)
    assert lease
    for position in range(1, 11):
        lease = await journal.commit(lease, position, [Statement("INSERT INTO counted VALUES ($1)", [(position,)])], 60)
        tell("projected", position)


WORKS = {"append": _append, "trim": _trim, "project": _project}


async def main(path: str, work: str) -> None:
    """Open the journal and do the work."""
    new_ids = ids(work)
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=new_ids.__next__) as journal:
        await WORKS[work](journal)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
