"""What every journal promises to projections: one owner at a time, and effect and offset together or not at all."""

from __future__ import annotations

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES, slice_ranges
from common.core.journal.range_failure import RangeFailure
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from common.journal.tables import Tables
from tests.contract.journals import Storage

TALLY = [
    ["CREATE TABLE tally (name TEXT PRIMARY KEY, n BIGINT NOT NULL)"],
    ["ALTER TABLE tally ADD COLUMN note TEXT", "CREATE INDEX tally_by_n ON tally (n)"],
]
COUNT = "INSERT INTO tally (n, name) VALUES ($2, $1) ON CONFLICT (name) DO UPDATE SET n = tally.n + excluded.n"


async def take(journal: Journal, owner: str = "node-1", lease_s: float = 60.0) -> ProjectionLease:
    lease = await journal.projections.acquire("tally", ALL_SLICES, owner, lease_s)
    assert lease is not None
    return lease


async def tallies(journal: Journal) -> list[tuple[object, ...]]:
    return await journal.projections.query("SELECT name, n FROM tally ORDER BY name")


class TestLeases:
    """One owner holds a range; a new owner locks the old one out."""

    async def test_a_new_range_begins_at_zero(self, journal: Journal) -> None:
        lease = await take(journal)
        assert (lease.name, lease.slices, lease.position) == ("tally", ALL_SLICES, 0)
        [row] = await journal.projections.rows()
        assert (row.name, row.slices, row.position, row.epoch) == ("tally", ALL_SLICES, 0, lease.epoch)
        assert (row.owner, row.paused) == ("node-1", False)
        assert 50 < row.lease_left_s <= 60

    async def test_the_same_owner_renews_without_a_new_epoch(self, journal: Journal) -> None:
        first = await take(journal)
        assert await take(journal) == first

    async def test_another_owner_waits_while_the_lease_holds(self, journal: Journal) -> None:
        await take(journal)
        assert await journal.projections.acquire("tally", ALL_SLICES, "node-2", 60) is None
        assert [row.owner for row in await journal.projections.rows()] == ["node-1"]

    async def test_an_expired_lease_is_taken_over_and_the_old_owner_is_fenced(
        self, storage: Storage, journal: Journal
    ) -> None:
        old = await journal.projections.commit(await take(journal, lease_s=0.05), 3, [], 0.05)
        await storage.pass_time(0.1)
        [row] = await journal.projections.rows()
        assert row.lease_left_s <= 0
        new = await take(journal, "node-2")
        assert new.epoch > old.epoch
        assert new.position == 3
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.commit(old, 4, [], 60)
        assert refused.value.code == "projection.fenced"
        assert (await journal.projections.commit(new, 4, [], 60)).position == 4

    async def test_an_expired_lease_that_nobody_took_still_commits(self, storage: Storage, journal: Journal) -> None:
        lease = await take(journal, lease_s=0.05)
        await storage.pass_time(0.1)
        lease = await journal.projections.commit(lease, 1, [], 60)
        assert await journal.projections.acquire("tally", ALL_SLICES, "node-2", 60) is None

    async def test_a_lease_from_a_clock_that_stepped_back_keeps_nobody_out(self, journal: Journal) -> None:
        dead = await take(journal, lease_s=3_600)
        assert (await take(journal, "node-2", lease_s=10)).epoch > dead.epoch
        assert await journal.projections.acquire("tally", ALL_SLICES, "node-1", 10) is None

    async def test_a_released_lease_is_free_at_once(self, journal: Journal) -> None:
        lease = await journal.projections.commit(await take(journal), 7, [], 60)
        await journal.projections.release(lease)
        [row] = await journal.projections.rows()
        assert (row.owner, row.position) == ("", 7)
        assert (await take(journal, "node-2")).position == 7

    async def test_releasing_a_lost_lease_does_not_touch_the_new_owner(
        self, storage: Storage, journal: Journal
    ) -> None:
        old = await take(journal, lease_s=0.05)
        await storage.pass_time(0.1)
        await take(journal, "node-2")
        await journal.projections.release(old)
        assert [row.owner for row in await journal.projections.rows()] == ["node-2"]

    async def test_ranges_are_apart(self, journal: Journal) -> None:
        low, high = slice_ranges(2)
        first = await journal.projections.acquire("tally", low, "node-1", 60)
        second = await journal.projections.acquire("tally", high, "node-2", 60)
        assert first is not None
        assert second is not None
        await journal.projections.commit(second, 5, [], 60)
        assert [(row.slices, row.position, row.owner) for row in await journal.projections.rows()] == [
            (low, 0, "node-1"),
            (high, 5, "node-2"),
        ]

    async def test_of_two_nodes_one_gets_the_lease(self, storage: Storage) -> None:
        got: list[ProjectionLease | None] = []

        async def grab(journal: Journal, owner: str) -> None:
            got.append(await journal.projections.acquire("tally", ALL_SLICES, owner, 60))

        async with storage.open() as journal:
            if storage.shared:
                async with storage.open() as other, trio.open_nursery() as nursery:
                    nursery.start_soon(grab, journal, "node-1")
                    nursery.start_soon(grab, other, "node-2")
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(grab, journal, "node-1")
                    nursery.start_soon(grab, journal, "node-2")
        assert sorted(lease is None for lease in got) == [False, True]

    async def test_offsets_and_epochs_survive_a_restart(self, storage: Storage) -> None:
        async with storage.open() as journal:
            lease = await journal.projections.commit(await take(journal), 9, [], 60)
        async with storage.open() as journal:
            assert await take(journal) == lease


