"""The commands about filters on the way up: what a cloud asks of its edges."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, json_flag, show
from common.runtime.cli.output import fields, on_one_line, table
from common.runtime.cli.subscriptions import criteria_argument


def _filter_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("origin", help="the edge's id, or several with * for any text")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--set", type=criteria_argument, metavar="JSON", help="ask for these criteria in place of all before"
    )
    what.add_argument(
        "--change", type=criteria_argument, metavar="JSON", help="apply criteria after those that are asked for"
    )
    what.add_argument("--withdraw", action="store_true", help="ask for nothing by this id or pattern any more")
    parser.add_argument(
        "--history",
        choices=("snapshot", "full", "none"),
        help="with --set or --change: the past that an entity brings that comes in (snapshot, unless asked otherwise)",
    )
    json_flag(parser)


def _filter(question: Question) -> int:
    args = question.args
    path = f"/v1/origins/{path_segment(args.origin)}/filter"
    history = {} if args.history is None else {"history": args.history}
    if args.set is not None:
        answer = question.client.post(path, {"criteria": args.set, **history})
    elif args.change is not None:
        answer = question.client.post(path, {"change": args.change, **history})
    elif args.withdraw:
        answer = question.client.post(path, {"withdraw": True, **history})
    elif history:
        answer = question.client.post(path, history)  # it is refused: a history goes with a filter
    else:
        answer = question.client.get(path)
    return show(question, answer, fields(on_one_line(answer)))


def _filters(question: Question) -> int:
    answer = question.client.get("/v1/origins/filters")
    return show(question, answer, table([on_one_line(row) for row in answer["filters"]]))


FILTERS: Final = (
    Command(
        ("origins", "filter"),
        "show, set or change what an edge is to push; what a wider filter selects is fetched",
        _filter,
        _filter_arguments,
    ),
    Command(("origins", "filters"), "list what is asked of edges, by id and pattern", _filters, json_flag),
)
