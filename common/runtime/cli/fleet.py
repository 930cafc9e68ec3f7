"""`fleet`: the edges over all nodes, one edge with its timeline, and whether anything is lost."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Final

from common.core.errors import BackhaulError
from common.core.fleet.view import SORTS
from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, json_flag, number, show
from common.runtime.cli.output import fields, say, table

_COLUMNS: Final = (
    "id",
    "state",
    "node",
    "since_us",
    "lag_events",
    "lag_s",
    "last_end_code",
    "connects",
    "version",
    "clock_skew_s",
    "certificate_days",
)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="show ID", help="one edge: where its events are, and its timeline")
    parser.add_argument("--behind", action="store_true", help="only edges with events that are not stored")
    parser.add_argument("--offline", action="store_true", help="only edges that are not connected")
    parser.add_argument("--sort", choices=SORTS, default="id", help="by id, lag, since, progress, or full (first)")
    parser.add_argument("--losses", action="store_true", help="also where all events are (reads every entity's head)")
    parser.add_argument("--max", type=number, default=100, metavar="N", help="at most so many edges (100)")
    parser.add_argument("--last", type=number, default=30, metavar="N", help="of `show`: lines of the timeline (30)")
    json_flag(parser)


def _fleet(question: Question) -> int:
    words = question.args.words
    if not words:
        return _list(question)
    if len(words) == 2 and words[0] == "show":
        return _show(question, words[1])
    raise BackhaulError("cli.usage", f"`fleet {' '.join(words)}` is no command", "fleet, or fleet show ID")


def _list(question: Question) -> int:
    args = question.args
    flags = "".join(f"&{name}=true" for name in ("behind", "offline", "losses") if getattr(args, name))
    answer = question.client.get(f"/v1/fleet?sort={args.sort}&max={args.max}{flags}")
    rows = [_row(edge) for edge in answer["edges"]]
    text = table(rows) + "\n\n" + fields(answer["totals"])
    if answer["next"] is not None:
        text += f"\n{answer['fitting'] - len(rows)} more edges (--max)"
    if "losses" in answer:
        text += "\n\n" + _losses(answer["losses"])
    return show(question, answer, _with_age(answer, text))


def _row(edge: dict[str, Any]) -> dict[str, Any]:
    row = {name: edge.get(name) for name in _COLUMNS}
    cap, used = edge["cap_bytes"], edge["used_bytes"]
    return row | {"disk": f"{used / cap:.0%}" if cap else "", "full_in": span(edge["full_in_s"])}


def span(seconds: int | None) -> str:
    """A stretch of time for a column; empty for None."""
    if seconds is None:
        return ""
    if seconds >= 2 * 86400:
        return f"{seconds // 86400} d"
    return f"{seconds // 3600} h" if seconds >= 7200 else f"{seconds // 60} min"


def _losses(answer: dict[str, Any]) -> str:
    verdicts = {
        "nothing": "nothing is lost",
        "waits": "nothing is lost; parked events wait for an operator",
        "lost": "events are lost: dropped, trimmed or gone, as counted here",
    }
    return verdicts[answer["is_lost"]] + "\n" + fields(answer["parts"])


def _with_age(answer: dict[str, Any], text: str) -> str:
    return f"{text}\n\nas last known: {answer['stale']}" if answer["stale"] else text


def _show(question: Question, origin_id: str) -> int:
    answer = question.client.get(f"/v1/fleet/{path_segment(origin_id)}")
    if question.args.json:
        return show(question, answer, "")
    parts = {key: value for key, value in answer.items() if not isinstance(value, list | dict)}
    say(fields({key: value for key, value in parts.items() if key not in ("stale", "as_of_us", "is_lost")}))
    if "parts" in answer:
        say("\n" + _losses(answer))
        for title in ("ranges", "gone"):
            if answer[title]:
                say(f"\n{title}\n{table(answer[title][:50])}")
        say("\ntimeline\n" + table(answer["timeline"][-question.args.last :]))
    return show(question, answer, _with_age(answer, ""))


FLEET: Final = (Command(("fleet",), "the edges over all nodes: state, lag, disk, losses", _fleet, _arguments),)