class TestPausing:
    """Pausing stops the owner at its next commit and stays until it is lifted."""

    async def test_a_paused_range_commits_nothing_and_cannot_be_taken(self, journal: Journal) -> None:
        lease = await take(journal)
        assert await journal.projections.set_paused("tally", True) == 1
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.commit(lease, 1, [], 60)
        assert refused.value.code == "projection.fenced"
        assert await journal.projections.acquire("tally", ALL_SLICES, "node-1", 60) is None
        assert [(row.paused, row.position) for row in await journal.projections.rows()] == [(True, 0)]

    async def test_resuming_lets_the_owner_take_it_again_but_not_with_the_old_epoch(self, journal: Journal) -> None:
        old = await take(journal)
        await journal.projections.set_paused("tally", True)
        assert await journal.projections.set_paused("tally", False) == 1
        with pytest.raises(BackhaulError):
            await journal.projections.commit(old, 1, [], 60)
        new = await take(journal)
        assert new.epoch > old.epoch
        assert (await journal.projections.commit(new, 1, [], 60)).position == 1

    async def test_pausing_is_for_all_ranges_of_one_projection(self, journal: Journal) -> None:
        for slices in slice_ranges(2):
            await journal.projections.acquire("tally", slices, "node-1", 60)
        await journal.projections.acquire("latest", ALL_SLICES, "node-1", 60)
        assert await journal.projections.set_paused("tally", True) == 2
        assert await journal.projections.set_paused("unknown", True) == 0
        assert [row.paused for row in await journal.projections.rows() if row.name == "latest"] == [False]

    async def test_a_pause_survives_a_restart(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await take(journal)
            await journal.projections.set_paused("tally", True)
        async with storage.open() as journal:
            assert await journal.projections.acquire("tally", ALL_SLICES, "node-1", 60) is None


class TestCommits:
    """Statements and offset: both or neither."""

    @pytest.fixture
    async def lease(self, journal: Journal) -> ProjectionLease:
        await journal.projections.migrate("tally", TALLY)
        return await take(journal)

    async def test_effect_and_offset_are_stored_together(self, journal: Journal, lease: ProjectionLease) -> None:
        statements = [
            Statement(COUNT, [("a", 2), ("b", 1)]),
            Statement("UPDATE tally SET note = $1", [(None,)]),
            Statement("UPDATE tally SET note = 'kept $1' WHERE name = 'b'"),
        ]
        lease = await journal.projections.commit(lease, 5, statements, 60)
        assert lease.position == 5
        lease = await journal.projections.commit(lease, 6, [Statement(COUNT, [("a", 1)])], 60)
        assert await tallies(journal) == [("a", 3), ("b", 1)]
        assert await journal.projections.query("SELECT note FROM tally WHERE name = $1", ["b"]) == [("kept $1",)]
        assert [row.position for row in await journal.projections.rows()] == [6]

    async def test_both_survive_a_restart(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await journal.projections.migrate("tally", TALLY)
            await journal.projections.commit(await take(journal), 5, [Statement(COUNT, [("a", 2)])], 60)
        async with storage.open() as journal:
            assert (await take(journal)).position == 5
            assert await tallies(journal) == [("a", 2)]

    @pytest.mark.parametrize(
        "wrong",
        [
            Statement("INSERT INTO tally (name, n) VALUES ($1, $2)", [("x", 1), ("x", 2)]),
            Statement("INSERT INTO nowhere VALUES ($1)", [("x",)]),
            Statement("this is not SQL"),
        ],
        ids=["constraint", "no_table", "syntax"],
    )
    async def test_a_failed_statement_undoes_all_and_leaves_the_offset(
        self, journal: Journal, lease: ProjectionLease, wrong: Statement
    ) -> None:
        with pytest.raises(BackhaulError) as failed:
            await journal.projections.commit(lease, 5, [Statement(COUNT, [("a", 1)]), wrong], 60)
        assert failed.value.code == "projection.statement_failed"
        assert await tallies(journal) == []
        lease = await journal.projections.commit(lease, 6, [Statement(COUNT, [("a", 1)])], 60)
        assert await tallies(journal) == [("a", 1)]

    async def test_a_commit_from_another_position_is_fenced_and_writes_nothing(
        self, journal: Journal, lease: ProjectionLease
    ) -> None:
        await journal.projections.commit(lease, 5, [Statement(COUNT, [("a", 1)])], 60)
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.commit(lease, 5, [Statement(COUNT, [("a", 1)])], 60)
        assert refused.value.code == "projection.fenced"
        assert await tallies(journal) == [("a", 1)]

    async def test_a_range_that_was_never_acquired_is_fenced(self, journal: Journal) -> None:
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.commit(ProjectionLease("other", ALL_SLICES, 1, 0), 1, [], 60)
        assert refused.value.code == "projection.fenced"

    async def test_a_cancelled_commit_happened_or_did_not(self, journal: Journal, lease: ProjectionLease) -> None:
        done = 0
        for number in range(20):
            with trio.move_on_after(number * 0.000_2):
                await journal.projections.commit(lease, lease.position + 1, [Statement(COUNT, [("a", 1)])], 60)
            lease = await take(journal)
            assert lease.position in {done, done + 1}
            done = lease.position
            counted = await tallies(journal)
            assert counted == ([("a", done)] if done else [])

    @pytest.mark.parametrize("fault", ["none", "fenced", "statement"])
    async def test_of_those_that_commit_at_once_each_is_done_or_told(self, journal: Journal, fault: str) -> None:
        await journal.projections.migrate("tally", TALLY)
        leases = []
        for part in slice_ranges(4):
            lease = await journal.projections.acquire("tally", part, "node-1", 60)
            assert lease is not None
            leases.append(lease)
        if fault == "fenced":
            leases[1] = ProjectionLease("tally", leases[1].slices, leases[1].epoch + 1, 0)
        outcomes: dict[int, object] = {}

        async def commit(number: int) -> None:
            broken = fault == "statement" and number == 1
            statement = Statement("this is not SQL" if broken else COUNT, [("a", 1), (str(number), 1)])
            try:
                outcomes[number] = (await journal.projections.commit(leases[number], 7, [statement], 60)).position
            except BackhaulError as error:
                outcomes[number] = error.code

        async with trio.open_nursery() as nursery:
            for number in range(len(leases)):
                nursery.start_soon(commit, number)
        wrong = {"none": 7, "fenced": "projection.fenced", "statement": "projection.statement_failed"}[fault]
        assert outcomes == {0: 7, 1: wrong, 2: 7, 3: 7}
        done = [str(number) for number in range(len(leases)) if fault == "none" or number != 1]
        assert await tallies(journal) == [*((name, 1) for name in done), ("a", len(done))]

    @pytest.mark.parametrize("times", [1, 30], ids=["few_rows", "many_rows"])
    async def test_every_type_of_value_goes_in_and_out(
        self, journal: Journal, lease: ProjectionLease, times: int
    ) -> None:
        await journal.projections.migrate(
            "types",
            [["CREATE TABLE types (i BIGINT, f DOUBLE PRECISION, t TEXT, o BOOLEAN, b BYTEA)"]],
        )
        rows = [
            (2**63 - 1, 0.1, "日本 😀 'quoted' \\' \\\\ $1 ; -- /*", True, bytes(range(256))),
            (-(2**63), -2.5e300, "", False, b""),
            (True, float("inf"), "a\nb\x1ec", None, b"'"),
            (None, None, None, None, None),
        ]
        statement = Statement("INSERT INTO types VALUES ($1, $2, $3, $4, $5)", rows * times)
        await journal.projections.commit(lease, 1, [statement], 60)
        assert await journal.projections.query("SELECT i, f, t, o, b FROM types") == rows * times

    @pytest.mark.parametrize("others", [0, 100], ids=["few_rows", "many_rows"])
    @pytest.mark.parametrize("wrong", [2**63, ("x",)], ids=["too_large", "foreign"])
    async def test_a_value_that_fits_no_column_fails_the_statement(
        self, journal: Journal, lease: ProjectionLease, wrong: object, others: int
    ) -> None:
        with pytest.raises(BackhaulError) as failed:
            await journal.projections.commit(lease, 1, [Statement(COUNT, [*([("a", 1)] * others), ("b", wrong)])], 60)
        assert failed.value.code == "projection.statement_failed"
        assert await tallies(journal) == []

    async def test_a_value_is_never_read_as_sql(self, journal: Journal, lease: ProjectionLease) -> None:
        lease = await journal.projections.commit(lease, 1, [Statement(COUNT, [("a", 1)])], 60)
        note = "UPDATE tally SET note = $1"
        for value in ("b');DELETE FROM tally;--", "\\');DELETE FROM tally;--", "$$;DELETE FROM tally;"):
            lease = await journal.projections.commit(lease, lease.position + 1, [Statement(note, [(value,)])], 60)
            assert await journal.projections.query("SELECT note FROM tally") == [(value,)]

    async def test_statements_keep_their_order_whatever_their_size(
        self, journal: Journal, lease: ProjectionLease
    ) -> None:
        for many in (1, 100):
            steps = [
                Statement("UPDATE tally SET n = 0"),
                Statement(COUNT, [("a", 1)] * many),
                Statement("UPDATE tally SET n = n * 10 WHERE name = $1", [("a",)]),
                Statement("DELETE FROM tally WHERE name = $1", []),
            ]
            lease = await journal.projections.commit(lease, lease.position + 1, steps, 60)
            assert await tallies(journal) == [("a", 10 * many)]

    async def test_a_table_that_changes_between_two_commits_is_met_as_it_is(
        self, journal: Journal, lease: ProjectionLease
    ) -> None:
        fill = Statement("INSERT INTO changed (a) VALUES ($1)", [(7,)])
        await journal.projections.migrate("changed", [["CREATE TABLE changed (a BIGINT)"]])
        lease = await journal.projections.commit(lease, 1, [fill], 60)
        again = ["DROP TABLE changed", "CREATE TABLE changed (b TEXT, a BIGINT)"]
        await journal.projections.migrate("changed", [["CREATE TABLE changed (a BIGINT)"], again])
        await journal.projections.commit(lease, 2, [fill], 60)
        assert await journal.projections.query("SELECT a FROM changed") == [(7,)]

    async def test_a_query_cannot_write(self, journal: Journal, lease: ProjectionLease) -> None:
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.query("INSERT INTO tally (name, n) VALUES ('a', 1)")
        assert refused.value.code == "projection.statement_failed"
        assert await tallies(journal) == []


class TestFailing:
    """Why a range does not move is in its row, for every node, until it moves."""

    FAILURE = RangeFailure("projection.handler_failed", "it's \0 ünlucky", 8, 4, 1_700_000_000_000_000)

    @pytest.fixture
    async def failing(self, journal: Journal) -> ProjectionLease:
        lease = await journal.projections.commit(await take(journal), 7, [], 60)
        return await journal.projections.set_failing(lease, self.FAILURE)

    async def stored(self, journal: Journal) -> RangeFailure | None:
        [row] = await journal.projections.rows()
        return row.failing

    async def test_it_is_kept_by_what_does_not_move_the_range(self, journal: Journal, failing: ProjectionLease) -> None:
        assert failing.failing == await self.stored(journal) == self.FAILURE
        failing = await journal.projections.commit(failing, 7, [], 60)
        assert failing.failing == await self.stored(journal) == self.FAILURE
        await journal.projections.set_paused("tally", True)
        assert await self.stored(journal) == self.FAILURE
        await journal.projections.set_paused("tally", False)
        await journal.projections.intervene("tally", [])
        assert await self.stored(journal) == self.FAILURE

    async def test_a_commit_that_moves_the_range_ends_it(self, journal: Journal, failing: ProjectionLease) -> None:
        assert (await journal.projections.commit(failing, 8, [], 60)).failing is None
        assert await self.stored(journal) is None
        assert (await take(journal)).failing is None

    async def test_so_does_one_that_reads_in_its_transaction(self, journal: Journal, failing: ProjectionLease) -> None:
        async def nothing(tables: Tables) -> None:
            await trio.lowlevel.checkpoint()

        failing = await journal.projections.commit_in_transaction(failing, 7, nothing, [], 60)
        assert failing.failing == await self.stored(journal) == self.FAILURE
        await journal.projections.commit_in_transaction(failing, 9, nothing, [], 60)
        assert await self.stored(journal) is None

    async def test_it_ends_by_word_and_when_an_operator_moves_the_projection(
        self, journal: Journal, failing: ProjectionLease
    ) -> None:
        assert (await journal.projections.set_failing(failing, None)).failing is None
        assert await self.stored(journal) is None
        await journal.projections.set_failing(failing, self.FAILURE)
        await journal.projections.intervene("tally", [], restart=True)
        assert await self.stored(journal) is None
        await journal.projections.set_failing(await take(journal), self.FAILURE)
        await journal.projections.set_paused("tally", True)
        await journal.projections.move("tally", 9)
        assert await self.stored(journal) is None

    async def test_who_takes_the_range_over_finds_it_and_who_lost_it_writes_none(
        self, journal: Journal, failing: ProjectionLease
    ) -> None:
        await journal.projections.hand_over([(failing, "node-2")])
        taken = await take(journal, "node-2")
        assert taken.failing == await self.stored(journal) == self.FAILURE
        await journal.projections.release(taken)
        taken = await take(journal, "node-3")
        assert taken.failing == self.FAILURE
        with pytest.raises(BackhaulError, match=r"projection\.fenced"):
            await journal.projections.set_failing(failing, None)
        assert await self.stored(journal) == self.FAILURE

    async def test_ranges_that_others_replace_do_not_fail_any_more(
        self, journal: Journal, failing: ProjectionLease
    ) -> None:
        await journal.projections.reshape("tally", slice_ranges(2))
        assert [row.failing for row in await journal.projections.rows()] == [None, None]

    async def test_it_survives_a_restart(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await journal.projections.set_failing(await take(journal), self.FAILURE)
        async with storage.open() as journal:
            assert await self.stored(journal) == self.FAILURE


class TestMigrations:
    """Applications' tables are brought forward step by step, once."""

    async def test_steps_run_once_and_in_order(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await journal.projections.migrate("tally", TALLY[:1])
            await journal.projections.migrate("tally", TALLY[:1])
            await journal.projections.migrate("tally", TALLY)
        async with storage.open() as journal:
            await journal.projections.migrate("tally", TALLY)
            assert await journal.projections.query("SELECT name, n, note FROM tally") == []

    async def test_newer_tables_are_refused(self, journal: Journal) -> None:
        await journal.projections.migrate("tally", TALLY)
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.migrate("tally", TALLY[:1])
        assert refused.value.code == "journal.schema_newer"

    async def test_a_failed_step_leaves_nothing_of_it(self, journal: Journal) -> None:
        await journal.projections.migrate("tally", TALLY[:1])
        with pytest.raises(BackhaulError):
            await journal.projections.migrate("tally", [*TALLY[:1], ["CREATE TABLE half (x TEXT)", "not SQL"]])
        await journal.projections.migrate("tally", [*TALLY[:1], ["CREATE TABLE half (x TEXT)"]])
        assert await journal.projections.query("SELECT x FROM half") == []
