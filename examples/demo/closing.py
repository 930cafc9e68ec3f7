"""The closing tables: what the stores hold, next to what was put in."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.demo.figures import count, ms, percentiles
from examples.demo.orders.closing import draw_order_facts, draw_sites
from examples.demo.outcome import Outcome
from examples.demo.proof import named
from examples.demo.show import colour_of, curve

_NARROW: Final = 96


def draw(console: Console, outcome: Outcome) -> None:
    """All tables, and the verdict."""
    console.print()
    console.print(_edges(outcome, is_narrow=console.width < _NARROW))
    console.print(_facts(outcome))
    console.print()
    console.print(draw_sites(outcome.orders))
    console.print(draw_order_facts(outcome.orders))
    if outcome.holds:
        console.print(f"\n [bold green]✔ It holds[/] ({outcome.seconds:.0f} s). {outcome.account}\n", highlight=False)
        return
    console.print(f"\n [bold red]✘ It does not hold.[/] {outcome.seconds:.0f} s.")
    problems = Table.grid(padding=(0, 1, 0, 0))
    for problem in outcome.problems:
        problems.add_row("  [red]•[/]", escape(problem))
    console.print(problems)
    console.print()


def _edges(outcome: Outcome, *, is_narrow: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=" Read from the journals, compared by file, row and content",
        pad_edge=False,
        padding=(0, 0 if is_narrow else 1, 0, 0),
    )
    table.title_justify = "left"
    table.add_column(" edge", no_wrap=True)
    for name in ("input", "appended", "on its\ndisk", "in the\ncloud", "missing", "dupli-\ncate", "out of\norder"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for edge in outcome.edges:
        time = outcome.latencies[edge.edge_id]
        excused = set(edge.missing) <= set(edge.lost_with_disk)
        table.add_row(
            f" [{colour_of(edge.edge_id)}]{edge.edge_id}[/]",
            f"{edge.given:,}",
            f"{edge.appended:,}",
            f"{edge.in_file:,}",
            f"{edge.in_cloud:,}",
            count(len(edge.missing), "yellow" if excused else "bold red"),
            count(edge.duplicates, "bold red"),
            count(edge.out_of_order, "bold red"),
            ms(time.p50_s if time else None),
            ms(time.p99_s if time else None),
        )
    return table


def _facts(outcome: Outcome) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    a, b, c = outcome.edges
    grid.add_row(f" [{colour_of(a.edge_id)}]line cut[/]", _cut(outcome))
    found = list(outcome.killed_in_flight.values())
    grid.add_row(
        f" [{colour_of(b.edge_id)}]SIGKILL[/]",
        f"{outcome.killed_unacked:,} events un-acked and {_posts(len(outcome.killed_in_flight))} in flight; repeated by "
        f"key: {found.count(True)} had been stored, {found.count(False)} had not",
    )
    lost = len(c.lost_with_disk)
    acked_missing = len(c.missing) - lost
    acked = f"{acked_missing:,} of them are not in the cloud" if acked_missing else "all of them are in the cloud"
    grid.add_row(
        f" [{colour_of(c.edge_id)}]lost disk[/]",
        f"{outcome.acked_at_loss:,} events were acked by then, {acked}; of {c.unacked_at_loss:,} that were not, {lost:,} are "
        "gone" + (f": {escape(named(c.lost_with_disk, 12))}" if lost else ""),
    )
    equal = sum(line.is_equal for line in outcome.tally)
    events = sum(line.events for line in outcome.tally)
    is_equal = equal == len(outcome.tally)
    grid.add_row(
        " [blue]tally[/]",
        f"the table of {len(outcome.tally)} entities "
        + (f"equals a fold of the journal: {events:,} events" if is_equal else f"equals a fold in {equal} only"),
    )
    wall = outcome.wall
    grid.add_row(
        f" [{colour_of(wall.edge_id)}]wall[/]",
        f"{wall.at_edge} events of a shift on {wall.edge_id}'s disk; in the cloud {wall.in_cloud} of them, and {wall.marks} mark "
        "without payload or tags for the one that must not leave",
    )
    if outcome.nodes:
        moves = outcome.nodes
        grid.add_row(
            " [blue]nodes[/]",
            f"SIGKILL of {moves.node} with {moves.had} of {moves.ranges} ranges; the others had them in {moves.moved_s:.1f} s, "
            f"it had {moves.has} again {moves.returned_s:.1f} s after its return",
        )
    if outcome.latency_of_all:
        grid.add_row(" [bold]latency[/]", f"edge's commit → cloud's, all: {percentiles(outcome.latency_of_all)}")
    return grid


def _posts(count: int) -> str:
    return f"{count} POST{'' if count == 1 else 's'}"


def _cut(outcome: Outcome) -> str:
    cut = outcome.cut
    if cut is None:
        return "nothing was stored meanwhile"
    return (
        f"{cut.dark_s:.1f} s dark: up to {cut.most_events:,} events behind, the oldest by {cut.longest_s:.1f} s; "
        f"caught up {cut.caught_up_s:.1f} s after it was back\n[{colour_of(outcome.edges[0].edge_id)}]{curve(cut.curve)}[/]"
    )
