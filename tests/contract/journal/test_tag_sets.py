"""The distinct tag sets of an entity's events: kept by every journal, whatever way the events came, and when they go."""

from __future__ import annotations

from common.core.events.batch import LEFT_TAGS
from common.core.journal.tag_sets import TAG_SETS_MAX
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.support.builders import Origin, appended, local


def sets(*joined: str) -> frozenset[str] | None:
    return frozenset(joined)


class TestTagSets:
    async def test_they_are_those_of_all_events_also_of_deleted_ones(self, journal: Journal) -> None:
        await appended(journal, local("A|plain", "A|one", "A|late", "A|mixed", tags=["", "t:a", "", "x\x1fy"]))
        await appended(journal, local("A|plain"))
        await appended(journal, local("A|one", "A|late", "A|mixed", "A|mixed", tags=["t:a", "t:b", "y\x1fx", ""]))
        expected = {
            "A|plain": sets(""),
            "A|one": sets("t:a"),
            "A|late": sets("", "t:b"),
            "A|mixed": sets("x\x1fy", ""),
        }
        for _ in range(2):
            found = await journal.log.tag_sets([*expected, "A|unheard"])
            mixed = sets(*(tags.replace("y\x1fx", "x\x1fy") for tags in found["A|mixed"] or ()))
            assert {**found, "A|mixed": mixed} == expected
            await journal.log.trim(TrimLimit(100, 100))
        await appended(journal, local("A|one", "A|plain", tags=["t:c", "t:d"]))
        assert await journal.log.tag_sets(["A|one", "A|plain"]) == {
            "A|one": sets("t:a", "t:c"),
            "A|plain": sets("", "t:d"),
        }

    async def test_pushed_and_retried_events_are_counted_and_parked_ones_not(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 4), tags=["t:a", LEFT_TAGS, "t:x"])
        assert await journal.log.tag_sets(["A|1"]) == {"A|1": sets("t:a", LEFT_TAGS)}
        assert await journal.parked.retry("A|1", accept_gap=True) == (1, "")
        assert await journal.log.tag_sets(["A|1"]) == {"A|1": sets("t:a", LEFT_TAGS, "t:x")}

    async def test_of_more_than_are_kept_all_are_unknown(self, journal: Journal) -> None:
        for number in range(TAG_SETS_MAX):
            await appended(journal, local("A|1", tags=[f"t:{number}"]))
        known = (await journal.log.tag_sets(["A|1"]))["A|1"]
        assert known == sets(*(f"t:{number}" for number in range(TAG_SETS_MAX)))
        for number in range(3):
            await appended(journal, local("A|1", tags=[f"t:more/{number}"]))
            assert await journal.log.tag_sets(["A|1"]) == {"A|1": None}
