"""Events that a projection leaves out, by its policy or an operator's word: stated, counted, never twice, on every node."""

from __future__ import annotations

import pytest
import structlog

from common.core.errors import BackhaulError
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.projection.handlers import Event, Handler, OnFailure
from common.projection.progress import ProjectionSettings, ProjectionState
from common.projection.skips import skip
from tests.support.builders import append, local
from tests.support.projections import logged, running, until

QUICK = ProjectionSettings(page_max_events=20, backoff_min_s=0.01, backoff_max_s=0.02, standby_poll_s=0.02)
TABLES = [["CREATE TABLE kept (position BIGINT)"]]


def write(event: Event) -> Statement:
    if event.entity_id == "bad":
        raise ValueError
    return Statement("INSERT INTO kept VALUES ($1)", [(event.envelope.position,)])


def handler(policy: OnFailure) -> Handler:
    return Handler("p", TABLES, each=write, on_failure=policy, attempts=3)


async def kept(journal: Journal) -> list[int]:
    return sorted(position for (position,) in await journal.projections.query("SELECT position FROM kept"))


async def test_the_policy_leaves_out_what_failed_so_often_and_nothing_else(journal: Journal) -> None:
    await append(journal, local("A|1", "A|bad", "A|2", "A|bad", "A|3"))
    with structlog.testing.capture_logs() as lines:
        async with running(journal, handler(OnFailure.SKIP), settings=QUICK) as [progress]:
            await until(lambda: progress.position == 5)
    assert await kept(journal) == [1, 3, 5]
    assert progress.skipped == 2
    said = logged(lines, "projection.skipped")
    assert [(line["position"], line["persistence_id"], line["code"]) for line in said] == [
        (2, "A|bad", "projection.handler_failed"),
        (4, "A|bad", "projection.handler_failed"),
    ]
    failed = [line["position"] for line in logged(lines, "projection.failed") if "persistence_id" in line["details"]]
    assert failed.count(1) == failed.count(3) == 3
    # What was left out stays so after a restart.
    await append(journal, local("A|4"))
    async with running(journal, handler(OnFailure.SKIP), settings=QUICK, owner="node-b") as [progress]:
        await until(lambda: progress.position == 6)
    assert (await kept(journal), progress.skipped) == ([1, 3, 5, 6], 0)


@pytest.mark.parametrize("policy", [OnFailure.RETRY, OnFailure.STOP, OnFailure.PARK])
async def test_an_operator_skips_what_stands_in_the_way(journal: Journal, policy: OnFailure) -> None:
    await append(journal, local("A|1", "A|bad", "A|2"))
    with structlog.testing.capture_logs() as lines:
        async with running(journal, handler(OnFailure.RETRY), settings=QUICK) as [progress]:
            await until(lambda: progress.failures >= 2)
            assert progress.state is ProjectionState.FAILING
            assert "ValueError" in progress.error
            assert progress.position == 1
        event = await skip(journal, "p", 2)
        assert event.persistence_id == ["A|bad"]
        # Another node takes the range over and knows of it.
        async with running(journal, handler(policy), settings=QUICK, owner="node-b") as [progress]:
            await until(lambda: progress.position == 3)
            await until(lambda: progress.state is ProjectionState.LIVE)
            assert (progress.skipped, progress.error) == (1, "")
    assert await kept(journal) == [1, 3]
    [said] = logged(lines, "projection.skipped")
    assert (said["position"], said["code"]) == (2, "projection.skipped_by_operator")
    assert await journal.projections.query("SELECT count(*) FROM projection_skip") == [(0,)]


async def test_a_running_range_takes_the_decision_at_once(journal: Journal) -> None:
    await append(journal, local("A|1", "A|bad", "A|2"))
    async with running(journal, handler(OnFailure.RETRY), settings=QUICK) as [progress]:
        await until(lambda: progress.failures >= 2)
        await skip(journal, "p", 2)
        await until(lambda: progress.position == 3)
    assert await kept(journal) == [1, 3]


async def test_an_effect_elsewhere_is_skipped_too(journal: Journal) -> None:
    seen: list[str] = []

    async def effect(event: Event) -> None:
        if event.entity_id == "bad":
            raise ValueError
        seen.append(event.entity_id)

    await append(journal, local("A|1", "A|bad", "A|2"))
    one = Handler("p", effect=effect, on_failure=OnFailure.SKIP, attempts=2)
    async with running(journal, one, settings=QUICK) as [progress]:
        await until(lambda: progress.position == 3)
    assert (seen, progress.skipped) == (["1", "2"], 1)


@pytest.mark.parametrize(
    ("name", "position", "code"),
    [("p", 1, "projection.passed"), ("nobody", 2, "projection.passed"), ("p", 9, "projection.no_such_event")],
)
async def test_only_what_lies_ahead_can_be_skipped(journal: Journal, name: str, position: int, code: str) -> None:
    await append(journal, local("A|1", "A|2"))
    async with running(journal, handler(OnFailure.RETRY), settings=QUICK) as [progress]:
        await until(lambda: progress.position == 2)
    with pytest.raises(BackhaulError) as refused:
        await skip(journal, name, position)
    assert refused.value.code == code
