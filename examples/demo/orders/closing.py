"""The closing tables of the way down: each edge's orders next to what the cloud published for its sites."""

from __future__ import annotations

from rich import box
from rich.table import Table

from examples.demo.figures import count, percentiles
from examples.demo.outcome import Orders
from examples.demo.show import colour_of


def draw_sites(orders: Orders) -> Table:
    """One row an edge."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=" Work orders, read from the inboxes, compared with the cloud's journal by order, number and content",
        pad_edge=False,
    )
    table.title_justify = "left"
    table.add_column(" edge", no_wrap=True)
    table.add_column("sites", no_wrap=True)
    for name in (
        "expected",
        "acknow-\nledged",
        "in its\ninbox",
        "missing",
        "dupli-\ncate",
        "out of\norder",
        "foreign",
        "left its\nsite",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for site in orders.sites:
        table.add_row(
            f" [{colour_of(site.edge_id)}]{site.edge_id}[/]",
            ", ".join(site.sites),
            f"{site.expected:,}",
            f"{site.acked:,}",
            f"{site.in_inbox:,}",
            *(count(number, "bold red") for number in (site.missing, site.duplicates, site.out_of_order, site.foreign)),
            f"{site.leaving:,}",
        )
    return table


def draw_order_facts(orders: Orders) -> Table:
    """What the acts did."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    a, b, c, late = orders.sites
    grid.add_row(" [blue]orders[/]", f"{orders.published:,} events published, {orders.moved:,} moves between sites")
    past = ", ".join(f"a snapshot of 1 to {number}" if is_one else str(number) for number, is_one in orders.travelled)
    grid.add_row(
        f" [{colour_of(b.edge_id)}]moved[/]", f"one order came from {a.edge_id}'s site with its history: {past}"
    )
    grid.add_row(
        f" [{colour_of(b.edge_id)}]widened[/]",
        f"SIGKILL after {orders.backfilled_at_kill:,} events, {orders.backfill_left_at_kill:,} positions before the "
        "backfill's end; it went on there",
    )
    grid.add_row(
        f" [{colour_of(c.edge_id)}]SIGSTOP[/]",
        f"{orders.stopped_s:.1f} s with a full socket; cloud's commit → program at {a.edge_id}:",
    )
    for name, time in (("before", orders.latency_calm), ("meanwhile", orders.latency_stopped)):
        grid.add_row("", f"{name:9}  {percentiles(time) if time else '-'}")
    grid.add_row(
        f" [{colour_of(late.edge_id)}]late[/]",
        f"began from {late.replaced:,} snapshots, in the place of all before them",
    )
    return grid
