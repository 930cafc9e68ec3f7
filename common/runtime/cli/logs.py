"""The command `backhaul`: what concerns no single service. `backhaul logs` explains the services' log lines."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from common import VERSION
from common.core.errors import BackhaulError
from common.core.log_analysis.log_story import LogStory
from common.core.log_analysis.record import parse_since
from common.core.log_analysis.report import Advice, as_values, note_line, report
from common.runtime.cli.log_sources import followed, records
from common.runtime.cli.output import complain, json_line, printable, say
from common.runtime.logs.advice import load_advice

_ABOUT = """\
Put the log lines of edges and cloud nodes together, of several files or services at once:

  docker logs edge 2>&1 | backhaul logs
  docker compose logs --no-log-prefix | backhaul logs --since 2h
  backhaul logs edge-7.log cloud-1.log cloud-2.log.gz --entity 'Sensor|edge-7/t1'

For each link: outages with their lengths and reasons, lag over time, where the events are. Then warnings and errors by
event and code, with what to do. Lines must be JSON (`log_format=json`, the default without a terminal)."""


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BackhaulError("cli.usage", message, f"{self.prog} --help")


def logs_parser() -> argparse.ArgumentParser:
    """The command `backhaul`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Words(prog="backhaul", description="Tools beside the services.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"backhaul {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = "explain the services' log lines"
    logs = commands.add_parser("logs", help=about, description=_ABOUT, formatter_class=raw, allow_abbrev=False)
    logs.add_argument("files", nargs="*", metavar="FILE", help="log files, also .gz; `-` or none: standard input")
    logs.add_argument(
        "--since", metavar="TIME", help="leave out what is older: `90s`, `15m`, `2h`, `3d`, or an ISO time"
    )
    logs.add_argument("--entity", default="", metavar="ID", help="only what is said of this entity, line by line")
    logs.add_argument("--timeline", action="store_true", help="also every change of a link or service, line by line")
    logs.add_argument("--follow", action="store_true", help="write each change as it comes, until interrupted")
    logs.add_argument("--json", action="store_true", help="write one JSON object")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    try:
        return _logs(logs_parser().parse_args(words))
    except BackhaulError as error:
        complain(error)
        return 2 if error.code == "cli.usage" else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _logs(args: argparse.Namespace) -> int:
    since_us = parse_since(args.since, time.time_ns() // 1000) if args.since else 0
    if since_us is None:
        raise BackhaulError("cli.usage", f"--since {args.since} is no time", "90s, 15m, 2h, 3d or 2026-01-31T03:00")
    paths = args.files or ["-"]
    if paths == ["-"] and sys.stdin.isatty():
        raise BackhaulError("cli.usage", "no file is named and standard input is a terminal", "backhaul logs --help")
    story = LogStory(args.entity)
    foreign = 0

    def seen(is_ours: bool) -> None:
        nonlocal foreign
        foreign += not is_ours

    source = followed(paths, seen, time.sleep) if args.follow else records(paths, seen)
    for record in source:
        if record.at_us < since_us:
            continue
        for note in story.take(record):
            if args.follow or (args.timeline and not args.json):
                say(printable(note_line(note)))
    advice = _advice()
    if args.json:
        say(json_line(as_values(story, advice)))
        return 0
    if args.timeline and story.notes:
        say("")
    say("\n".join(printable(line) for line in report(story, advice, is_for_entity=bool(args.entity)).splitlines()))
    if foreign:
        say(f"\n{foreign} other lines were left out (no JSON of a Backhaul service)")
    return 0


def _advice() -> Advice:
    try:
        return load_advice()
    except OSError:  # copied without its pages: the story is still one
        return Advice({}, {})
