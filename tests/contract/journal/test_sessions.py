"""What every journal promises about who pushes to it: one session at a time, and whose history goes on.

The rules are ``common.core.journal.log.history`` (tested there); here they meet rows and restarts.
"""

from __future__ import annotations

from common.core.journal.history import Generation, Offset, Resume
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import Origin


class TestSessions:
    """Every case of ``decide_resume`` is stored, or changes nothing when it refuses."""

    async def test_an_unknown_origin_begins_at_zero(self, storage: Storage, journal: Journal) -> None:
        decision = await Origin().dial(journal)
        assert decision.resume is Resume.FIRST
        [state] = await journal.origins.rows()
        assert state == decision.state
        assert (state.origin_id, state.session, state.branch) == ("edge-1", 1, 1)
        assert state.stored == Offset("journal-1", "", 0)
        assert state.generations == (Generation("g1", 1),)
        assert state.last_seen_us == storage.clock.us

    async def test_a_known_origin_resumes_where_it_was_also_after_a_restart(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            await edge.push(journal, ("A|1", 1), ("A|2", 1))
        async with storage.open() as journal:
            decision = await edge.dial(journal, ("g1", 1), ("g2", 3))
            assert decision.resume is Resume.RESUME
            assert (decision.state.session, decision.state.branch) == (2, 1)
            stored = decision.state.stored
            assert (stored.journal_id, stored.generation_id, stored.position) == ("journal-1", "g1", 2)
            assert (stored.persistence_id, stored.seq_nr) == ("A|2", 1)
            [state] = await journal.origins.rows()
            assert state == decision.state
            assert state.generations == (Generation("g1", 1), Generation("g2", 3))

    async def test_a_rewound_origin_begins_a_branch_at_the_fork(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3))
        decision = await edge.dial(journal, ("g1", 1), ("g2", 3), head=2)
        assert (decision.resume, decision.state.branch) == (Resume.REWOUND, 2)
        assert (decision.state.stored.generation_id, decision.state.stored.position) == ("g1", 2)
        assert [state.stored.position for state in await journal.origins.rows()] == [2]

    async def test_a_new_journal_supersedes_the_old_one_until_an_operator_decides(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1))
        replaced = Origin(journal_id="journal-2", generation="h1", instance="process-2")
        decision = await replaced.dial(journal)
        assert (decision.resume, decision.state.branch) == (Resume.NEW_JOURNAL, 2)
        assert decision.state.stored == Offset("journal-2", "", 0)
        assert decision.state.superseded == ("journal-1",)

        before = await journal.origins.rows()
        assert (await edge.dial(journal)).resume is Resume.SUPERSEDED
        assert await journal.origins.rows() == before

        assert await journal.origins.forget_superseded("edge-1")
        assert not await journal.origins.forget_superseded("edge-9")
        assert (await edge.dial(journal)).resume is Resume.NEW_JOURNAL

    async def test_a_log_that_a_fork_left_behind_is_refused_until_an_operator_decides(self, storage: Storage) -> None:
        original, clone = Origin(), Origin(instance="process-2")
        async with storage.open() as journal:
            await original.dial(journal)
            await original.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3))
            decision = await clone.dial(journal, ("g1", 1), ("g2", 3), head=2)
            assert decision.state.left_behind == (Generation("g1", 3),)
        async with storage.open() as journal:
            assert await journal.origins.rows() == [decision.state]
            assert (await original.dial(journal, head=3)).resume is Resume.SUPERSEDED
            assert await journal.origins.rows() == [decision.state]
            assert await journal.origins.forget_superseded("edge-1")
            assert (await original.dial(journal, head=3)).resume is Resume.RESUME

    async def test_two_processes_that_fence_each_other_are_told_as_cloned(self, journal: Journal) -> None:
        first, second = Origin(instance="process-1"), Origin(instance="process-2")
        assert not (await first.dial(journal)).cloned
        assert not (await second.dial(journal)).cloned
        assert (await first.dial(journal)).cloned
        assert (await second.dial(journal)).cloned

    async def test_origins_are_apart_and_in_order(self, journal: Journal) -> None:
        for name in ("edge-b", "edge-a"):
            edge = Origin(name)
            await edge.dial(journal)
            await edge.push(journal, (f"{name}|1", 1))
        assert [(state.origin_id, state.stored.position) for state in await journal.origins.rows()] == [
            ("edge-a", 1),
            ("edge-b", 1),
        ]


async def test_an_origin_was_last_seen_when_it_last_made_progress(storage: Storage, journal: Journal) -> None:
    edge = Origin()
    await edge.dial(journal)
    for number in (1, 2):
        storage.clock.advance(60)
        await edge.push(journal, ("A|1", number))
        [state] = await journal.origins.rows()
        assert state.last_seen_us == storage.clock.us
    storage.clock.advance(60)
    [state] = await journal.origins.rows()
    assert state.last_seen_us == storage.clock.us - 60_000_000
