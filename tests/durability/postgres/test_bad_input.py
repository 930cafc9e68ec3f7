"""What no honest peer sends is set aside like any misfit: it never fails the commit that it shares with others (P5)."""

from __future__ import annotations

from common import border
from common.core.events.stated_range import StatedRange
from common.core.journal.append import Pushed
from common.journal.postgres import open_postgres_journal
from tests.support.builders import START_US, Origin, ids, local

HIGHEST = 2**63 - 1
LOWEST = -(2**63)


async def test_numbers_at_the_ends_of_64_bits_and_texts_postgresql_cannot_hold(postgres_url: str) -> None:
    new_id = ids().__next__
    async with (
        border.open_loop(),
        open_postgres_journal(postgres_url, now_us=lambda: START_US, new_id=new_id, notify=False) as journal,
    ):
        bad = Origin("edge-bad")
        await bad.dial(journal)
        await bad.push(journal, ("A|1", 1), ranges=[StatedRange("A|1", 2, HIGHEST, "withheld")])
        batch = bad.batch(
            ("A|1", LOWEST, HIGHEST),
            ("A|2", HIGHEST, -5),
            ("A|2", LOWEST, LOWEST),
            ("A\0|1\x1e", 1),
            ranges=[StatedRange("A|3", LOWEST, LOWEST, "x"), StatedRange("A|4", LOWEST, HIGHEST, "x")],
            poison={3: "entity.invalid_name"},
        )
        pushed, appended = await journal.log.append_group([batch, local("B|1")])
        assert isinstance(pushed, Pushed)
        assert [event.code for event in pushed.parked] == [
            "parked.conflict", "parked.gap", "parked.behind", "entity.invalid_name"
        ]  # fmt: skip
        assert appended.first_position == 2  # type: ignore[union-attr]
        parked = await journal.parked.rows()
        assert [row.event.position for row in parked] == [2, 3, 4, 5]
        assert parked[3].event.persistence_id == "A\ufffd|1\ufffd"
        assert [row.event.payload for row in parked] == batch.events.payload
