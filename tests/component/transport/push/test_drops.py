"""What an edge drops while it is pushed: what was stated as gone is not sent after all from commits that are at hand."""

from __future__ import annotations

import pytest

from common.core.errors import BackhaulError, ErrorKind
from common.core.journal.history import Offset, Resume
from common.core.push.filter_transition import EVERYTHING, PushFilter, PushFilterState
from common.core.push.messages import Start
from common.core.push.producer import Producer
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.log import TrimLimit
from common.transport.push.source import PushSource
from tests.support.builders import START_US, ids
from tests.support.push import LIMITS, append

NOT_Z = PushFilter(1, '[{"exclude_ids":["z"]}]')


async def refuse(_name: str, _offset: Offset) -> None:
    raise BackhaulError("journal.disk_full", "no space left", "", kind=ErrorKind.FULL)


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("asked", [PushFilter(), NOT_Z])
async def test_what_is_stated_as_gone_is_not_sent_from_memory(
    asked: PushFilter, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room to keep where snapshots stand in, they do not, and pages are those of the log."""
    async with open_memory_journal(MemoryDatabase(), now_us=lambda: START_US, new_id=ids("drops").__next__) as journal:
        if not has_room:
            monkeypatch.setattr(journal.log, "save_cursor", refuse)
        start = Start(
            1,
            Offset(journal.log.history.journal_id, "g", 0),
            Resume.RESUME,
            "cloud",
            "cg",
            LIMITS,
            0,
            PushFilterState(asked, asked),
            asked,
        )
        producer = Producer(start, LIMITS, batches_max=9, ack_target_s=10.0, own_filter=EVERYTHING)
        source = PushSource(journal, producer, batch_max_events=10, batch_max_bytes=LIMITS.batch_bytes)
        stated: set[str] = set()
        sent: list[tuple[str, int]] = []
        with source.listening(lambda _: None):
            for name in ["S|b", "S|gone", "S|b"]:
                await append(journal, [name])
            page = await source.next(1)
            await journal.log.trim(TrimLimit(2, 1, reason="dropped", after=1))
            while page is not None:
                batch = await source.batch_of(page)
                assert batch is not None
                assert stated.isdisjoint(batch.events.persistence_id), "its commit is at hand, but it is stated as gone"
                stated.update(one.persistence_id for one in batch.ranges)
                sent += zip(batch.events.persistence_id, batch.events.seq_nr, strict=True)
                source.sent(batch)
                producer.sent(batch, 100, 0.0)
                page = await source.next(1)
        assert sent[:1] + sent[-1:] == [("S|b", 1), ("S|b", 2)]
        assert stated == {"S|gone"} or ("S|gone", 1) in sent
