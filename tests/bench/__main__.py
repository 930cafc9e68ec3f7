"""`make bench`: speed and memory of the real services, each in a process of its own, as tables.

    python -m tests.bench [name …] [--quick]

A name stands for all that begin with it and a dash, too: ``nodes``.
A missed target is marked, not an error: machines differ. A store that does not sync its commits ends the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable

import trio

from common import border
from common.runtime.logs.fields import leaf_errors
from examples.support.postgres import PostgresUnavailable
from examples.support.processes import ProcessFailure
from tests.bench import failover, moves, nodes, policy, projections, rolling, standing_by, two_writers
from tests.bench.down import behind, entering, fan_out, filters, firehose, idle, stopped
from tests.bench.down import latency as down_latency
from tests.bench.entity import entities
from tests.bench.peers import compare as peers
from tests.bench.place import NotDurable, Place, describe, open_place
from tests.bench.processes import BenchFailure
from tests.bench.table import Table
from tests.bench.up import backlog, drain, edges, from_snapshots, intake, latency

BENCHMARKS: dict[str, Callable[[Place], Awaitable[list[Table]]]] = {
    "drain": drain.run,
    "edges": edges.run,
    "intake": intake.run,
    "latency": latency.run,
    "backlog": backlog.run,
    "snapshots-up": from_snapshots.run,
    "entities": entities.run,
    "filters": filters.run,
    "firehose": firehose.run,
    "projections": projections.run,
    "nodes-reading": nodes.run,
    "nodes-writing": two_writers.run,
    "nodes-moves": moves.run,
    "nodes-idle": standing_by.run,
    "nodes-rolling": rolling.run,
    "nodes-failover": failover.run,
    "fan-out": fan_out.run,
    "behind": behind.run,
    "entering": entering.run,
    "idle": idle.run,
    "stopped": stopped.run,
    "down-latency": down_latency.run,
    "policy": policy.run,
    "peers": peers.run,
}


async def _run(names: list[str], place: Place) -> int:
    missed = 0
    async with border.open_loop():
        for name in names:
            for table in await BENCHMARKS[name](place):
                print(table, flush=True)
                missed += len(table.missed)
    print(f"\n{missed} target(s) missed" if missed else "\nevery target met")
    return 0


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"one of {', '.join(BENCHMARKS)}; all if none is given"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that everything works, not how fast")
    result = parser.parse_args()
    names = []
    for name in result.names:
        meant = [each for each in BENCHMARKS if each == name or each.startswith(f"{name}-")]
        if not meant:
            parser.error(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        names += meant
    status = 1
    try:
        with open_place(result.quick) as place:
            print("\n".join(describe(place)), flush=True)
            status = trio.run(_run, names or list(BENCHMARKS), place)
    except* (NotDurable, PostgresUnavailable, ProcessFailure, BenchFailure) as failures:
        for failure in leaf_errors(failures):
            print(f"bench: {failure}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
