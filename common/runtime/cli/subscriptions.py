"""The commands about what a service receives of others: its subscriptions, their filters, and their inboxes."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from typing import Any, Final

from common.core.errors import BackhaulError
from common.core.events import json_text
from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, json_flag, number, show
from common.runtime.cli.output import fields, json_line, on_one_line, say, table

_PAGE: Final = 100
_FOLLOW_S: Final = 2


def criteria_argument(text: str) -> list[object]:
    """An argument that is a JSON list; what is in it is the service's affair."""
    try:
        criteria = json_text.read(text.encode("utf-8", "surrogateescape"))
    except json_text.UnfitJson as unfit:
        raise ArgumentTypeError(unfit.what) from None
    if not isinstance(criteria, list):
        raise ArgumentTypeError("not a JSON list")
    return criteria


def _name_argument(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="the subscription")
    json_flag(parser)


def _list(question: Question) -> int:
    answer = question.client.get("/v1/subscriptions")
    rows = [_row(one) for one in answer["subscriptions"]]
    return show(question, answer, table(rows))


def _row(one: dict[str, Any]) -> dict[str, object]:
    """What fits a line; ``--json`` and ``/status`` have the rest."""
    applied, requested = one.get("applied") or {}, one.get("requested") or {}
    return {
        "name": one["name"],
        "state": one["state"] or "not configured",
        "position": one.get("position", 0),
        "received": one.get("received", 0),
        "awaiting": one["awaiting"],
        "filter": f"{applied.get('version', 0)} of {requested.get('version', 0)}",
        "waiting": one["inbox"]["rows"],
        "bytes": one["inbox"]["bytes"],
        "acked": one["inbox"]["acked_id"],
    }


def _filter_arguments(parser: ArgumentParser) -> None:
    _name_argument(parser)
    parser.add_argument("--set", type=criteria_argument, metavar="JSON", help="the criteria wanted from now on")


def _filter(question: Question) -> int:
    name = question.args.name
    if question.args.set is not None:
        path = f"/v1/subscriptions/{path_segment(name)}/filter"
        answer = question.client.put(path, {"criteria": question.args.set})
        return show(question, answer, f"version {answer['requested']['version']} is asked for")
    found = [one for one in question.client.get("/v1/subscriptions")["subscriptions"] if one["name"] == name]
    if not found:
        raise BackhaulError(
            "cli.no_such_subscription", f"there is no subscription {name!r}", "`subscriptions list` has their names"
        )
    shown = {key: found[0].get(key) for key in ("applied", "requested", "next", "backfill_position")}
    return show(question, shown, fields(on_one_line(shown)))


def _forget(question: Question) -> int:
    name = question.args.name
    answer = question.client.post(f"/v1/subscriptions/{path_segment(name)}/forget", {})
    return show(question, answer, f"forgot {name}, and {answer['inbox_rows']} rows of its inbox")


SUBSCRIPTIONS: Final = (
    Command(("subscriptions", "list"), "list what is followed, how far, and what waits in inboxes", _list, json_flag),
    Command(("subscriptions", "filter"), "show or set what a subscription is to bring", _filter, _filter_arguments),
    Command(
        ("subscriptions", "forget"),
        "drop a subscription's place, numbers and inbox; one that runs begins anew",
        _forget,
        _name_argument,
    ),
)


def _tail_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="the subscription")
    parser.add_argument("--after", type=number, metavar="ID", default=0, help="begin behind this row")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new rows until interrupted")


def _tail(question: Question) -> int:
    for row in _rows(question):
        say(json_line(row))
    return 0


def _rows(question: Question) -> Iterator[dict[str, Any]]:
    args = question.args
    path, after = f"/v1/inbox/{path_segment(args.name)}", args.after
    while True:
        page = question.client.get(path, after=after, max=_PAGE, wait_s=_FOLLOW_S if args.follow else None)
        yield from page["events"]
        after = page["through"]
        if not page["events"] and not args.follow:
            return


def _ack_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="the subscription")
    parser.add_argument("through", type=number, metavar="ID", help="the last row that is done with")
    json_flag(parser)


def _ack(question: Question) -> int:
    args = question.args
    answer = question.client.post(f"/v1/inbox/{path_segment(args.name)}/ack", {"through": args.through})
    return show(question, answer, f"freed {answer['freed']} rows; {answer['inbox']['rows']} wait")


INBOX: Final = (
    Command(("inbox", "tail"), "print the rows of an inbox as JSON lines; frees none", _tail, _tail_arguments),
    Command(("inbox", "ack"), "free the rows up to an id", _ack, _ack_arguments),
)
