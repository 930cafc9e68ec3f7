"""A brief campaign on the way down, on each storage of the cloud. `make crash N=…` is the long one."""

from __future__ import annotations

import shutil

import pytest

from tests.crash.campaign import Plan
from tests.crash.down.campaign import run_down_campaign
from tests.crash.flow_outcome import flow_summary
from tests.crash.stage import make_directory


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_kills_on_the_way_down_lose_nothing_and_double_nothing(storage: str) -> None:
    directory = make_directory()
    outcome = await run_down_campaign(
        Plan(storage, nodes=1, rounds=1, kills=1, seed=5, is_brief=True), directory, print
    )
    print("\n".join(flow_summary([outcome])))
    assert outcome.problems == [], f"stores and logs are in {directory}"
    assert outcome.holds
    shutil.rmtree(directory)
