"""`python -m examples.drones`: fly the sample. Exit status 0 only if what the stores hold is what must be there.

1: something did not hold, or it could not be played; 2: wrong arguments; 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import trio
from rich.console import Console

from examples.demo.failure import DemoFailure, first_failure
from examples.drones.simulation.play import Outcome, play
from examples.drones.simulation.view import MapView, PlainView, SilentView, View, draw

_PLAIN_WIDTH = 120
_FAILED = 1
_INTERRUPTED = 128 + signal.SIGINT
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(words: Sequence[str] | None = None) -> int:
    """Play it; returns the exit status."""
    args = _arguments(words)
    console = Console(stderr=args.json, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    place = Path(tempfile.mkdtemp(prefix="backhaul-drones-"))
    status = _FAILED
    try:
        with ExitStack() as stack:
            outcome = trio.run(_played, place, _view(args, console, stack), args)
        if outcome is None:
            print("Interrupted; every process is ended.", file=sys.stderr)
            status = _INTERRUPTED
        else:
            status = 0 if outcome.holds else _FAILED
            _tell(args, console, outcome)
    except DemoFailure as failure:
        print(f"It could not be played: {failure}", file=sys.stderr)
    finally:
        if status == _FAILED or args.keep:
            print(f"Logs of every process: {place / 'logs'}\nJournals: {place}", file=sys.stderr)
        else:
            shutil.rmtree(place, ignore_errors=True)
    return status


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.drones",
        description="Drones over two sites, a cloud that knows where they are, an outage, and a proof from the stores.",
    )
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object and nothing else")
    parser.add_argument("--pace", type=float, default=12.0, metavar="S", help="seconds of flight (default: 12)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes what is left to chance (default: 0)")
    parser.add_argument("--keep", action="store_true", help="leave logs and journals, and say where")
    args = parser.parse_args(words)
    if args.pace <= 0:
        parser.error("--pace must be above 0")
    return args


def _view(args: argparse.Namespace, console: Console, stack: ExitStack) -> View:
    if args.json:
        return SilentView()
    return stack.enter_context(MapView(console)) if console.is_terminal else PlainView()


async def _played(place: Path, view: View, args: argparse.Namespace) -> Outcome | None:
    """Play until the end, or a signal (None); by then every process is ended. Raises DemoFailure."""
    outcome = None
    with trio.open_signal_receiver(*_ENDING_SIGNALS) as signals:
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                outcome = await play(place, view, pace_s=args.pace, seed=args.seed)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = first_failure(group)
            if failure is None:
                raise
            raise failure from group
    return outcome


def _tell(args: argparse.Namespace, console: Console, outcome: Outcome) -> None:
    if args.json:
        answer = {
            "holds": outcome.holds,
            "problems": outcome.problems,
            "sites": [asdict(line) for line in outcome.facts.sites],
            "outage": asdict(outcome.outage),
            "seconds": round(outcome.seconds, 1),
        }
        print(json.dumps(answer, indent=2))
        return
    draw(console, outcome.facts, outcome.seconds)
    for problem in outcome.problems[len(outcome.facts.problems) :]:
        console.print(f"[red]✗ {problem}[/]", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
