"""The edge's one link to the cloud: its journal is pushed for as long as the service runs."""

from __future__ import annotations

import random
from collections.abc import Callable

from common.core.flow.backoff import Backoff
from common.core.flow.messages import Drain
from common.core.push.messages import PUSH_PATH
from common.journal.stores.journal import Journal
from common.transport.link.keep import Dial, keep_link
from common.transport.push.producer import LinkState, PushSettings, push
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

    await keep_link(dial, PUSH_PATH, converse, state, backoff=backoff, chance=chance, now_us=now_us)
