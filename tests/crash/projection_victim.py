"""A process that is killed: runs one handler that is not idempotent in three forms over a log, until all have seen it.

    python -m tests.crash.projection_victim URL EVENTS

Exit status 0 when every form has reached the end, 75 when the database did not answer in time. BACKHAUL_FAIL_POINT says
where it dies instead.
"""

from __future__ import annotations

import random
import sys
import uuid

import structlog
import trio

from common import border
from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.journal.stores.journal import Journal
from common.projection.progress import ProjectionSettings
from common.projection.projection import run_projections
from common.runtime.environment import utc_now_us
from common.runtime.logs.fields import leaf_errors
from common.runtime.stream_serving import open_firehose
from tests.crash.projections import FORMS, TEMPORARY_FAILURE, open_log
from tests.support.ledgers import Ledger, decode

ENTITIES = 9


async def main(url: str, events: int) -> None:
    """Fill the log and follow it."""
    async with border.open_loop(), open_log(url, utc_now_us, lambda: uuid.uuid4().hex) as journal:
        head = (await journal.log.stats()).head_position
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_append, journal, events - head)
            progress = await nursery.start(_follow, journal)
            while min(one.position for one in progress) < events:  # noqa: ASYNC110  nothing tells when all are there
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()


async def _append(journal: Journal, missing: int) -> None:
    chance = random.Random(missing)
    while missing > 0:
        n = min(missing, chance.randrange(1, 12))
        ids = [f"Sensor|{chance.randrange(ENTITIES)}" for _ in range(n)]
        payloads = [chance.randbytes(chance.randrange(20)) for _ in range(n)]
        await journal.log.append_group([LocalAppend(new_events(ids, ["Measured"] * n, payloads))])
        missing -= n


async def _follow(journal: Journal, task_status: trio.TaskStatus[object]) -> None:
    # The same owner in each life: it is dead for sure when the next one begins.
    async with open_firehose(journal, poll_s=0.05) as firehose:
        await run_projections(
            journal,
            firehose,
            [Ledger(form, group_events=5).handler for form in FORMS],
            owner="victim",
            settings=ProjectionSettings(ranges=2, page_max_events=7, poll_s=0.05),
            now_us=utc_now_us,
            random=random.Random(1),
            decode=decode,
            task_status=task_status,
        )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        trio.run(main, sys.argv[1], int(sys.argv[2]))
    except* BackhaulError as group:
        if not all(isinstance(error, BackhaulError) and error.retry_after_s for error in leaf_errors(group)):
            raise
        sys.exit(TEMPORARY_FAILURE)
