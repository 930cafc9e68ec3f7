"""The commands about filters on the way up: what a cloud asks of its edges."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from common.runtime.cli_output import fields, json_line, say, table
from common.runtime.cli_questions import Command, Question
from common.runtime.cli_subscriptions import criteria_argument
from common.runtime.service_client import path_segment


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
    parser.add_argument("--json", action="store_true", help="print the service's answer as one line of JSON")


def _filter(question: Question) -> int:
    args = question.args
    path = f"/v1/origins/{path_segment(args.origin)}/filter"
    if args.set is not None:
        answer = question.client.post(path, {"criteria": args.set})
    elif args.change is not None:
        answer = question.client.post(path, {"change": args.change})
    elif args.withdraw:
        answer = question.client.post(path, {"withdraw": True})
    else:
        answer = question.client.get(path)
    say(json_line(answer) if args.json else fields({name: _shown(value) for name, value in answer.items()}))
    return 0


def _shown(value: object) -> object:
    """Criteria as they are written, on one line."""
    return json_line(value) if isinstance(value, list | dict) else value


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the service's answer as one line of JSON")


def _filters(question: Question) -> int:
    answer = question.client.get("/v1/origins/filters")
    rows = [{name: _shown(value) for name, value in row.items()} for row in answer["filters"]]
    say(json_line(answer) if question.args.json else table(rows))
    return 0


FILTERS: Final = (
    Command(
        ("origins", "filter"),
        "show, set or change what an edge is to push; what a wider filter selects is fetched",
        _filter,
        _filter_arguments,
    ),
    Command(("origins", "filters"), "list what is asked of edges, by id and pattern", _filters, _list_arguments),
)
