"""`policy check`: what a running service would let an id do, and by which rule."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from common.runtime.cli.commands import Command, Question, json_flag, show


def _arguments(parser: ArgumentParser) -> None:
    json_flag(parser)
    parser.add_argument("--who", required=True, metavar="ID", help="id of an edge or a consumer")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--write", metavar="ENTITY", help="may it write this entity (EntityType|entityId)?")
    asked.add_argument("--read", metavar="STREAM", help="may it read this stream, and what of it?")


def _check(question: Question) -> int:
    args = question.args
    answer = question.client.get("/v1/policy", who=args.who, write=args.write, read=args.read)
    verdict = "allowed" if answer["allowed"] else "not allowed"
    filtered = f", within the filter {answer['filter']}" if answer.get("filter", "[]") != "[]" else ""
    show(question, answer, f"{verdict} by {answer['rule']!r} of {answer['policy']}{filtered}")
    return 0 if answer["allowed"] else 1


POLICY: Final = (
    Command(("policy", "check"), "what the policy lets an id write or read, and by which rule", _check, _arguments),
)
