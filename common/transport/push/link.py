"""The edge's one link to the cloud: its journal is pushed for as long as the service runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

from common.core.errors import BackhaulError
from common.core.flow.backoff import Backoff
from common.core.flow.messages import Drain
from common.core.push.messages import PUSH_PATH
from common.journal.stores.journal import Journal
from common.transport.link.keep import Dial, keep_link
from common.transport.push.link_state import LinkState
from common.transport.push.producer import CURSOR, PushSettings, push
from common.transport.stream import DialledStream


async def keep_push_link(
    dial: Dial,
    journal: Journal,
    settings: PushSettings,
    state: LinkState,
    *,
    backoff: Backoff,
    chance: random.Random,
    now_us: Callable[[], int],
) -> None:
    """Keep the journal flowing to the cloud until cancelled. ``state`` always says how the link is."""

    async def converse(
        stream: DialledStream, on_start: Callable[[], None], on_progress: Callable[[], None]
    ) -> Drain | None:
        return await push(stream, journal, settings, state, now_us=now_us, on_start=on_start, on_progress=on_progress)

    await _recall(journal, state)
    await keep_link(dial, PUSH_PATH, converse, state, backoff=backoff, chance=chance, now_us=now_us)


async def _recall(journal: Journal, state: LinkState) -> None:
    """Begin with what the cloud had when an earlier process looked last, so that the lag is true before the first link.

    It is no ack: nothing is trimmed by it (``acked_is_known``).
    """
    with suppress(BackhaulError):  # the journal's watch reports it
        cursor = await journal.log.load_cursor(CURSOR)
        if cursor is not None and cursor.journal_id == journal.log.history.journal_id:
            head = journal.log.history.head_position
            state.acked_position = state.sent_position = min(cursor.position, head)
