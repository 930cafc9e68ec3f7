"""One handler over the local journal and over a stream, as a service serves it: equal tables in the end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from trio.testing import MockClock

from common.core.errors import ConfigurationError
from common.journal.interface import Journal
from common.projection.calls import call_inline
from common.projection.handlers import Handler
from common.projection.work import Work
from common.runtime.handler_sink import HandlerSink
from common.watchdog import Watchdog
from tests.support.ledgers import Ledger, decode, fold
from tests.support.projections import Commits, log_of, running
from tests.support.subscriptions import SubscriptionWorld, publish, wait_for_position

NAMES = [f"Order|{number % 7}" for number in range(200)]


class LateJournal:
    """Stands for the consumer's journal, which is open only once the sink has been made."""

    journal: Journal

    def __getattr__(self, name: str) -> object:
        return getattr(self.journal, name)


@pytest.mark.parametrize("form", ["statements", "each", "effect"])
async def test_a_handler_makes_the_same_table_wherever_its_events_come_from(
    autojump_clock: MockClock, form: str
) -> None:
    world = SubscriptionWorld()
    local, remote = Ledger(form), Ledger(form)
    async with world.source() as (source, _):
        await publish(source, NAMES)
        commits = Commits()
        async with running(source, local.handler, commits=commits, decode=decode):
            await commits.reach(200)
            late = LateJournal()
            there: Mapping[str, tuple[int, int]] = {}
            work = Work(remote.handler, decode, call_inline, Watchdog())
            sink = HandlerSink(work, late)  # type: ignore[arg-type]
            for lap in range(3):  # the consumer is restarted, and goes on where it was
                async with world.consumer(sink=sink) as (consumer, state):
                    late.journal = consumer
                    await publish(source, NAMES[:50])
                    await wait_for_position(state, 250 + 50 * lap)
                    there = await remote.accounts(consumer)
            await commits.reach(350)
        assert await local.accounts(source) == fold(await log_of(source))
        assert there == fold(await log_of(source))


def test_what_cannot_run_over_a_stream_is_refused() -> None:
    def inside(_tables: object, _event: object) -> None:
        pass

    work = Work(Handler("inside", [], inside=inside), decode, call_inline, Watchdog())
    with pytest.raises(ConfigurationError) as refused:
        HandlerSink(work, LateJournal())  # type: ignore[arg-type]
    assert refused.value.code == "projection.not_remote"
