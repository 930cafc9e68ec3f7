"""Opening: what is refused, and that refusing changes nothing. The byte cap: what it refuses, and how that ends."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import new_events
from common.core.journal.append import Appended, LocalAppend
from common.core.journal.history import Generation, Offset
from common.core.journal.retention import FULL_SHARE
from common.core.subscription.place import NO_RESUME_POINT, LogCursor
from common.journal.sqlite import log, open_sqlite_journal
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage, TrimLimit
from common.journal.stores.subscriptions import ReceivedCommit, lease_name
from tests.support.builders import START_US, append, appended, events, ids, local, whole_log
from tests.support.internals import sqlite_file

MIB = 1024 * 1024


def opening(path: Path, *, max_bytes: int | None = None, prefix: str = "id") -> AbstractAsyncContextManager[Journal]:
    """A journal at ``path`` with a clock that stands still."""
    return open_sqlite_journal(path, now_us=lambda: START_US, new_id=ids(prefix).__next__, max_bytes=max_bytes)


async def refusal(path: Path, *, max_bytes: int | None = None) -> BackhaulError:
    """The error of an opening that must fail."""
    with pytest.raises(BackhaulError) as raised:
        async with opening(path, max_bytes=max_bytes):
            pass
    return raised.value


async def test_a_file_that_is_open_is_refused_here_and_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opening(path) as journal:
        assert (await refusal(path)).code == "journal.in_use"
        victim = [sys.executable, "-m", "tests.durability.victim", str(path), "append"]
        other = await trio.run_process(victim, capture_stderr=True, capture_stdout=True, check=False)
        assert b"journal.in_use" in other.stderr
        assert other.stdout == b""
        await appended(journal, local("Sensor|a"))
    async with opening(path) as journal:
        assert len(await whole_log(journal)) == 1


async def test_what_is_not_a_journal_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database at all, but long enough to have a header" * 100)
    other = tmp_path / "other.db"
    apsw.Connection(str(other)).execute("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    marked = tmp_path / "marked.db"
    apsw.Connection(str(marked)).execute("PRAGMA application_id = 4711")
    for path in (garbage, other, marked):
        before = path.read_bytes()
        assert (await refusal(path)).code == "journal.not_a_journal"
        assert path.read_bytes() == before
    assert (await refusal(tmp_path)).code == "journal.not_a_journal"


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opening(path):
        pass
    apsw.Connection(str(path)).execute("INSERT INTO schema_version VALUES (99, 'of_tomorrow', 0)")
    error = await refusal(path)
    assert (error.code, error.details["stored"]) == ("journal.schema_newer", 99)


async def test_a_missing_or_unwritable_place_is_named(tmp_path: Path) -> None:
    assert (await refusal(tmp_path / "missing" / "journal.db")).code == "journal.no_directory"
    # Not by permissions, which root does not feel: a directory stands where the lock file must be.
    (tmp_path / "journal.db.lock").mkdir()
    assert (await refusal(tmp_path / "journal.db")).code == "journal.not_writable"
    assert (await refusal(tmp_path / "other.db", max_bytes=1_000)).code == "journal.cap_too_small"


async def test_an_empty_file_becomes_a_journal_that_is_durable(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    async with opening(path) as journal:
        assert await appended(journal, local("Sensor|a")) == Appended(1, [1])
    database = apsw.Connection(str(path))
    assert database.execute("PRAGMA journal_mode").get == "wal"
    assert database.execute("PRAGMA auto_vacuum").get == 2
    assert database.execute("PRAGMA integrity_check").get == "ok"


async def test_each_start_is_a_generation_and_empty_ones_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opening(path, prefix="a") as journal:
        first = journal.log.history
        await appended(journal, local("Sensor|a"))
    async with opening(path, prefix="b"):
        pass
    async with opening(path, prefix="c") as journal:
        second = journal.log.history
    assert first.generations == (Generation("a-2", 1),)
    assert second.journal_id == first.journal_id
    assert second.generations == (Generation("a-2", 1), Generation("c-2", 2))


async def test_nothing_stays_open_or_beside_the_file_after_closing(tmp_path: Path) -> None:
    async with opening(tmp_path / "journal.db") as journal:
        await appended(journal, local("Sensor|a"))
        assert (await journal.log.stats()).wal_bytes > 0
    assert files_in(tmp_path) == ["journal.db", "journal.db.lock", "journal.db.reserve"]
    assert open_files_in(tmp_path) == []


def files_in(directory: Path) -> list[str]:
    """Names, sorted."""
    return sorted(entry.name for entry in directory.iterdir())


def open_files_in(directory: Path) -> list[str]:
    """What this process holds open there."""
    return [link for link in map(_target, Path("/proc/self/fd").iterdir()) if str(directory) in link]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def filling(number: int) -> LocalAppend:
    """A batch of about 20 kB."""
    names = [f"Sensor|{index}" for index in range(20)]
    return LocalAppend(new_events(names, ["filled"] * 20, [b"%05d" % number * 200] * 20), append_id=f"key-{number}")


async def fill_up(journal: Journal) -> int:
    """Append until there is no more room; answers how many batches were stored."""
    for stored in range(10_000):
        try:
            await append(journal, filling(stored))
        except BackhaulError as error:
            if (error.code, error.kind) == ("journal.full", ErrorKind.FULL):
                return stored
            raise
    raise AssertionError("the cap was never reached")


async def test_at_the_cap_appends_are_refused_whole_until_retention_has_made_room(tmp_path: Path) -> None:
    cap = 2 * MIB
    async with opening(tmp_path / "journal.db", max_bytes=cap) as journal:
        rounds = []
        for _ in range(3):
            stored = await fill_up(journal)
            rounds.append(stored)
            stats = await journal.log.stats()
            assert FULL_SHARE * cap <= stats.used_bytes <= cap
            assert len(await whole_log(journal)) % 20 == 0
            head = await journal.log.entity_head("Sensor|0")
            assert head is not None
            assert stats.head_position == 20 * head.seq_nr
            # At the cap an answer to a repeat, a read and retention work.
            if rounds[0] == stored:
                repeat = await append(journal, filling(0))
                assert isinstance(repeat, Appended)
                assert repeat.repeated
            while await journal.log.trim(TrimLimit(stats.head_position, 200)):
                pass
            await journal.log.forget_append_ids(2**62, 1_000)
        assert rounds[0] > 20
        assert min(rounds) > 0.8 * rounds[0], "room that was made is not found again"


async def test_the_cap_leaves_room_for_what_makes_room(tmp_path: Path) -> None:
    async with opening(tmp_path / "journal.db", max_bytes=MIB) as journal:
        await fill_up(journal)
        for index in range(40):  # seven pages of the twelve
            await journal.log.save_cursor(f"{index:0500}", journal_offset(journal, index))
        assert await journal.log.trim(TrimLimit(10**9, 20)) == 20


def journal_offset(journal: Journal, position: int) -> Offset:
    """A place in the journal's own log."""
    return Offset(journal.log.history.journal_id, journal.log.history.generation_id, position)


