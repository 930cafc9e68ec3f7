"""The commands about peers that are shut out, whatever their certificates say."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from common.runtime.cli.commands import Command, Question, json_flag, show
from common.runtime.cli.output import table


def _list(question: Question) -> int:
    answer = question.client.get("/v1/identities")
    return show(question, answer, table(answer["blocked"]))


def _id_argument(parser: ArgumentParser) -> None:
    parser.add_argument("id", help="the id of an edge or a consumer")
    json_flag(parser)


def _block_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with it, and shown to the peer")


def _block(question: Question) -> int:
    answer = question.client.post("/v1/identities/block", {"id": question.args.id, "reason": question.args.reason})
    return show(question, answer, f"{question.args.id} is blocked on every node within seconds")


def _allow(question: Question) -> int:
    answer = question.client.post("/v1/identities/allow", {"id": question.args.id})
    return show(question, answer, f"{question.args.id} may connect again")


IDENTITIES: Final = (
    Command(("identities", "list"), "list the peers that are shut out", _list, json_flag),
    Command(
        ("identities", "block"),
        "shut a peer out, whatever its certificate says, and end its connections",
        _block,
        _block_arguments,
    ),
    Command(("identities", "allow"), "let a peer in again", _allow, _id_argument),
)
