"""How the story is shown while it happens: live on a terminal, as plain lines elsewhere, not at all for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from examples.demo.outcome import StoryLine

COLOURS: Final = {"edge-a": "cyan", "edge-b": "magenta", "edge-c": "yellow", "edge-d": "green", "demo": "bold white"}
_CLOUD_COLOUR: Final = "blue"
_STATES: Final = {
    "connected": "[green]●[/] connected",
    "dialling": "[yellow]◌[/] dialling ",
    "offline": "[yellow]○[/] offline  ",
    "down": "[red]✕ down     [/]",
}
# Bar and curve of an edge share what its other columns leave.
_CELLS_MAX: Final = 24
_CELLS_OF_TEXT: Final = 48
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_EVERY: Final = 10
# Log lines stand to the right of the story's, so that either can be read alone.
_LOG_MARGIN: Final = " " * 20
_LOG_MARK: Final = {"log": "│", "alarm": "│ !"}


@dataclass(frozen=True, slots=True)
class EdgeProgress:
    """Where an edge is: its link, readings answered for, and events the cloud does not have (None: cannot be asked)."""

    edge_id: str
    state: str
    answered: int
    total: int
    waiting: int | None


class Show(Protocol):
    """What the play tells while it runs."""

    def tell(self, line: StoryLine) -> None: ...

    def progress(self, rows: Sequence[EdgeProgress]) -> None: ...


def colour_of(who: str) -> str:
    """The colour somebody's name has everywhere."""
    return COLOURS.get(who, _CLOUD_COLOUR)


def curve(counts: Sequence[int], highest: int | None = None) -> str:
    """Counts as a line of blocks, one a count; zero is a blank."""
    top = max(highest or 0, *counts, 1)
    return "".join(" " if not count else _BLOCKS[min(7, count * 8 // (top + 1))] for count in counts)


class SilentShow:
    """Nothing: standard output belongs to the JSON."""

    def tell(self, line: StoryLine) -> None:
        pass

    def progress(self, rows: Sequence[EdgeProgress]) -> None:
        pass


class PlainShow:
    """The story's lines, below each what the services logged, and now and then one about the progress."""

    def __init__(self) -> None:
        self._updates = 0
        self._shown = ""

    def tell(self, line: StoryLine) -> None:
        if line.kind == "act":
            print(f"{line.at_s:6.1f} s  {line.who:8} {line.what}", flush=True)
        else:
            print(f"{_LOG_MARGIN}{_LOG_MARK[line.kind]} {line.who}: {line.what}", flush=True)

    def progress(self, rows: Sequence[EdgeProgress]) -> None:
        self._updates += 1
        if self._updates % _PLAIN_EVERY == 0:
            answer = ";  ".join(
                f"{row.edge_id} {row.answered:,} of {row.total:,} stored, {row.state}"
                + ("" if row.waiting is None else f", {row.waiting} to send")
                for row in rows
            )
            if answer != self._shown:
                print(f"{_LOG_MARGIN}… {answer}", flush=True)
            self._shown = answer


class LiveShow(AbstractContextManager["LiveShow"]):
    """Story lines scroll by above a panel that says where each edge is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._open = ExitStack()
        self._waiting: dict[str, list[int]] = {}
        self._cells = max(4, min(_CELLS_MAX, (console.width - _CELLS_OF_TEXT) // 2))

    def __enter__(self) -> LiveShow:
        self._open.enter_context(self._live)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def tell(self, line: StoryLine) -> None:
        self._console.print(story_line(line), highlight=False)

    def progress(self, rows: Sequence[EdgeProgress]) -> None:
        self._live.update(self._panel(rows), refresh=True)

    def _panel(self, rows: Sequence[EdgeProgress]) -> RenderableType:
        table, cells = Table.grid(padding=(0, 2, 0, 0)), self._cells
        for row in rows:
            past = self._waiting.setdefault(row.edge_id, [])
            past.append(row.waiting or 0)
            del past[:-cells]
            done = row.answered * cells // max(1, row.total)
            colour = colour_of(row.edge_id)
            table.add_row(
                f"  [{colour}]{row.edge_id}[/]",
                _STATES.get(row.state, row.state),
                f"[{colour}]{'━' * done}[/][bright_black]{'━' * (cells - done)}[/] {row.answered:>6,}",
                f"[{colour}]{curve(past, 20):>{cells}}[/]",
                Text("" if row.waiting is None else f"{row.waiting:>5,} waiting"),
            )
        return Group(Text(), table)


def story_line(line: StoryLine) -> Table:
    """A line of the story: when, who, what; log lines stand to its right. Long ones go on below their beginning."""
    is_act = line.kind == "act"
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=7, justify="right", style="bright_black", no_wrap=True)
    grid.add_column(width=8, style=colour_of(line.who), no_wrap=True)
    if is_act:
        grid.add_column(ratio=1)
        grid.add_row(f"{line.at_s:.1f} s", line.who, escape(line.what))
        return grid
    grid.add_column(width=3, justify="right", style="bright_black", no_wrap=True)
    grid.add_column(ratio=1, style="bright_yellow" if line.kind == "alarm" else "bright_black")
    grid.add_row("", "", "!" if line.kind == "alarm" else "│", escape(f"{line.who}: {line.what}"))
    return grid
