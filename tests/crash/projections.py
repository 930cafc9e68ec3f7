"""Kills a process in the middle of projections' transactions, over and over; then the tables must be a fold of the log.

The handler is not idempotent, so an event that takes effect twice, or never, or at another place, shows.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import trio

from common import border
from common.journal.postgres import open_postgres_journal
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from common.runtime.environment import utc_now_us
from tests.support.ledgers import Ledger, fold
from tests.support.paths import ROOT

FORMS = ("statements", "each", "in_transaction")
POINTS = ("projection.in_transaction", "append.before_commit", "append.after_commit", "migration.in_transaction")
TEMPORARY_FAILURE = os.EX_TEMPFAIL
"""Exit status of a victim that the database did not answer in time: a service would have tried again."""
_LIFE_S = 120
_UNANSWERED_MAX = 20


def open_log(url: str, now_us: Callable[[], int], new_id: Callable[[], str]) -> AbstractAsyncContextManager[Journal]:
    """The journal at a path or URL."""
    if url.startswith("postgres"):
        opened: Any = open_postgres_journal(url, now_us=now_us, new_id=new_id)
    else:
        opened = open_sqlite_journal(url, now_us=now_us, new_id=new_id)
    journal: AbstractAsyncContextManager[Journal] = opened
    return journal


def kill_over_and_over(url: str, kills: int, seed: int) -> int:
    """Have the victim die ``kills`` times, each time a little further on; returns how long the log has become."""
    chance, events, hit, unanswered = random.Random(seed), 0, 0, 0
    while hit < kills:
        events += chance.randrange(10, 60)
        point = chance.choices(POINTS, (12, 2, 2, 1))[0]
        environment = {**os.environ, "BACKHAUL_FAIL_POINT": f"{point}:{chance.randrange(1, 20)}"}
        ended = _live(url, events, environment)
        hit += ended == -signal.SIGKILL
        unanswered += ended == TEMPORARY_FAILURE
        assert unanswered <= _UNANSWERED_MAX, "the database hardly ever answers in time"
    while (ended := _live(url, events, dict(os.environ))) == TEMPORARY_FAILURE and unanswered <= _UNANSWERED_MAX:
        unanswered += 1
    assert ended == 0, f"the last life ended with {ended}"
    return events


def _live(url: str, events: int, environment: dict[str, str]) -> int:
    words = [sys.executable, "-m", "tests.crash.projection_victim", url, str(events)]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, timeout=_LIFE_S, check=False)
    assert ended.returncode in (0, -signal.SIGKILL, TEMPORARY_FAILURE), ended.stderr.decode()[-2_000:]
    return ended.returncode


async def problems(url: str, events: int) -> list[str]:
    """What does not hold of the tables."""
    found = []
    async with border.open_loop(), open_log(url, utc_now_us, lambda: uuid.uuid4().hex) as journal:
        page = await journal.log.read(0, max_events=1_000_000, max_bytes=1 << 40)
        if len(page.events) < events:
            found.append(f"the log has {len(page.events)} events, not {events}")
        expected = fold(page.events)
        wrong = [form for form in FORMS if await Ledger(form).accounts(journal) != expected]
        found.extend(f"the table of {form} is not a fold of the log" for form in wrong)
    return found


def main(directory: Path, postgres_url: str, kills: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Both databases, each killed ``kills`` times; what does not hold."""
    found = []
    for storage, url in (("sqlite", str(directory / "projections.db")), ("postgres", postgres_url)):
        began_s = time.monotonic()
        events = kill_over_and_over(url, kills, seed)
        wrong = trio.run(problems, url, events)
        say(f"  {storage}: {kills} kills, a log of {events:,} events, took {time.monotonic() - began_s:.0f} s")
        found += [f"{storage}: {problem}" for problem in wrong]
    return found
