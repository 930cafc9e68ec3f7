"""`python -m tests.crash`: run the campaigns and print what held; exit status 0 only if everything did.

    python -m tests.crash --kills 20 [--storage sqlite|postgres|both] [--nodes N] [--rounds N] [--seed K] [--keep]
    python -m tests.crash --only nodes --node-kills 200

The random part follows from the seed as far as timing allows. Stores and logs are kept, and named, when something
does not hold.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from tests.crash import projections
from tests.crash.campaign import Outcome, Plan, run_campaign, summary
from tests.crash.down.campaign import run_down_campaign
from tests.crash.flow_outcome import FlowOutcome, flow_summary
from tests.crash.nodes import run_nodes_campaign
from tests.crash.pasts.campaign import run_pasts_campaign
from tests.crash.stage import make_directory
from tests.support.postgres import postgres_for_tests

CAMPAIGNS = ("services", "pasts", "projections", "nodes")


def main() -> int:
    """Run the campaigns that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=20, help="kills at random moments, for each storage")
    parser.add_argument("--projection-kills", type=int, default=200, help="kills of a handler, on each database")
    parser.add_argument("--node-kills", type=int, default=20, help="kills of nodes while ranges move between three")
    parser.add_argument("--rounds", type=int, default=1, help="rounds through all fail points before them")
    parser.add_argument("--storage", choices=("sqlite", "postgres", "both"), default="both", help="of the cloud")
    parser.add_argument("--nodes", type=int, default=2, help="cloud nodes on PostgreSQL during the random kills")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what the random kills follow from")
    parser.add_argument(
        "--only", choices=CAMPAIGNS, action="append", help="these campaigns (again and again); else all"
    )
    parser.add_argument("--keep", action="store_true", help="keep stores and logs also when everything holds")
    wanted = parser.parse_args()
    chosen = wanted.only or CAMPAIGNS
    directory = make_directory()
    print(f"seed {wanted.seed}; stores and logs in {directory}")
    holds = all([
        "services" not in chosen or _kill_services(wanted, directory),
        "pasts" not in chosen or _kill_in_pasts(wanted, directory),
        "projections" not in chosen or _kill_projections(wanted.projection_kills, wanted.seed, directory),
        "nodes" not in chosen or _kill_nodes(wanted.node_kills, wanted.seed, directory),
    ])  # fmt: skip
    if holds and not wanted.keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"\nstores and logs are kept in {directory}; the seed was {wanted.seed}")
    return 0 if holds else 1


def _storages(wanted: argparse.Namespace) -> Sequence[str]:
    return ("sqlite", "postgres") if wanted.storage == "both" else (wanted.storage,)


def _kill_services(wanted: argparse.Namespace, directory: Path) -> bool:
    outcomes: list[Outcome] = []
    down_outcomes: list[FlowOutcome] = []
    for storage in _storages(wanted):
        nodes = wanted.nodes if storage == "postgres" else 1
        plan = Plan(storage, nodes, wanted.rounds, wanted.kills, wanted.seed)
        print(f"\n{storage}", flush=True)
        place = directory / storage
        place.mkdir(mode=0o711)
        outcomes.append(trio.run(run_campaign, plan, place, partial(print, flush=True)))
        _tell_end(outcomes[-1])
        print(f"\n{storage}, the way down", flush=True)
        place = directory / f"{storage}-down"
        place.mkdir(mode=0o711)
        down_outcomes.append(trio.run(run_down_campaign, plan, place, partial(print, flush=True)))
        _tell_end(down_outcomes[-1])
    print("\n" + "\n".join(summary(outcomes)))
    print("\nthe way down\n" + "\n".join(flow_summary(down_outcomes)))
    return all(one.holds for one in outcomes) and all(one.holds for one in down_outcomes)


def _kill_in_pasts(wanted: argparse.Namespace, directory: Path) -> bool:
    outcomes: list[FlowOutcome] = []
    for storage in _storages(wanted):
        print(f"\n{storage}, pasts on the way up", flush=True)
        place = directory / f"{storage}-pasts"
        place.mkdir(mode=0o711)
        plan = Plan(storage, 1, max(1, wanted.rounds), 0, wanted.seed)
        outcomes.append(trio.run(run_pasts_campaign, plan, place, partial(print, flush=True)))
        _tell_end(outcomes[-1])
    print("\npasts on the way up\n" + "\n".join(flow_summary(outcomes)))
    return all(one.holds for one in outcomes)


def _kill_projections(kills: int, seed: int, directory: Path) -> bool:
    print("\nprojections: a handler that is not idempotent, killed at fail points", flush=True)
    with postgres_for_tests() as databases, databases.fresh() as url:
        wrong = projections.main(directory, url, kills, seed, partial(print, flush=True))
    print("\n".join(f"  DOES NOT HOLD: {problem}" for problem in wrong) or "  the tables are a fold of the log")
    return not wrong


def _kill_nodes(kills: int, seed: int, directory: Path) -> bool:
    print("\nnodes: killed while ranges move between three on one PostgreSQL", flush=True)
    with postgres_for_tests() as databases, databases.fresh() as url:
        outcome = trio.run(run_nodes_campaign, url, kills, seed, partial(print, flush=True), directory)
    hit = ", ".join(f"{point} {count}" for point, count in sorted(outcome.points.items()))
    print(f"  {outcome.kills} kills, at fail points: {hit or 'none'}; {outcome.moves} moves, {outcome.events} events")
    print("\n".join(f"  DOES NOT HOLD: {one}" for one in outcome.problems) or "  the tally is a fold of the log")
    return outcome.holds


def _tell_end(outcome: Outcome | FlowOutcome) -> None:
    hit = ", ".join(f"{side} {point} {count}" for (side, point), count in sorted(outcome.points.items()))
    print(f"  fail points hit: {hit or 'none'}")
    alarms = ", ".join(f"{name} {count}" for name, count in sorted(outcome.alarms.items()))
    print(f"  errors in the services' logs: {alarms or 'none'}")
    print(f"  took {outcome.took_s:.0f} s")
    for problem in outcome.problems:
        print(f"  DOES NOT HOLD: {problem}")


if __name__ == "__main__":
    raise SystemExit(main())
