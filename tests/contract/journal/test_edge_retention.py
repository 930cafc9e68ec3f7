"""What an edge's retention removes, and above all what it leaves, on every storage its journal may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import trio

from common.core.events.ids import ALL_SLICES
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.predicates import parse_filter
from common.core.journal.append import Appended, LocalAppend
from common.core.journal.snapshot import NewSnapshot
from common.core.push.filter_transition import FilterTransition, PushFilter, PushFilterState
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogStore, TrimLimit
from common.transport.push.link_state import LinkState
from edge_service.retention import EdgeRetention, EdgeRetentionSettings
from tests.contract.journals import Storage
from tests.support.builders import append, appended, events, local, pass_age, whole_log

DAY_S = 86_400.0


def retention(
    storage: Storage,
    journal: Journal,
    *,
    acked: int | None,
    keep_acked_s: float = 0.0,
    cap_bytes: int | None = None,
    plain: tuple[str, ...] = (),
    covered: tuple[str, ...] = (),
    interval_s: float = 0.02,
) -> EdgeRetention:
    """One that knows of this ack, if any; a cap of one byte is one that was reached long ago."""
    link = LinkState(acked_position=acked or 0, acked_is_known=acked is not None)
    settings = EdgeRetentionSettings(interval_s, keep_acked_s, DAY_S, cap_bytes, frozenset(plain), frozenset(covered))
    return EdgeRetention(journal, link, settings)


def _asked_for_red(history: Past) -> FilterTransition:
    red = parse_filter('[{"exclude_all":true},{"include_tags":["red"]}]').criteria
    asked = PushFilter(1, red, history=history)
    return FilterTransition(PushFilterState(new=asked), asked)


class _Noting:
    """A log that notes what it is to remove."""

    def __init__(self, log: LogStore, limits: list[TrimLimit]) -> None:
        self._log = log
        self._limits = limits

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (what the log has)
        return getattr(self._log, name)

    async def trim(self, limit: TrimLimit) -> int:
        self._limits.append(limit)
        return await self._log.trim(limit)


async def positions(journal: Journal) -> list[int]:
    return (await whole_log(journal)).position


class TestAcknowledged:
    """Only what the cloud has goes, when every local reader has seen it and it is old enough."""

    async def test_what_is_not_acknowledged_stays(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local(*["Sensor|1"] * 4))
        await pass_age(journal, 1)
        await retention(storage, journal, acked=3).round()
        assert await positions(journal) == [4]
        assert await journal.log.deleted_ranges(0, 9) == [StatedRange("Sensor|1", 1, 3, "trimmed")]

    async def test_the_past_of_what_is_about_to_come_in_stays(self, storage: Storage, journal: Journal) -> None:
        """Two entities were withheld; one of them comes in with an event that is not acknowledged yet."""
        for name, tag in (("S|a", "blue"), ("S|b", "blue"), ("S|a", "red"), ("S|b", "blue"), ("S|a", "blue")):
            await append(journal, LocalAppend(events(name, tags=[tag])))
        await pass_age(journal, 1)
        red = parse_filter('[{"exclude_all":true},{"include_tags":["red"]}]').criteria
        asked = PushFilter(1, red, history=Past.SNAPSHOT)
        keeper = retention(storage, journal, acked=2)
        keeper._link.lanes = FilterTransition(PushFilterState(new=asked), asked)
        await keeper.round()
        assert await positions(journal) == [1, 3, 4, 5]
        keeper._link.acked_position = 5
        await keeper.round()
        assert await positions(journal) == []

    async def test_an_entity_that_comes_and_goes_in_one_page_costs_one_read(
        self, storage: Storage, journal: Journal
    ) -> None:
        for tags in ("blue", "red", "blue", "blue") * 30:
            await append(journal, LocalAppend(events("S|a", tags=[tags])))
        await append(journal, LocalAppend(events("S|b", tags=["blue"])))
        await pass_age(journal, 1)
        keeper = retention(storage, journal, acked=1)
        keeper._link.lanes = _asked_for_red(Past.FULL)
        before = sum(journal.log.read_counts.values())
        await keeper.round()
        assert sum(journal.log.read_counts.values()) - before <= 2
        assert await positions(journal) == list(range(1, 122)), "it comes in with what is not acknowledged"

    async def test_what_is_kept_is_gone_through_once(self, storage: Storage, journal: Journal) -> None:
        """Until some of it may go: then that goes."""
        for name, tag in (("S|a", "blue"), ("S|b", "blue"), ("S|c", "blue"), ("S|a", "red"), ("S|b", "red")):
            await append(journal, LocalAppend(events(name, tags=[tag])))
        await pass_age(journal, 1)
        keeper = retention(storage, journal, acked=3)
        keeper._link.lanes = _asked_for_red(Past.FULL)
        limits: list[TrimLimit] = []
        keeper._journal = replace(journal, log=cast(LogStore, _Noting(journal.log, limits)))
        for _ in range(3):
            await keeper.round()
        assert await positions(journal) == [1, 2, 4, 5]
        assert [limit.after for limit in limits] == [0, 3, 3]
        keeper._link.acked_position = 5
        await keeper.round()
        assert await positions(journal) == []
        assert limits[-1].after == 0

    async def test_where_room_is_tight_or_no_past_is_asked_for_nothing_is_held_back(
        self, storage: Storage, journal: Journal
    ) -> None:
        red = parse_filter('[{"exclude_all":true},{"include_tags":["red"]}]').criteria
        for name, history, cap_bytes in (("S|a", Past.NONE, None), ("S|b", Past.FULL, 1)):
            await append(journal, LocalAppend(events(name, tags=["blue"])))
            acked = journal.log.history.head_position
            await append(journal, LocalAppend(events(name, tags=["red"])))
            await pass_age(journal, 1)
            asked = PushFilter(1, red, history=history)
            keeper = retention(storage, journal, acked=acked, cap_bytes=cap_bytes)
            keeper._link.lanes = FilterTransition(PushFilterState(new=asked), asked)
            await keeper.round()
            assert acked not in await positions(journal)

    async def test_while_a_backfill_is_under_way_all_of_it_stays(self, storage: Storage, journal: Journal) -> None:
        await append(journal, LocalAppend(events("S|a", tags=["blue"])))
        await pass_age(journal, 1)
        red = parse_filter('[{"exclude_all":true},{"include_tags":["red"]}]').criteria
        asked = PushFilter(1, red, history=Past.FULL)
        keeper = retention(storage, journal, acked=1)
        keeper._link.lanes = FilterTransition(PushFilterState(new=asked, change_position=1), asked)
        await keeper.round()
        assert await positions(journal) == [1]

    async def test_before_the_cloud_has_named_its_position_nothing_goes(
        self, storage: Storage, journal: Journal
    ) -> None:
        await appended(journal, local("Sensor|1"))
        await pass_age(journal, 1)
        keeper = retention(storage, journal, acked=None)
        keeper._link.acked_position = 1
        await keeper.round()
        assert await positions(journal) == [1]

    async def test_what_a_projection_has_not_seen_stays(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local(*["Sensor|1"] * 4))
        await pass_age(journal, 1)
        lease = await journal.projections.acquire("totals", ALL_SLICES, "edge", 60)
        assert lease is not None
        await journal.projections.commit(lease, 2, [], 60)
        await retention(storage, journal, acked=4).round()
        assert await positions(journal) == [3, 4]

    async def test_young_events_are_kept_to_refill_a_rewound_cloud_until_room_is_tight(
        self, storage: Storage, journal: Journal
    ) -> None:
        await appended(journal, local("Sensor|1"))
        await pass_age(journal, 59)
        await appended(journal, local("Sensor|1"))
        await pass_age(journal, 2)
        await retention(storage, journal, acked=2, keep_acked_s=60).round()
        assert await positions(journal) == [2]
        await retention(storage, journal, acked=2, keep_acked_s=60, cap_bytes=1).round()
        assert await positions(journal) == []

    async def test_entities_with_code_behind_them_lose_only_what_a_snapshot_replaces(
        self, storage: Storage, journal: Journal
    ) -> None:
        await appended(journal, local(*["Order|1", "Sensor|1", "Order|2"] * 2))
        await pass_age(journal, 1)
        keeper = retention(storage, journal, acked=6, covered=("Order",))
        await keeper.round()
        assert await positions(journal) == [1, 3, 4, 6]
        await journal.snapshots.put([NewSnapshot("Order|1", 1, "State", "json", b"{}")])
        await keeper.round()
        assert await positions(journal) == [3, 4, 6]

    async def test_keys_are_remembered_for_their_time(self, storage: Storage, journal: Journal) -> None:
        request = local("Sensor|1", append_id="k")
        await appended(journal, request)
        keeper = retention(storage, journal, acked=None)
        await pass_age(journal, DAY_S - 1)
        await keeper.round()
        assert await append(journal, request) == Appended(1, [1], repeated=True)
        await pass_age(journal, 2)
        await keeper.round()
        assert await append(journal, request) == Appended(2, [2])


class TestDropping:
    """At the cap the oldest of plain types go, and nothing else does, though nobody has them."""

    async def test_of_plain_types_alone_and_stated_as_dropped(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local("Order|1", "Sensor|1", "Order|1", "Sensor|2"))
        keeper = retention(storage, journal, acked=None, cap_bytes=1, plain=("Sensor",))
        await keeper.round()
        assert await positions(journal) == [1, 3]
        assert keeper.dropped == 2
        assert {stated.reason for stated in await journal.log.deleted_ranges(0, 9)} == {"dropped"}

    async def test_without_plain_types_or_below_the_cap_nothing_does(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local("Sensor|1"))
        await retention(storage, journal, acked=None, cap_bytes=1).round()
        await retention(storage, journal, acked=None, cap_bytes=10**9, plain=("Sensor",)).round()
        await retention(storage, journal, acked=None, plain=("Sensor",)).round()
        assert await positions(journal) == [1]

    async def test_entities_with_code_behind_them_are_not_plain(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local("Order|1", "Sensor|1"))
        await retention(
            storage, journal, acked=None, cap_bytes=1, plain=("Order", "Sensor"), covered=("Order",)
        ).round()
        assert await positions(journal) == [1]

    async def test_what_is_acknowledged_goes_first(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local("Sensor|1", "Sensor|1"))
        await retention(storage, journal, acked=1, keep_acked_s=60, cap_bytes=1, plain=("Sensor",)).round()
        assert await positions(journal) == [2]


async def test_while_room_is_tight_an_ack_is_used_soon_whatever_the_interval(
    storage: Storage, journal: Journal
) -> None:
    await appended(journal, local("Sensor|1"))
    keeper = retention(storage, journal, acked=0, cap_bytes=1, interval_s=3_600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(0.1)
        keeper._link.acked_position = 1
        with trio.fail_after(10):
            left = await positions(journal)
            while left:
                await trio.sleep(0.02)
                left = await positions(journal)
        nursery.cancel_scope.cancel()
