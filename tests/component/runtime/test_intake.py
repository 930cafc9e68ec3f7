"""The edge's intake: what it refuses before the journal sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from common.core.errors import BackhaulError
from common.journal.group_commit import open_group_commit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.runtime.intake import Intake
from tests.support.builders import START_US, ids, local


@pytest.fixture
async def intake() -> AsyncIterator[Intake]:
    async with (
        open_memory_journal(MemoryDatabase(), now_us=lambda: START_US, new_id=ids().__next__) as journal,
        open_group_commit(journal.log) as commit,
    ):
        yield Intake(
            commit, entity_prefix="edge-1/", event_max_bytes=100, request_max_events=10, request_max_bytes=10_000
        )
        await trio.lowlevel.checkpoint()


async def test_an_expectation_is_named_as_the_events_are(intake: Intake) -> None:
    await intake.append(local("A|1", expected={"A|1": 0}))
    with pytest.raises(BackhaulError) as refused:
        await intake.append(local("A|2", expected={"A|1": 0}))
    assert refused.value.code == "append.wrong_expected_seq_nr"
    assert refused.value.details["persistence_id"] == "A|edge-1/1"


@pytest.mark.parametrize(
    ("name", "seq_nr", "code"),
    [
        ("A|1", -1, "events.invalid"),
        ("A|1", 2**63, "events.invalid"),
        ("A\0|1", 0, "entity.invalid_name"),
        ("no separator", 0, "entity.invalid_name"),
        ("A|" + "x" * 10_000, 0, "entity.invalid_name"),
    ],
)
async def test_an_expectation_no_entity_can_meet_is_refused(intake: Intake, name: str, seq_nr: int, code: str) -> None:
    """A database would fail the whole commit over some of them."""
    with pytest.raises(BackhaulError) as refused:
        await intake.append(local("A|1", expected={name: seq_nr}))
    assert refused.value.code == code
