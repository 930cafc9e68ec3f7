"""A brief campaign on each storage: every fail point once, then a clock step and a failover. `make crash N=…` is the long one."""

from __future__ import annotations

import shutil

import pytest

from tests.crash.campaign import Plan, run_campaign, summary
from tests.crash.killing import CLOCK, FAILOVER
from tests.crash.stage import make_directory


@pytest.mark.parametrize(("storage", "blows"), [("sqlite", (CLOCK, "edge")), ("postgres", (FAILOVER, CLOCK))])
async def test_kills_failovers_and_clock_steps_lose_nothing_and_double_nothing(
    storage: str, blows: tuple[str, ...]
) -> None:
    directory = make_directory()
    plan = Plan(storage, nodes=1, rounds=1, kills=len(blows), seed=11, is_brief=True, begin_with=blows)
    outcome = await run_campaign(plan, directory, print)
    print("\n".join(summary([outcome])))
    assert outcome.problems == [], f"stores and logs are in {directory}"
    assert outcome.holds
    shutil.rmtree(directory)
