"""What every journal promises of snapshots: the latest an entity, in pages that hold still, and the deletion they allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.core.journal.snapshot import NewSnapshot, Snapshot, SnapshotsBeside
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import local

LATER_US = 2**62


def taken(persistence_id: str, seq_nr: int, payload: bytes = b"state", tags: str = "") -> NewSnapshot:
    return NewSnapshot(persistence_id, seq_nr, "State", "json", payload, tags, "by\x1ftest")


async def names(journal: Journal, after: str = "", **kwargs: frozenset[str]) -> list[str]:
    found = await journal.snapshots.page(after, max_rows=100, max_bytes=10**6, **kwargs)
    return [snapshot.persistence_id for snapshot in found]


async def positions(journal: Journal) -> list[int]:
    return (await journal.log.read(0, max_events=1_000, max_bytes=10**7)).events.position


def covering(*entity_types: str, through: int = 2**62, max_events: int = 1_000, after: int = 0) -> TrimLimit:
    return TrimLimit(through, max_events, covered_types=frozenset(entity_types), after=after)


async def numbers_kept(journal: Journal, name: str = "Order|1") -> list[int]:
    return [snapshot.seq_nr for snapshot in await journal.snapshots.kept(name)]


class TestDelete:
    """What is deleted is no starting point any more, and nothing that it stood for is left without one."""

    async def test_the_next_older_one_takes_the_place_of_the_latest(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 5)])
        for seq_nr in (1, 2, 4):
            await journal.snapshots.put([taken("Order|1", seq_nr, b"%d" % seq_nr)], keep=3)
        assert await journal.snapshots.uncovered_after(5) == 4
        await journal.snapshots.delete("Order|1", 4)
        found = await journal.snapshots.get("Order|1")
        assert found is not None
        assert (found.seq_nr, found.payload) == (2, b"2")
        assert await journal.snapshots.uncovered_after(5) == 2
        await journal.snapshots.delete("Order|1", 1)
        assert await numbers_kept(journal) == [2]
        await journal.snapshots.delete("Order|1", 2)
        assert await numbers_kept(journal) == []
        assert await journal.snapshots.uncovered_after(5) == 0
        assert await journal.snapshots.put([taken("Order|1", 1)]) == [True]

    async def test_every_node_forgets_up_to_where_snapshots_covered_the_log(self, storage: Storage) -> None:
        if not storage.shared:
            return
        async with storage.open() as one, storage.open() as other:
            await one.log.append_group([local("Order|1", "Order|1")])
            await one.snapshots.put([taken("Order|1", 2)])
            assert await other.snapshots.uncovered_after(2) == 2
            await one.snapshots.delete("Order|1", 2)
            assert await other.snapshots.uncovered_after(2) == 0

    async def test_one_that_stands_for_deleted_events_stays(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 5)])
        for seq_nr in (2, 4):
            await journal.snapshots.put([taken("Order|1", seq_nr)], keep=2)
        await journal.log.trim(TrimLimit(3, 100, covered_types=frozenset({"Order"})))
        with pytest.raises(BackhaulError) as refusal:
            await journal.snapshots.delete("Order|1", 4)
        assert refusal.value.code == "snapshot.needed"
        await journal.snapshots.delete("Order|1", 2)
        for name, seq_nr in (("Order|1", 2), ("Order|9", 1)):
            with pytest.raises(BackhaulError) as refusal:
                await journal.snapshots.delete(name, seq_nr)
            assert refusal.value.code == "snapshot.none"
        assert await numbers_kept(journal) == [4]


class TestPut:
    """The latest wins, and no snapshot says more than its entity's events."""

    async def test_it_has_the_place_times_and_tags_of_its_event(self, storage: Storage, journal: Journal) -> None:
        events = new_events(
            ["Order|1"] * 3, ["Changed"] * 3, [b"a", b"b", b"c"], event_time_us=[5, 6, 7], tags=["x", "y\x1fz", ""]
        )
        await journal.log.append_group([LocalAppend(events)])
        stored_us = storage.clock()
        storage.clock.advance(10)
        assert await journal.snapshots.put([taken("Order|1", 2)]) == [True]
        found = await journal.snapshots.get("Order|1")
        [event] = (await journal.log.read_entity("Order|1", 2, 2, max_events=1)).envelopes()
        assert found == Snapshot(
            "Order|1", 2, 2, event.timestamp_us, stored_us, 6, "State", "json", b"state", "y\x1fz", "by\x1ftest", 3
        )
        assert await journal.snapshots.get("Order|2") is None

    async def test_one_of_the_same_number_takes_its_place_where_that_is_wanted(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 5)])
        await journal.snapshots.put([taken("Order|1", 3, b"three")], keep=3)
        first = await journal.snapshots.get("Order|1")
        assert await journal.snapshots.put([taken("Order|1", 3, b"again"), taken("Order|1", 2)], replaces=True) == [
            True,
            False,
        ]
        await journal.log.trim(covering("Order"))
        assert await journal.snapshots.put([taken("Order|1", 3, b"mended", "t:x")], keep=3, replaces=True) == [True]
        found = await journal.snapshots.get("Order|1")
        assert first is not None
        assert found == replace(first, payload=b"mended", taken_position=5)
        assert await journal.snapshots.kept("Order|1") == [found]

    async def test_those_of_some_entities_are_found_whole_or_measured(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Order|2", "Order|3", "Order|3")])
        for one in (taken("Order|1", 1, b"one"), taken("Order|3", 1), taken("Order|3", 2, b"")):
            await journal.snapshots.put([one], keep=2)
        wanted = ["Order|3", "Order|2", "Order|1", "Order|1", "Order|none"]
        found = {one.persistence_id: one for one in await journal.snapshots.of(wanted)}
        assert found == {name: await journal.snapshots.get(name) for name in ("Order|1", "Order|3")}
        sized = {one.persistence_id: (one, size) for one, size in await journal.snapshots.sized(wanted)}
        assert sized == {
            "Order|1": (replace(found["Order|1"], payload=b""), 3),
            "Order|3": (found["Order|3"], 0),
        }
        columns = await journal.snapshots.numbers(list(dict.fromkeys(wanted)))
        assert sorted(zip(*columns, strict=True)) == [("Order|1", 1, 1), ("Order|3", 2, 4)]
        assert await journal.snapshots.of([]) == []
        assert await journal.snapshots.sized([]) == []
        assert await journal.snapshots.numbers([]) == ([], [], [])

    async def test_payloads_of_any_bytes_are_each_their_own(self, journal: Journal) -> None:
        payloads = {"Order|1": b"\x00\xff", "Order|2": b"", "Order|3": b"\xc3", "Order|4": b"\xa9\x00"}
        await journal.log.append_group([local(*payloads)])
        await journal.snapshots.put([taken(name, 1, payload) for name, payload in payloads.items()])
        assert {one.persistence_id: one.payload for one in await journal.snapshots.of(payloads)} == payloads

    async def test_as_they_stand_beside_a_stretch_of_the_log(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["S|a", "S|b", "S|a", "S|c", "S|b", "S|a"])])
        await journal.snapshots.put([taken("S|a", 2), taken("S|b", 1, b"")])
        whole = SnapshotsBeside(["S|a", "S|b"], [2, 1], [3, 2], [5, 0], [0, 0], [0, 0], [1, 2], events=6, kept_at=4)
        assert await journal.snapshots.beside(0, 6) == whole
        assert await journal.snapshots.beside(0, 6, lost_after=0) == SnapshotsBeside(events=6, kept_at=1)
        later = SnapshotsBeside(["S|a"], [2], [3], [5], [0], [0], [3], events=1)
        assert await journal.snapshots.beside(2, 3) == later
        assert await journal.snapshots.beside(3, 5) == SnapshotsBeside(events=2, kept_at=4)
        await journal.log.trim(TrimLimit(2, 100))
        lost = SnapshotsBeside(["S|a", "S|b"], [2, 1], [3, 2], [5, 0], [1, 1], [1, 2], [1, 2], events=4, kept_at=4)
        assert await journal.snapshots.beside(0, 6) == lost
        assert await journal.snapshots.beside(0, 6, lost_after=0) == lost
        one = SnapshotsBeside(["S|b"], [1], [2], [0], [1], [2], [2], events=4, kept_at=3)
        assert await journal.snapshots.beside(0, 6, lost_after=1) == one

    async def test_as_many_older_ones_stay_as_are_to_be_kept(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 9, "Order|2")])
        for seq_nr in range(1, 6):
            await journal.snapshots.put([taken("Order|1", seq_nr, b"%d" % seq_nr)], keep=3)
        assert await numbers_kept(journal) == [5, 4, 3]
        await journal.snapshots.put([taken("Order|1", 7), taken("Order|2", 1)], keep=2)
        assert await numbers_kept(journal) == [7, 5]
        await journal.snapshots.put([taken("Order|1", 8)])
        assert await numbers_kept(journal) == [8]
        assert await numbers_kept(journal, "Order|2") == [1]
        assert await numbers_kept(journal, "Order|3") == []
        assert await names(journal) == ["Order|1", "Order|2"]

    async def test_it_says_no_more_than_the_last_event_only_of_an_event_that_is_there(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 3)])
        [snapshot] = [replace(taken("Order|1", 2), says_last_event=True)]
        await journal.snapshots.put([snapshot])
        [found] = await journal.snapshots.kept("Order|1")
        assert found.says_last_event
        await journal.log.trim(TrimLimit(3, 100))
        await journal.snapshots.put([replace(snapshot, seq_nr=3)])
        [found] = await journal.snapshots.kept("Order|1")
        assert (found.seq_nr, found.position, found.says_last_event) == (3, 0, False)

    async def test_only_a_later_one_replaces_it(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 5)])
        assert await journal.snapshots.put([taken("Order|1", 3, b"three")]) == [True]
        assert await journal.snapshots.put([taken("Order|1", 3, b"again"), taken("Order|1", 2)]) == [False, False]
        assert await journal.snapshots.put([taken("Order|1", 4, b"four"), taken("Order|1", 4)]) == [True, False]
        found = await journal.snapshots.get("Order|1")
        assert found is not None
        assert (found.seq_nr, found.payload, found.position) == (4, b"four", 4)

    @pytest.mark.parametrize(
        ("refused", "code"),
        [
            (taken("Order|2", 1), "snapshot.no_entity"),
            (taken("Order|1", 3), "snapshot.ahead"),
            (taken("Order|1", 0), "snapshot.ahead"),
        ],
    )
    async def test_what_no_event_says_is_refused_with_all_beside_it(
        self, journal: Journal, refused: NewSnapshot, code: str
    ) -> None:
        await journal.log.append_group([local(*["Order|1"] * 2)])
        with pytest.raises(BackhaulError) as error:
            await journal.snapshots.put([taken("Order|1", 2), refused])
        assert error.value.code == code
        assert await journal.snapshots.get("Order|1") is None

    async def test_none_at_all_is_fine(self, journal: Journal) -> None:
        assert await journal.snapshots.put([]) == []

    async def test_of_a_deleted_event_it_keeps_what_it_is_given(self, storage: Storage, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 4)])
        await journal.log.trim(TrimLimit(2, 10))
        assert await journal.snapshots.put([taken("Order|1", 1), taken("Order|1", 2, tags="t:a")]) == [False, True]
        found = await journal.snapshots.get("Order|1")
        assert found is not None
        assert (found.position, found.timestamp_us, found.tags, found.stored_us) == (0, 0, "t:a", storage.clock())

    async def test_it_survives_a_restart(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await journal.log.append_group([local("Order|1")])
            await journal.snapshots.put([taken("Order|1", 1)])
            before = await journal.snapshots.get("Order|1")
        async with storage.open() as journal:
            assert await journal.snapshots.get("Order|1") == before != None  # noqa: E711


class TestPages:
    """By persistence id in byte order, whatever is stored meanwhile."""

    async def test_they_come_in_byte_order(self, journal: Journal) -> None:
        ids = ["Order|b", "Order|B", "Order|ä", "Order|10", "Order|9", "Orderx|1"]
        await journal.log.append_group([local(*ids)])
        await journal.snapshots.put([taken(name, 1) for name in ids])
        assert await names(journal) == sorted(ids)
        assert await names(journal, "Order|9") == ["Order|B", "Order|b", "Order|ä"]

    async def test_of_some_types(self, journal: Journal) -> None:
        ids = ["A|1", "B|1", "B|2", "BB|1", "C|1"]
        await journal.log.append_group([local(*ids)])
        await journal.snapshots.put([taken(name, 1) for name in ids])
        assert await names(journal, entity_types=frozenset({"C", "B"})) == ["B|1", "B|2", "C|1"]
        assert await names(journal, "B|1", entity_types=frozenset({"C", "B"})) == ["B|2", "C|1"]
        assert await names(journal, "B|2", entity_types=frozenset({"B"})) == []
        assert await names(journal, entity_types=frozenset({"D"})) == []

    async def test_a_page_keeps_to_rows_and_bytes_but_always_has_one(self, journal: Journal) -> None:
        ids = [f"{kind}|{number}" for kind in "AB" for number in range(3)]
        await journal.log.append_group([local(*ids)])
        await journal.snapshots.put([taken(name, 1, b"x" * 1_000) for name in ids])
        for types in (frozenset[str](), frozenset({"A", "B"})):
            for max_rows, max_bytes, expected in [
                (2, 10**6, 2),
                (4, 10**6, 4),
                (9, 10, 1),
                (9, 2_500, 2),
                (9, 5_000, 4),
            ]:
                found = await journal.snapshots.page("", max_rows=max_rows, max_bytes=max_bytes, entity_types=types)
                assert [snapshot.persistence_id for snapshot in found] == ids[:expected]

    async def test_each_entity_comes_once_while_newer_ones_are_stored(self, journal: Journal) -> None:
        ids = [f"Order|{number:03}" for number in range(20)]
        await journal.log.append_group([local(*ids), local(*ids), local(*ids)])
        await journal.snapshots.put([taken(name, 1) for name in ids])
        seen: list[tuple[str, int]] = []
        while page := await journal.snapshots.page(seen[-1][0] if seen else "", max_rows=3, max_bytes=10**6):
            seen += [(snapshot.persistence_id, snapshot.seq_nr) for snapshot in page]
            await journal.snapshots.put([taken(name, 2) for name in (ids[0], ids[len(seen) % 20], ids[-1])])
        assert [name for name, _ in seen] == ids
        assert seen[0] == (ids[0], 1)
        assert seen[-1] == (ids[-1], 2)


class TestCover:
    """Up to where a reader of all snapshots need not read the log."""

    async def test_without_snapshots_nothing_is_covered(self, journal: Journal) -> None:
        assert await journal.snapshots.uncovered_after(0) == 0
        await journal.log.append_group([local("Order|1", "Order|1")])
        assert await journal.snapshots.uncovered_after(2) == 0

    async def test_it_ends_before_the_first_event_above_a_snapshot(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Order|2", "Order|1", "Order|2", "Order|1")])
        await journal.snapshots.put([taken("Order|1", 2), taken("Order|2", 1)])
        assert await journal.snapshots.uncovered_after(5) == 3
        assert await journal.snapshots.uncovered_after(2) == 2
        await journal.snapshots.put([taken("Order|2", 2)])
        assert await journal.snapshots.uncovered_after(5) == 4
        await journal.snapshots.put([taken("Order|1", 3)])
        assert await journal.snapshots.uncovered_after(5) == 5

    async def test_deleted_events_count_as_covered(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Order|2", "Order|1")])
        await journal.log.trim(TrimLimit(2, 10))
        assert await journal.snapshots.uncovered_after(3) == 2

    async def test_types_are_told_apart(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Sensor|1", "Order|1", "Sensor|1")])
        await journal.snapshots.put([taken("Order|1", 1)])
        assert await journal.snapshots.uncovered_after(4) == 1
        assert await journal.snapshots.uncovered_after(4, entity_types=frozenset({"Order"})) == 2
        assert await journal.snapshots.uncovered_after(4, entity_types=frozenset({"Sensor"})) == 1
        assert await journal.snapshots.uncovered_after(4, entity_types=frozenset({"Site"})) == 4


class TestDeletion:
    """Entities of covered types lose what their snapshot replaces, and nothing else."""

    async def test_events_at_and_below_the_snapshot_go_those_above_stay(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Order|2", "Order|1", "Order|2", "Order|1")])
        await journal.snapshots.put([taken("Order|1", 2), taken("Order|2", 1)])
        assert await journal.log.trim(covering("Order")) == 3
        assert await positions(journal) == [4, 5]
        assert [(stated.persistence_id, stated.to_seq_nr) for stated in await journal.log.deleted_ranges(0, 5)] == [
            ("Order|2", 1),
            ("Order|1", 2),
        ]
        found = await journal.snapshots.get("Order|1")
        assert found is not None
        assert (found.seq_nr, found.position, found.payload) == (2, 3, b"state")

    async def test_all_of_an_entity_may_go_when_its_snapshot_is_the_last_event(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1"] * 3)])
        await journal.snapshots.put([taken("Order|1", 3)])
        assert await journal.log.trim(covering("Order")) == 3
        assert await positions(journal) == []
        await journal.log.append_group([local("Order|1")])
        [event] = (await journal.log.read(0, max_events=9, max_bytes=10**6)).events.envelopes()
        assert (event.position, event.seq_nr) == (4, 4)
        assert await journal.snapshots.put([taken("Order|1", 4)]) == [True]

    async def test_without_a_snapshot_a_covered_type_loses_nothing_others_all(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Sensor|1", "Order|1", "Orders|1")])
        assert await journal.log.trim(covering("Order")) == 2
        assert await positions(journal) == [1, 3]

    async def test_covered_and_wanted_types_meet(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Sensor|1", "Order|1", "Site|1")])
        await journal.snapshots.put([taken("Order|1", 1)])
        limit = TrimLimit(9, 9, entity_types=frozenset({"Order", "Site"}), covered_types=frozenset({"Order", "Sensor"}))
        assert await journal.log.trim(limit) == 2
        assert await positions(journal) == [2, 3]

    async def test_a_chunk_passes_over_what_must_stay(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Order|1", "Order|2", "Order|2", "Order|2")])
        await journal.snapshots.put([taken("Order|2", 3)])
        assert await journal.log.trim(covering("Order", max_events=2)) == 2
        assert await positions(journal) == [1, 2, 5]

    async def test_a_stretch_from_the_middle_leaves_no_older_event_behind(self, journal: Journal) -> None:
        await journal.log.append_group([local("Order|1", "Order|2", "Order|1", "Order|3", "Order|3")])
        assert await journal.log.trim(TrimLimit(9, 9, after=1)) == 3
        assert await positions(journal) == [1, 3]
        assert await journal.log.trim(TrimLimit(9, 9)) == 2
