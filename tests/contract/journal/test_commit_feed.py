"""What a journal hands over right after its commits is what a read gives: complete, unaltered, in order, never twice.

Some may be left out, none is wrong: a commit whose outcome was not learned is one of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, concat
from common.core.events.stated_range import StatedRange
from common.core.journal.append import Appended, LocalAppend
from common.journal.group_commit import GroupCommit
from common.journal.postgres.log import PostgresLog
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import Origin, append, appended, local, whole_log


@contextmanager
def listening(journal: Journal) -> Iterator[list[EventBatch]]:
    """The batches that the journal gives while the block runs."""
    given: list[EventBatch] = []
    with journal.log.feed.listen(given.append):
        yield given


async def test_it_gives_what_a_read_gives(storage: Storage, journal: Journal) -> None:
    with listening(journal) as given:
        await journal.log.append_group([local("A|1", "B|1", tags=["t:a", "t:b"]), local("A|1", tags=["t:c"])])
        storage.clock.advance(-3_600)
        edge = Origin()
        await edge.dial(journal)
        # A new branch, a withheld stretch, a gap, a foreign entity and a poisoned event: the numbers here are others.
        await edge.push(journal, ("E|1", 1), ("E|2", 1), tags=["t:a"])
        await edge.push(journal, ("E|1", 4), ranges=[StatedRange("E|1", 2, 3, "withheld")])
        await edge.push(journal, ("E|2", 5), ("A|1", 1), ("E|1", 5), tags=["", "t:x", "t:z"])
        await edge.push(journal, ("E|3", 1), ("E|1", 6), poison={0: "events.too_large"})
        mixed = edge.batch(("E|1", 7), ("E|4", 1), tags=["t:a"])
        await journal.log.append_group(
            [local("B|1", expected={"B|1": 9}), mixed, local("B|1", "C|1", tags=["", "t:a"])]
        )
    log = await whole_log(journal)
    assert concat(given) == log
    assert log.origin_seq_nr == [0, 0, 0, 1, 1, 4, 5, 6, 7, 1, 0, 0]
    assert any(log.prev_tags)


async def test_a_repeated_append_is_not_given_again(journal: Journal) -> None:
    with listening(journal) as given:
        request = local("A|1", "A|2", append_id="key-1")
        await appended(journal, request)
        again, _ = await journal.log.append_group([request, local("A|3", append_id="key-2")])
        assert isinstance(again, Appended)
        assert again.repeated
    assert [batch.position for batch in given] == [[1, 2], [3]]
    assert concat(given) == await whole_log(journal)


async def test_what_was_refused_gives_nothing(journal: Journal) -> None:
    with listening(journal) as given:
        await append(journal, local("A|1", expected={"A|1": 4}))
        await append(journal, Origin(session=7).batch(("E|1", 1)))
        await journal.log.append_group([])
        await journal.log.trim(TrimLimit(9, 9))
    assert given == []


async def test_everybody_who_listens_is_given_all_and_nobody_else_anything(journal: Journal) -> None:
    wanted = [journal.log.feed.is_wanted]
    with listening(journal) as first, listening(journal) as second:
        wanted.append(journal.log.feed.is_wanted)
        await appended(journal, local("A|1"))
    wanted.append(journal.log.feed.is_wanted)
    await appended(journal, local("A|1"))
    assert wanted == [False, True, False]
    assert [batch.position for batch in first] == [batch.position for batch in second] == [[1]]


async def test_batches_come_in_the_order_of_the_log_from_many_appenders(journal: Journal) -> None:
    commit = GroupCommit(journal.log)

    async def appender(name: str) -> None:
        for number in range(20):
            await commit.append(LocalAppend(local(*[f"{name}|1"] * (1 + 300 * (number % 5))).events))

    with listening(journal) as given:
        async with trio.open_nursery() as writer:
            writer.start_soon(commit.run)
            async with trio.open_nursery() as appenders:
                for name in "ABCD":
                    appenders.start_soon(appender, name)
            writer.cancel_scope.cancel()
    assert concat(given) == await whole_log(journal)


async def test_commits_of_another_node_are_left_out(storage: Storage, journal: Journal) -> None:
    if not storage.shared:
        return  # there is no other node
    async with storage.open() as other:
        with listening(journal) as given:
            await appended(journal, local("A|1"))
            await appended(other, local("A|1"))
            await appended(journal, local("A|1"))
    log = await whole_log(journal)
    assert [batch.position for batch in given] == [[1], [3]]
    assert concat(given) == log.select([0, 2])


async def test_a_commit_whose_outcome_was_lost_is_left_out_and_its_repeat_too(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(journal.log, PostgresLog):
        return  # the others know the outcome
    edge = Origin()
    await edge.dial(journal)
    request, pushed = local("A|1", append_id="key-1"), edge.batch(("E|1", 1))

    def lose(_stored: object) -> None:
        raise OSError("the line broke before the answer came")

    with listening(journal) as given:
        with monkeypatch.context() as broken:
            broken.setattr("common.journal.postgres.appends.batch.AppendCall.stored", lambda *_: lose(None))
            with pytest.raises(BackhaulError, match="unavailable"):
                await journal.log.append_group([request, pushed])
        await journal.log.append_group([request, pushed])
        await appended(journal, local("A|1"))
    log = await whole_log(journal)
    assert log.position == [1, 2, 3]
    assert [batch.position for batch in given] == [[3]]
    assert concat(given) == log.select([2])
