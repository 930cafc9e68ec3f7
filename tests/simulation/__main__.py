"""Run seeds: ``python -m tests.simulation --seeds 100``; one again: ``--seeds 1 --seed 4711 -v``; ``--listed``: the 500 listed.

Exit status 1 when a seed failed; the plan, the last lines and the complaint of each are printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.simulation.mutations import MUTATIONS
from tests.simulation.plan import listed_seeds
from tests.simulation.run import simulate


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--seed", type=int, default=None, help="the first seed; chance decides without it")
    parser.add_argument("--listed", action="store_true", help="run the listed seeds (about a quarter of an hour)")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), default="", help="remove this protection")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every line of what happened")
    answer = parser.parse_args()
    first = random.SystemRandom().randrange(10**9) if answer.seed is None else answer.seed
    seeds = listed_seeds() if answer.listed else range(first, first + answer.seeds)
    began_s, failed, events, lost = time.monotonic(), [], 0, 0
    for seed in seeds:
        outcome = simulate(seed, answer.mutation)
        events, lost = events + outcome.events, lost + outcome.lost
        if outcome.complaints:
            failed.append(seed)
            print(outcome.story(10**6 if answer.verbose else 40), flush=True)
        elif answer.verbose:
            print(outcome.story(10**6), flush=True)
            print(f"seed {seed}: converged after {outcome.converged_s:.1f} s, digest {outcome.digest}", flush=True)
    took_s = time.monotonic() - began_s
    print(
        f"{len(seeds)} seeds from {seeds[0]}: {len(failed)} failed {failed[:20]}; {events} events, {lost} lost with a disk;"
        f" {took_s:.1f} s, {60 * len(seeds) / took_s:.0f} seeds a minute"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
