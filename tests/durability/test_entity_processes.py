"""Two processes and one hot entity over PostgreSQL: what was acknowledged is counted once, whoever dies meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import trio

from common import border
from common.journal.group_commit import open_group_commit
from common.journal.postgres import open_postgres_journal
from common.runtime.environment import utc_now_us
from tests.durability.entity_process import new_id
from tests.support.entities import Count, entities_over

CALLERS = 8


class Process:
    """One that counts, and what it has said."""

    def __init__(self, url: str, commands: int) -> None:
        command = [sys.executable, "-m", "tests.durability.entity_process", url, str(CALLERS), str(commands)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.said: Counter[bytes] = Counter()

    def hear(self, word: bytes, times: int = 1) -> None:
        """Read on until it has said ``word`` so often; ends with the process as well."""
        assert self._process.stdout is not None
        while self.said[word] < times and (line := self._process.stdout.readline()):
            self.said[line.strip()] += 1

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Its status, after everything that it said was heard."""
        self.hear(b"nothing more")
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return self._process.wait()


async def counted(url: str) -> tuple[int, int]:
    """The entity's count and its number of events."""
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=utc_now_us, new_id=new_id) as journal,
        open_group_commit(journal.log) as commit,
        entities_over(journal, commit) as entities,
    ):
        found = await entities.look("Counter", "hot")
        assert isinstance(found.state, Count)
        return found.state.value, found.seq_nr


def test_the_count_is_that_of_the_acknowledged_commands(postgres_url: str) -> None:
    both = [Process(postgres_url, commands=40) for _ in range(2)]
    for process in both:
        process.hear(b"ready")
    for process in both:
        process.go()
    assert [process.end() for process in both] == [0, 0]
    acknowledged = sum(process.said[b"acknowledged"] for process in both)
    assert acknowledged == 2 * CALLERS * 40
    assert trio.run(counted, postgres_url) == (acknowledged, acknowledged)


def test_a_process_that_is_killed_loses_no_acknowledged_command_and_the_other_goes_on(postgres_url: str) -> None:
    killed, other = Process(postgres_url, commands=100_000), Process(postgres_url, commands=40)
    try:
        for process in (killed, other):
            process.hear(b"ready")
        for process in (killed, other):
            process.go()
        killed.hear(b"acknowledged", 100)
    finally:
        killed.kill()
    killed.end()
    assert other.end() == 0
    assert other.said[b"acknowledged"] == CALLERS * 40
    acknowledged = killed.said[b"acknowledged"] + other.said[b"acknowledged"]
    in_flight = killed.said[b"begun"] - killed.said[b"acknowledged"]
    total, events = trio.run(counted, postgres_url)
    assert total == events
    assert acknowledged <= total <= acknowledged + in_flight
    assert 0 < in_flight <= CALLERS
