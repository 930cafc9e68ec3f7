"""A brief campaign on each storage: every fail point once, then a few random kills. `make crash N=…` is the long one."""

from __future__ import annotations

import shutil

import pytest

from tests.crash.campaign import Plan, run_campaign, summary
from tests.crash.stage import make_directory


@pytest.mark.parametrize(("storage", "kills"), [("sqlite", 1), ("postgres", 2)])
async def test_kills_lose_nothing_and_double_nothing(storage: str, kills: int) -> None:
    directory = make_directory()
    plan = Plan(storage, nodes=1, rounds=1, kills=kills, seed=11, is_brief=True)
    outcome = await run_campaign(plan, directory, print)
    print("\n".join(summary([outcome])))
    assert outcome.problems == [], f"stores and logs are in {directory}"
    assert outcome.holds
    shutil.rmtree(directory)
