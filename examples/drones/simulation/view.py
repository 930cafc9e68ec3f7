"""What is seen meanwhile: a map of each town in the terminal, or a line now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.drones.places import Position
from examples.drones.simulation.proof import Facts
from examples.drones.simulation.town import HEIGHT, WIDTH, Town

_PLAIN_EVERY = 10


@dataclass(frozen=True, slots=True)
class TownNow:
    """A town as it is, and as the cloud believes it to be."""

    town: Town
    is_up: bool
    positions: Mapping[str, Position]
    overview: Mapping[str, str]
    reports: int
    ordered: int
    queued: int

    @property
    def outdated(self) -> int:
        """Drones that the cloud's map shows in an old place, or not at all."""
        return sum(self.overview.get(drone) != position.cell for drone, position in self.positions.items())

    @property
    def summary(self) -> str:
        """The town in a line: what the cloud knows of it, and what it has of the cloud."""
        drones = len(self.positions)
        return (
            f"{self.reports:,} reports; the cloud's map is right for {drones - self.outdated} of {drones} drones;"
            f" {self.queued} of {self.ordered} orders have come"
        )


class View(Protocol):
    """Where the story is printed."""

    def tell(self, at_s: float, what: str) -> None: ...

    def show(self, towns: Sequence[TownNow]) -> None: ...


class SilentView:
    """Nothing: standard output belongs to the JSON."""

    def tell(self, at_s: float, what: str) -> None:
        pass

    def show(self, towns: Sequence[TownNow]) -> None:
        pass


class PlainView:
    """Lines, and now and then one about each town."""

    def __init__(self) -> None:
        self._shown = 0

    def tell(self, at_s: float, what: str) -> None:
        print(f"{at_s:5.1f} s  {what}", flush=True)

    def show(self, towns: Sequence[TownNow]) -> None:
        self._shown += 1
        if self._shown % _PLAIN_EVERY == 0:
            for now in towns:
                print(f"{'':9}│ {now.town.site}{'' if now.is_up else ' (line down)'}: {now.summary}", flush=True)


class MapView(AbstractContextManager["MapView"]):
    """Both maps, side by side, below the story."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._open = ExitStack()

    def __enter__(self) -> MapView:
        self._open.enter_context(self._live)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def tell(self, at_s: float, what: str) -> None:
        self._console.print(f"[bright_black]{at_s:5.1f} s[/]  {what}", highlight=False)

    def show(self, towns: Sequence[TownNow]) -> None:
        legend = Text("● a drone   ○ where the cloud has it   ◉ both", style="bright_black")
        self._live.update(Group(Columns([town_map(now) for now in towns]), legend), refresh=True)


def town_map(now: TownNow) -> RenderableType:
    """A town's cells with its drones, as they are and as the cloud has them."""
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    for cell in now.overview.values():
        cells[now.town.row_and_column(cell)] = ("○", "bright_black")
    for drone, position in now.positions.items():
        same = now.overview.get(drone) == position.cell
        cells[now.town.row_and_column(position.cell)] = ("◉", "green") if same else ("●", "yellow")
    drawn = Text()
    for row in reversed(range(HEIGHT)):
        for column in range(WIDTH):
            drawn.append(*cells.get((row, column), ("·", "grey23")))
            drawn.append(" ")
        drawn.append("\n")
    drawn.append(f"{now.reports:,} reports   {now.queued} of {now.ordered} orders have come")
    title = f"{now.town.site}{'' if now.is_up else ': the line is down'}"
    return Panel(drawn, title=title, border_style="cyan" if now.is_up else "red", expand=False)


def draw(console: Console, facts: Facts, seconds: float) -> None:
    """The closing table."""
    table = Table(title="Read from the stores, with every service stopped", title_justify="left")
    for name in (
        "site",
        "reports",
        "positions in its journal",
        "changes of cell",
        "of them on the cloud's map",
        "orders for it",
        "in its queue",
    ):
        table.add_column(name, justify="left" if name == "site" else "right")
    table.add_column("missing / foreign", justify="right")
    for line in facts.sites:
        numbers = (line.reports, line.fine_events, line.coarse_events, line.in_overview, line.ordered, line.queued)
        table.add_row(line.site, *(f"{number:,}" for number in numbers), f"{len(line.missing)} / {len(line.foreign)}")
    console.print(table)
    for problem in facts.problems:
        console.print(f"[red]✗ {problem}[/]", highlight=False)
    if not facts.problems:
        console.print(
            f"[green]✔ It holds[/] ({seconds:.0f} s). The cloud's map is what the sites' journals say of"
            f" {sum(line.drones for line in facts.sites)} drones; each site has its own orders and no other site's:"
            f" {sum(line.queued for line in facts.sites):,} of {sum(line.ordered for line in facts.sites):,}.",
            highlight=False,
        )
