"""The commands about snapshots: lists of them, one with its content, and their deletion."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from common.core.errors import BackhaulError
from common.core.events.ids import split_persistence_id
from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, json_flag, number, show
from common.runtime.cli.output import fields, table


def _path(persistence_id: str) -> str:
    entity_type, entity_id = split_persistence_id(persistence_id)
    return f"/v1/snapshots/{path_segment(entity_type)}/{path_segment(entity_id)}"


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("entity", nargs="?", metavar="TYPE|ID", help="all that are kept of one entity")
    parser.add_argument("--type", metavar="TYPE", help="the latest of entities of one type")
    parser.add_argument("--after", metavar="TYPE|ID", default="", help="list behind this entity")
    parser.add_argument("--max", type=number, metavar="N", default=100, help="list at most so many (default: 100)")
    json_flag(parser)


def _list(question: Question) -> int:
    args = question.args
    if args.entity:
        answer = question.client.get(_path(args.entity), all="true")
    else:
        answer = question.client.get("/v1/snapshots", type=args.type, after=args.after, max=args.max)
    return show(question, answer, table(answer["snapshots"]))


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("entity", metavar="TYPE|ID", help="the entity")
    parser.add_argument("--seq-nr", type=number, metavar="N", help="an older one (default: the latest)")
    json_flag(parser)


def _show(question: Question) -> int:
    answer = question.client.get(_path(question.args.entity), seq_nr=question.args.seq_nr)
    return show(question, answer, fields(answer))


def _delete_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("entity", metavar="TYPE|ID", help="the entity")
    parser.add_argument("seq_nr", type=number, metavar="N", help="the snapshot's number")
    parser.add_argument("--yes", action="store_true", help="really: it cannot be taken back")
    json_flag(parser)


def _delete(question: Question) -> int:
    args = question.args
    if not args.yes:
        raise BackhaulError("cli.usage", "this cannot be taken back", "add --yes if it is what you want")
    answer = question.client.delete(_path(args.entity), seq_nr=args.seq_nr)
    return show(question, answer, f"deleted the snapshot {answer['seq_nr']} of {answer['entity']}")


SNAPSHOTS: Final = (
    Command(("snapshots", "list"), "list entities' latest snapshots, or all of one entity", _list, _list_arguments),
    Command(("snapshots", "show"), "show a snapshot with its content", _show, _show_arguments),
    Command(("snapshots", "delete"), "remove one that no deleted event needs", _delete, _delete_arguments),
)
