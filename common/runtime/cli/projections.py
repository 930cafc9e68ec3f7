"""The commands about projections: which there are and how far, and what an operator decides about them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Final

from common.core.errors import BackhaulError
from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, json_flag, number, show
from common.runtime.cli.output import fields, table


def _path(question: Question, *more: str) -> str:
    return "/".join(("/v1/projections", path_segment(question.args.name), *more))


def _list(question: Question) -> int:
    answer = question.client.get("/v1/projections")
    return show(question, answer, table(answer["projections"]))


def _name_argument(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="the projection")
    json_flag(parser)


def _set_paused(word: str) -> Callable[[Question], int]:
    def run(question: Question) -> int:
        answer = question.client.post(_path(question, word), {})
        return show(question, answer, f"{word}d {question.args.name}, {answer['ranges']} ranges")

    return run


def _skip_arguments(parser: ArgumentParser) -> None:
    _name_argument(parser)
    parser.add_argument("--position", type=number, metavar="P", required=True, help="the event's place in the log")


def _skip(question: Question) -> int:
    position = question.args.position
    answer = question.client.post(_path(question, "skip"), {"position": position})
    return show(question, answer, f"{question.args.name} leaves out the event at position {position}")


def _ranges_arguments(parser: ArgumentParser) -> None:
    _name_argument(parser)
    parser.add_argument(
        "--ranges", type=number, metavar="N", required=True, help="equal ranges there are to be: 1, 2, 4 …"
    )


def _reshape(word: str) -> Callable[[Question], int]:
    def run(question: Question) -> int:
        answer = question.client.post(_path(question, word), {"ranges": question.args.ranges})
        return show(question, answer, table(answer["ranges"]))

    return run


def _reset_arguments(parser: ArgumentParser) -> None:
    _name_argument(parser)
    parser.add_argument("--yes", action="store_true", help="really: it cannot be taken back")
    parser.add_argument("--accept-trimmed", action="store_true", help="although retention may have deleted events")


def _reset(question: Question) -> int:
    if not question.args.yes:
        raise BackhaulError("cli.usage", "this cannot be taken back", "add --yes if it is what you want")
    body = {"confirm": question.args.name, "accept_trimmed": question.args.accept_trimmed}
    answer = question.client.post(_path(question, "reset"), body)
    return show(question, answer, f"{question.args.name} begins again: tables empty, {answer['ranges']} ranges at 0")


def _move_arguments(parser: ArgumentParser) -> None:
    _name_argument(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=number, metavar="POSITION", help="events behind it come next")
    where.add_argument("--to-time", metavar="TIME", help="behind an order time, RFC 3339 with a zone")
    where.add_argument("--to-now", action="store_true", help="at the end of the log")
    parser.add_argument("--yes", action="store_true", help="really: events are left out, or come again")
    parser.add_argument("--accept-trimmed", action="store_true", help="although retention may have deleted events")


def _move(question: Question) -> int:
    args = question.args
    if not args.yes:
        raise BackhaulError("cli.usage", "events are left out, or come again", "add --yes if it is what you want")
    body = {"confirm": args.name, "accept_trimmed": args.accept_trimmed}
    body |= {"order_time": args.to_time} if args.to_time else {"position": "now" if args.to_now else args.to}
    answer = question.client.post(_path(question, "move"), body)
    was = f"between {answer['first']} and {answer['last']}" if answer["first"] != answer["last"] else answer["first"]
    return show(question, answer, f"{args.name} is at {answer['position']}, it was {was}; resume it to go on")


def _forget(question: Question) -> int:
    answer = question.client.post(_path(question, "forget"), {})
    return show(question, answer, f"forgot {question.args.name}, {answer['ranges']} ranges; its tables stay")


def _parked_arguments(parser: ArgumentParser) -> None:
    """One command word for four questions: list unless an action is named."""
    parser.add_argument("name", help="the projection")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", type=number, metavar="POSITION", help="one parked event with its payload")
    what.add_argument("--retry", metavar="TYPE|ID", help="have an entity's parked events tried again, in order")
    what.add_argument(
        "--discard", type=number, metavar="POSITION", help="drop the first parked event of its entity for good"
    )
    parser.add_argument("--after", type=number, metavar="POSITION", default=0, help="list behind this position")
    parser.add_argument("--max", type=number, metavar="N", default=100, help="list at most so many (default: 100)")
    json_flag(parser)


def _parked(question: Question) -> int:
    args, client = question.args, question.client
    if args.show is not None:
        answer = client.get(_path(question, "parked", str(args.show)))
        return show(question, answer, fields(answer))
    if args.retry is not None:
        answer = client.post(_path(question, "parked", "retry"), {"entity": args.retry})
        return show(question, answer, f"{answer['events']} events of {args.retry} are tried again by the range's owner")
    if args.discard is not None:
        answer = client.post(_path(question, "parked", str(args.discard), "discard"), {})
        return show(question, answer, f"discarded the event at position {args.discard}")
    answer = client.get(_path(question, "parked"), after=args.after, max=args.max)
    return show(question, answer, table(answer["parked"]))


PROJECTIONS: Final = (
    Command(("projections", "list"), "list the projections' ranges, owners, offsets and lag", _list, json_flag),
    Command(("projections", "pause"), "stop a projection on every node", _set_paused("pause"), _name_argument),
    Command(("projections", "resume"), "let it go on from its offsets", _set_paused("resume"), _name_argument),
    Command(("projections", "skip"), "leave out an event that it cannot digest, for good", _skip, _skip_arguments),
    Command(
        ("projections", "split"), "divide it into more ranges, while it runs", _reshape("split"), _ranges_arguments
    ),
    Command(("projections", "merge"), "join its ranges, while it runs", _reshape("merge"), _ranges_arguments),
    Command(("projections", "reset"), "empty its tables and begin at the start of the log", _reset, _reset_arguments),
    Command(
        ("projections", "move"), "set a paused projection to a position, its tables unchanged", _move, _move_arguments
    ),
    Command(("projections", "forget"), "remove the offsets of one that nobody runs", _forget, _name_argument),
    Command(
        ("projections", "parked"),
        "list events that it could not digest; show, retry or discard them",
        _parked,
        _parked_arguments,
    ),
)
