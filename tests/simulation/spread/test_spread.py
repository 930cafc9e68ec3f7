"""Fixed seeds of nodes that come and go, that a seed repeats exactly, and that each mutation is seen by its checker."""

from __future__ import annotations

from functools import cache

import pytest

from tests.simulation.spread.mutations import MUTATIONS
from tests.simulation.spread.run import SpreadOutcome, simulate_spread

SEEDS = (*range(1, 9), 312)


@cache
def unharmed(seed: int) -> SpreadOutcome:
    """The run of a seed with every protection in place."""
    return simulate_spread(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_that_come_and_go_keep_every_promise(seed: int) -> None:
    outcome = unharmed(seed)
    assert not outcome.complaints, outcome.told()


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_removed_protection_is_missed(name: str) -> None:
    mutation = MUTATIONS[name]
    noticed = []
    for seed in mutation.seeds:
        assert not unharmed(seed).complaints, unharmed(seed).told()
        noticed += [checker for checker, _ in simulate_spread(seed, name).complaints[:1]]
    assert mutation.checker in noticed


def test_a_seed_repeats_to_the_last_commit() -> None:
    assert unharmed(3).digest == simulate_spread(3).digest != unharmed(4).digest
