"""A node sends edges away when it has far more than its share for a while, slowly, and not below its share."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from common.core.members.edge_balance import PATIENCE_S, EdgeBalance
from common.core.members.member import Member, MemberReport


def members(*edges: int) -> list[Member]:
    return [
        Member(MemberReport(f"n{number}/1", f"n{number}", 0, edges=count), 3.0, 0.1, 1)
        for number, count in enumerate(edges)
    ]


def drained_over(seconds: int, *edges: int, own_is_drained: bool = False) -> list[int]:
    """What the first node sends away each second, while the others get it."""
    balance, own, others = EdgeBalance(), edges[0], list(edges[1:])
    sent = []
    for second in range(seconds):
        seen = members(own, *others)
        if own_is_drained:
            seen[0] = replace(seen[0], is_drained=True)
        sent.append(balance.due("n0/1", own, seen, float(second)))
        own -= sent[-1]
        others[second % len(others)] += sent[-1]
    return sent


def test_the_surplus_goes_slowly_after_a_while_and_no_more_than_it() -> None:
    sent = drained_over(200, 200, 100, 0)
    assert sum(sent[: int(PATIENCE_S)]) == 0
    assert max(sent) <= 4
    assert sum(sent) == 100


def test_nodes_near_the_mean_send_nobody_away() -> None:
    assert sum(drained_over(200, 120, 100, 80)) == 0
    assert EdgeBalance().due("n0/1", 300, members(300), 0.0) == 0


def test_many_edges_leave_at_a_bounded_rate() -> None:
    assert max(drained_over(100, 20_000, 0)) == 50


def test_a_drained_node_sends_all_of_them_away_at_once() -> None:
    sent = drained_over(120, 90, 100, own_is_drained=True)
    assert sum(sent) == 90
    assert sent[1] >= 1


def test_a_weight_is_a_larger_share() -> None:
    seen = members(200, 100)
    seen[0] = replace(seen[0], report=replace(seen[0].report, weight=2))
    balance = EdgeBalance()
    assert sum(balance.due("n0/1", 200, seen, float(second)) for second in range(100)) == 0


@pytest.mark.parametrize("edges", [(160, 140, 0), (134, 166, 0), (300, 0, 0), (3_000, 2_500, 0), (40, 40, 0, 0)])
@pytest.mark.parametrize("seed", range(5))
def test_no_node_stays_far_below_its_share_after_a_restart(edges: tuple[int, ...], seed: int) -> None:
    """Those that are sent away dial any of the others, two seconds later: some of them one that has enough."""
    chance, own = random.Random(seed), list(edges)
    balances = [EdgeBalance() for _ in own]
    arriving: dict[int, list[int]] = {}
    for second in range(110):
        for node in arriving.pop(second, ()):
            own[node] += 1
        seen = members(*own)
        for node, balance in enumerate(balances):
            count = balance.due(f"n{node}/1", own[node], seen, float(second))
            own[node] -= count
            others = [other for other in range(len(own)) if other != node]
            arriving.setdefault(second + 2, []).extend(chance.choices(others, k=count))
    assert min(own) >= 0.7 * sum(edges) / len(edges), own


def test_a_node_gives_what_another_lacks_though_it_is_not_far_above() -> None:
    assert sum(drained_over(60, 115, 115, 70)) == 15
