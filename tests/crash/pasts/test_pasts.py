"""A brief campaign of pasts, on each storage of the cloud, and its proof. `make crash N=…` has the long one."""

from __future__ import annotations

import shutil

import orjson
import pytest

from tests.crash.campaign import Plan
from tests.crash.flow_outcome import flow_summary
from tests.crash.orders import AWAY, HOME, Order
from tests.crash.pasts.campaign import examine_pasts, run_pasts_campaign
from tests.crash.proof import Row
from tests.crash.stage import make_directory


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_an_edge_and_a_cloud_that_die_in_a_past_bring_it_whole(storage: str) -> None:
    directory = make_directory()
    outcome = await run_pasts_campaign(
        Plan(storage, nodes=1, rounds=1, kills=0, seed=5, is_brief=True), directory, print
    )
    print("\n".join(flow_summary([outcome])))
    assert outcome.problems == [], f"stores and logs are in {directory}"
    assert outcome.holds
    shutil.rmtree(directory)


def _order(seq_nr: int, topic: str, before: str = "") -> Order:
    return Order(seq_nr, "o1", seq_nr, topic, before, {"n": seq_nr})


def _row(seq_nr: int, number: int = 0) -> Row:
    return Row(seq_nr, seq_nr, "Order|e1/o1", number or seq_nr, seq_nr, orjson.dumps({"n": seq_nr}))


def test_the_proof_misses_what_was_not_brought_and_sees_what_was_not_asked_for() -> None:
    orders = [_order(1, AWAY), _order(2, AWAY), _order(3, HOME), _order(4, AWAY, HOME), _order(5, AWAY)]
    whole = [_row(number) for number in (1, 2, 3, 4)]
    assert examine_pasts(orders, whole) == []
    assert examine_pasts(orders, whole[2:])
    assert examine_pasts(orders, [*whole, whole[3]])
    assert examine_pasts(orders, [whole[1], whole[0], *whole[2:]])
    assert examine_pasts(orders, [*whole, _row(5)])
    assert examine_pasts(orders, [*whole[:3], _row(4, number=5)])
