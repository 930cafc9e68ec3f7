"""The commands about entities: events that one of the application cannot take, and owners."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Final

from common.core.errors import BackhaulError
from common.runtime.cli.commands import Command, Question, json_flag, show
from common.runtime.cli.output import table


def _event_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "event", metavar="TYPE|ID:SEQ", help="an entity and the number of the event that it cannot take"
    )
    json_flag(parser)


def _replace_arguments(parser: ArgumentParser) -> None:
    _event_argument(parser)
    parser.add_argument("--event-type", required=True, metavar="NAME", help="the type of the event in its place")
    parser.add_argument("--payload", required=True, metavar="JSON", help="its payload")


def _place(question: Question) -> tuple[str, int]:
    entity, colon, seq_nr = question.args.event.rpartition(":")
    if not colon or not seq_nr.isdecimal():
        raise BackhaulError("cli.usage", f"{question.args.event!r} is not TYPE|ID:SEQ", "for example 'Door|front:7'")
    return entity, int(seq_nr)


def _skip(question: Question) -> int:
    entity, seq_nr = _place(question)
    answer = question.client.post("/v1/mends/skip", {"entity": entity, "seq_nr": seq_nr})
    return show(question, answer, f"{entity} goes on without its event {seq_nr}")


def _replace(question: Question) -> int:
    entity, seq_nr = _place(question)
    rest = json.dumps({"entity": entity, "seq_nr": seq_nr, "event_type": question.args.event_type}).encode()
    # The payload goes as it was written; the service reads it.
    payload = question.args.payload.encode("utf-8", "surrogateescape")
    answer = question.client.post_bytes("/v1/mends/replace", rest[:-1] + b',"payload":' + payload + b"}")
    return show(question, answer, f"{entity} takes a {question.args.event_type} in place of its event {seq_nr}")


def _transfer_arguments(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("entity", nargs="?", metavar="TYPE|ID", help="the entity")
    which.add_argument("--prefix", metavar="TYPE|PREFIX", help="every entity that begins with this")
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--to", metavar="ORIGIN", help="the edge that is to own it; it must have dialled once")
    to.add_argument("--here", action="store_true", help="this service's own programs are to own it")
    parser.add_argument(
        "--accept-gap", action="store_true", help="accept that numbers before the first parked event are missing"
    )
    json_flag(parser)


def _transfer(question: Question) -> int:
    args = question.args
    asked = {"to": "" if args.here else args.to, "accept_gap": args.accept_gap}
    if args.entity:
        moved = [question.client.post("/v1/owners/transfer", {"entity": args.entity, **asked})]
    else:
        moved, after = [], ""
        while after is not None:
            page = question.client.post("/v1/owners/transfer", {"prefix": args.prefix, "after": after, **asked})
            moved, after = moved + page["transferred"], page["through"]
    show(question, {"transferred": moved}, table(moved) if moved else f"there is nothing below {args.prefix}")
    return 1 if any(one["left"] for one in moved) else 0


TRANSFERS: Final = (
    Command(
        ("entities", "transfer"),
        "give entities to another owner and judge what is parked again; exit 1 if some stays parked",
        _transfer,
        _transfer_arguments,
    ),
)
ENTITIES: Final = (
    Command(("entities", "skip"), "have an entity go on without an event that it cannot take", _skip, _event_argument),
    Command(("entities", "replace"), "have an entity take another event in its place", _replace, _replace_arguments),
)