async def test_a_large_trimmed_file_gives_its_space_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opening(path) as journal:
        for number in range(200):
            await append(journal, filling(number))
        while await journal.log.trim(TrimLimit(10**9, 100)):
            pass
    assert path.stat().st_size < 2 * MIB


async def test_what_is_received_counts_against_the_cap_and_an_ack_makes_room_again(tmp_path: Path) -> None:
    cap = 2 * MIB
    async with opening(tmp_path / "journal.db", max_bytes=cap) as journal:
        lease = await journal.leases.acquire(lease_name("orders"), "edge-1", 600)
        assert lease is not None

        def brought(revision: int) -> ReceivedCommit:
            batch = events(*["Order|1"] * 50, payload=b"x" * 1_000)
            batch.position = batch.seq_nr = list(range(50 * revision + 1, 50 * revision + 51))
            batch.prev_seq_nr = [number - 1 for number in batch.seq_nr]
            return ReceivedCommit(replace(NO_RESUME_POINT, live=LogCursor(revision + 1)), inbox=batch, received=50)

        revision = 0

        async def receive_on() -> None:
            nonlocal revision
            while True:
                revision = await journal.subscriptions.commit("orders", lease, revision, brought(revision), 600)

        with pytest.raises(BackhaulError) as full:
            await receive_on()
        assert full.value.code == "journal.full"
        assert revision > 5
        state, stats = await journal.subscriptions.get("orders"), await journal.subscriptions.inbox_stats("orders")
        assert state is not None
        assert (state.revision, state.place.live.position, stats.last_id) == (revision, revision, 50 * revision)
        assert (await journal.log.stats()).used_bytes <= cap
        # the ack itself has room, and what it frees is used again
        assert await journal.subscriptions.ack_inbox("orders", 200) == 200
        assert await journal.subscriptions.commit("orders", lease, revision, brought(revision), 600) == revision + 1
        assert [row.id for row in await journal.subscriptions.inbox("orders", 0, max_rows=1, max_bytes=1)] == [201]


async def test_a_page_larger_than_sqlite_can_hand_over_at_once_is_read_all_the_same(tmp_path: Path) -> None:
    payloads = [bytes([number]) * 1_000 for number in range(200)]
    async with opening(tmp_path / "journal.db") as journal:
        await appended(journal, LocalAppend(new_events(["A|1"] * 200, ["Filled"] * 200, payloads)))
        whole = await journal.log.read_entity("A|1", 1, 200, max_events=200)
        before = sqlite_file(journal).reader.limit(apsw.SQLITE_LIMIT_LENGTH, 100_000)
        assert before > 100_000
        assert await journal.log.read_entity("A|1", 1, 200, max_events=200) == whole
        assert whole.payload == payloads


async def test_a_page_that_is_read_in_steps_is_whole_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_STEP_EVENTS", 3)
    async with opening(tmp_path / "journal.db") as journal:
        await appended(journal, local(*["A|1"] * 10))
        for after, most in ((0, 10), (0, 7), (2, 100), (9, 1)):
            page = await journal.log.read(after, max_events=most, max_bytes=10**6)
            assert page.events.position == list(range(after + 1, min(after + most, 10) + 1))
            assert page.through == page.events.position[-1]
        page = await journal.log.read(1, max_events=10, max_bytes=5 * journal_weight(page))
        assert page.events.position == [2, 3, 4, 5, 6]


def journal_weight(page: LogPage) -> int:
    """Bytes that one of its events counts for."""
    return page.events.byte_size() // len(page.events)
