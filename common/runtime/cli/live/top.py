"""`top`: the frames again and again on a terminal, by `rich` if it is installed; once where there is no terminal."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from common.core.errors import BackhaulError
from common.core.fleet.view import SORTS
from common.runtime.cli.client import path_segment
from common.runtime.cli.commands import Command, Question, number
from common.runtime.cli.live.frames import Courses, Frame, fleet_edge_frame, fleet_frame, service_frame
from common.runtime.cli.output import complain_of, printable, say, shown, table

if TYPE_CHECKING:
    from rich.console import Group

_EVERY_S: Final = 2

Look = Callable[[], Frame]


def _common(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--every", type=number, default=_EVERY_S, metavar="S", help=f"seconds between looks ({_EVERY_S})"
    )
    parser.add_argument("--once", action="store_true", help="print one look, as where there is no terminal")


def _fleet_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("edge", nargs="?", help="one edge; without it the fleet")
    parser.add_argument("--this-node", action="store_true", help="this node's own figures instead")
    parser.add_argument("--behind", action="store_true", help="only edges with events that are not stored")
    parser.add_argument("--offline", action="store_true", help="only edges that are not connected")
    parser.add_argument("--sort", choices=SORTS, default="lag", help="by id, lag (default), since, progress, or full")
    parser.add_argument("--max", type=number, default=30, metavar="N", help="at most so many edges (30)")
    _common(parser)


def _top_fleet(question: Question) -> int:
    args, client, courses = question.args, question.client, Courses()

    def look() -> Frame:
        if args.this_node:
            return service_frame(client.get("/status"), courses, _now_us())
        if args.edge:
            return fleet_edge_frame(client.get(f"/v1/fleet/{path_segment(args.edge)}"), courses, _now_us())
        flags = {name: "true" for name in ("behind", "offline") if getattr(args, name)}
        return fleet_frame(client.get("/v1/fleet", sort=args.sort, max=args.max, **flags), courses, _now_us())

    return _show(question, look)


def _top_service(question: Question) -> int:
    courses = Courses()
    return _show(question, lambda: service_frame(question.client.get("/status"), courses, _now_us()))


def _now_us() -> int:
    return time.time_ns() // 1000  # noqa: TID251  a command has no service around it


def _show(question: Question, look: Look) -> int:
    if question.args.once or not sys.stdout.isatty():
        say(as_text(look()))
        return 0
    try:
        from rich.live import Live  # noqa: PLC0415 - an extra that not every gateway has
    except ImportError:
        say(as_text(look()))
        complain_of("printed once: a live view needs the extra `cli` (pip install 'backhaul[cli]')")
        return 0
    with Live(screen=True, auto_refresh=False) as live:
        for frame in frames(look, max(1, question.args.every)):
            live.update(as_rich(frame), refresh=True)
    return 0


def frames(look: Look, every_s: float) -> Iterator[Frame]:
    """Frames without end; while the service does not answer the last one stays, and says so."""
    last = Frame("", [])
    while True:
        try:
            last = look()
            yield last
        except BackhaulError as error:
            yield Frame(f"{last.title}  [{error.code}: {error.message}]".strip(), last.rows, last.notes, last.marked)
        time.sleep(every_s)  # noqa: TID251  a command has no loop


def as_text(frame: Frame) -> str:
    """A frame as plain lines."""
    return "\n".join([printable(frame.title), "", table(frame.rows), *map(printable, frame.notes)])


def as_rich(frame: Frame) -> Group:
    """A frame as `rich` draws it. Texts come from elsewhere: none is read as markup."""
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415 - an extra

    grid = Table(box=None, header_style="bold", pad_edge=False)
    for key, value in (frame.rows[0] if frame.rows else {}).items():
        grid.add_column(Text(key.replace("_", " ")), justify="right" if isinstance(value, int | float) else "left")
    for index, row in enumerate(frame.rows):
        cells = [Text(shown(key, value)) for key, value in row.items()]
        grid.add_row(*cells, style="yellow" if index in frame.marked else "")
    return Group(
        Text(printable(frame.title), style="bold"), Text(""), grid, *(Text(printable(note)) for note in frame.notes)
    )


TOP_FLEET: Final = (
    Command(
        ("top",),
        "the fleet, one edge or this node as it changes; once without a terminal",
        _top_fleet,
        _fleet_arguments,
    ),
)
TOP: Final = (Command(("top",), "this service as it changes; once without a terminal", _top_service, _common),)
