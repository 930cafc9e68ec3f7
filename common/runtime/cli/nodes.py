"""The commands about a cloud's nodes: which there are, and to take one out of the work."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Final

from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, json_flag, show
from common.runtime.cli.output import table


def _list(question: Question) -> int:
    answer = question.client.get("/v1/nodes")
    return show(question, answer, table(answer["nodes"]))


def _node_argument(parser: ArgumentParser) -> None:
    parser.add_argument("node", help="the node's name")
    json_flag(parser)


def _decide(word: str, reported: str) -> Callable[[Question], int]:
    def run(question: Question) -> int:
        node = question.args.node
        answer = question.client.post(f"/v1/nodes/{path_segment(node)}/{word}", {})
        return show(question, answer, f"{node} {reported}")

    return run


NODES: Final = (
    Command(("nodes", "list"), "list the nodes of this cloud, with their ranges and edges", _list, json_flag),
    Command(
        ("nodes", "drain"),
        "move a node's ranges and edges to the others, until it is undrained",
        _decide("drain", "gives its ranges and edges away"),
        _node_argument,
    ),
    Command(
        ("nodes", "undrain"),
        "let a drained node work again",
        _decide("undrain", "takes its share again"),
        _node_argument,
    ),
)
