"""`python -m examples.demo`: the command line of the demo. Exit status 0 only if everything held.

1: something did not hold, or the demo could not be played; 2: wrong arguments; 128 + the signal's number: interrupted.
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
from pathlib import Path

import trio
from rich.console import Console

from examples.demo.closing import draw
from examples.demo.failure import DemoFailure, first_failure
from examples.demo.outcome import Outcome
from examples.demo.play import Plan, play
from examples.demo.series import EXCERPT
from examples.demo.show import LiveShow, PlainShow, Show, SilentShow

_PLAIN_WIDTH = 110
_FAILED = 1
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(words: Sequence[str] | None = None) -> int:
    """Play the demo; returns the exit status."""
    args = _arguments(words)
    console = Console(stderr=args.json, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    place = Path(tempfile.mkdtemp(prefix="backhaul-demo-"))
    status = _FAILED
    try:
        with ExitStack() as stack:
            show = _show(args, console, stack)
            plan = Plan(
                data=args.data,
                place=place,
                postgres_url=_postgres(stack) if args.journal == "postgres" else None,
                nodes=args.nodes,
                poll_only=args.poll_only,
                pace_s=args.pace,
                seed=args.seed,
            )
            outcome = trio.run(_play, plan, show)
        status = 0 if outcome.holds else _FAILED
        if args.json:
            print(json.dumps(outcome.as_json(), indent=2))
        else:
            draw(console, outcome)
    except DemoFailure as failure:
        print(f"The demo could not be played: {failure}", file=sys.stderr)
    except (Interrupted, KeyboardInterrupt) as interrupted:
        number = interrupted.number if isinstance(interrupted, Interrupted) else signal.SIGINT
        print(f"Interrupted by {signal.Signals(number).name}; every process is ended.", file=sys.stderr)
        status = 128 + number
    finally:
        if (status == _FAILED or args.keep) and any(place.iterdir()):
            told_where(place)
        else:
            shutil.rmtree(place, ignore_errors=True)
    return status


def told_where(place: Path) -> None:
    """Where to look when something failed, or was to be kept."""
    print(f"Logs of every process: {place / 'logs'}\nJournals: {place}", file=sys.stderr)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="One cloud, three edges, real processes and sockets, real faults, and a proof read from the stores.",
    )
    parser.add_argument(
        "--data", type=Path, default=EXCERPT, metavar="DIR", help="folder of `timestamp,value` CSV files to replay"
    )
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object and nothing else")
    parser.add_argument("--poll-only", action="store_true", help="switch every prompt off: polling alone must do")
    parser.add_argument("--journal", choices=("sqlite", "postgres"), help="the cloud's (default: sqlite)")
    parser.add_argument(
        "--nodes",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="cloud nodes over one PostgreSQL; of three one is killed",
    )
    parser.add_argument("--pace", type=float, default=12.0, metavar="S", help="seconds the replay takes (default: 12)")
    parser.add_argument("--keep", action="store_true", help="leave logs and journals, and say where")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes what is left to chance (default: 0)")
    args = parser.parse_args(words)
    if args.nodes > 1 and args.journal == "sqlite":
        parser.error("several nodes need --journal postgres: a SQLite file belongs to one process")
    if args.pace <= 0:
        parser.error("--pace must be above 0")
    args.journal = args.journal or ("postgres" if args.nodes > 1 else "sqlite")
    return args


def _show(args: argparse.Namespace, console: Console, stack: ExitStack) -> Show:
    if args.json:
        return SilentShow()
    if not console.is_terminal:
        return PlainShow()
    return stack.enter_context(LiveShow(console))


def _postgres(stack: ExitStack) -> str:
    """The URL of an empty database on a server that ends with the stack. Raises DemoFailure."""
    # Only here: the server's package is not needed otherwise.
    from examples.support.postgres import PostgresUnavailable, postgres_server  # noqa: PLC0415

    try:
        return stack.enter_context(postgres_server()).create()
    except PostgresUnavailable as error:
        raise DemoFailure(str(error)) from error


async def _play(plan: Plan, show: Show) -> Outcome:
    """Play until the end or a signal; by then every process is ended. Raises DemoFailure, Interrupted."""
    outcome: Outcome | None = None
    interrupted = 0
    with trio.open_signal_receiver(*_ENDING_SIGNALS) as signals:
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal interrupted
                    async for number in signals:
                        interrupted = number
                        nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                outcome = await play(plan, show)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = first_failure(group)
            if failure is None:
                raise
            raise failure from group
    if interrupted:
        raise Interrupted(interrupted)
    assert outcome is not None
    return outcome


if __name__ == "__main__":
    sys.exit(main())
