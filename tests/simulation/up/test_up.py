"""Fixed seeds of entities that come and go upwards, and that each mutation is seen by its checker."""

from __future__ import annotations

from functools import cache

import pytest

from tests.simulation.up.mutations import MUTATIONS
from tests.simulation.up.run import LOSING_SEEDS, UpOutcome, simulate_up

SEEDS = (*range(1, 31), *range(LOSING_SEEDS, LOSING_SEEDS + 20))


@cache
def unharmed(seed: int) -> UpOutcome:
    """The run of a seed with every protection in place."""
    return simulate_up(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_entities_that_come_and_go_bring_their_past(seed: int) -> None:
    outcome = unharmed(seed)
    assert not outcome.complaints, outcome.told()


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_removed_protection_is_missed(name: str) -> None:
    mutation = MUTATIONS[name]
    for seed in mutation.seeds:
        if mutation.checker in [checker for checker, _ in simulate_up(seed, name).complaints]:
            assert not unharmed(seed).complaints, unharmed(seed).told()
            return
    pytest.fail(f"{mutation.checker} did not complain")


def test_the_seeds_have_it_all() -> None:
    runs = [unharmed(seed) for seed in SEEDS]
    for name in ("events", "trimmed", "stated", "cuts", "deaths", "dropped", "stood_in"):
        assert sum(getattr(run, name) for run in runs) > len(SEEDS) // 2, name
