"""Run seeds: ``python -m tests.simulation.up --seeds 100``; one again: ``--seed 4711``. Exit status 1 when a seed failed."""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections import Counter

import structlog

from tests.simulation.up.mutations import MUTATIONS
from tests.simulation.up.run import simulate_up


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.up", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--seed", type=int, default=None, help="the first seed; chance decides without it")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), default="", help="remove this protection")
    answer = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    first = random.SystemRandom().randrange(10**9) if answer.seed is None else answer.seed
    failed, totals, by = [], Counter[str](), Counter[str]()
    for seed in range(first, first + answer.seeds):
        outcome = simulate_up(seed, answer.mutation)
        for name in ("events", "trimmed", "stated", "cuts", "deaths", "dropped", "stood_in"):
            totals[name] += getattr(outcome, name)
        if outcome.complaints:
            failed.append(seed)
            by[outcome.complaints[0][0]] += 1
            if not answer.mutation:
                print(outcome.told(), flush=True)
    print(f"{answer.seeds} seeds from {first}: {len(failed)} failed {failed[:20]} {dict(by)}; {dict(totals)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
