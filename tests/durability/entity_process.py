"""A process that counts: some callers command one entity; what happens is told line by line on standard output.

    python -m tests.durability.entity_process URL CALLERS COMMANDS_EACH

It says ``ready``, waits for a line, and then ``begun`` before each command and ``acknowledged`` after it.
"""

from __future__ import annotations

import os
import sys
from random import SystemRandom

import trio

from common import border
from common.journal.group_commit import open_group_commit
from common.journal.postgres import open_postgres_journal
from common.runtime.environment import utc_now_us
from tests.support.entities import Add, entities_over


def new_id() -> str:
    """Two processes must not have one."""
    return f"{SystemRandom().getrandbits(128):032x}"


async def main(url: str, callers: int, commands: int) -> None:
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=utc_now_us, new_id=new_id) as journal,
        open_group_commit(journal.log) as commit,
        entities_over(journal, commit, node=new_id()) as entities,
    ):

        async def call() -> None:
            for _ in range(commands):
                os.write(1, b"begun\n")
                await entities.ask("Counter", "hot", Add(1), deadline_s=100)
                os.write(1, b"acknowledged\n")

        os.write(1, b"ready\n")
        await trio.to_thread.run_sync(sys.stdin.readline)
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(call)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
