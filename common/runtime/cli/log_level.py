"""`log-level`: show the level of a running service's log, or change it until the next start or SIGHUP."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from common.runtime.cli.commands import Command, Question
from common.runtime.cli.output import say

_LEVELS: Final = ("debug", "info", "warning", "error")


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("level", nargs="?", metavar="LEVEL", choices=_LEVELS, help="one of " + ", ".join(_LEVELS))


def _log_level(question: Question) -> int:
    level = question.args.level
    client = question.client
    answer = client.put("/v1/log-level", {"level": level}) if level else client.get("/v1/log-level")
    say(str(answer["level"]))
    return 0


LOG_LEVEL: Final = (
    Command(("log-level",), "show the level of the log, or change it until the next start", _log_level, _arguments),
)
