"""The demo's proof of the way down: what it finds wrong, and what it lets pass."""

from __future__ import annotations

from dataclasses import replace

from examples.demo.orders.proof import Delivered, Published, SiteAccount, examine_site, topic_of


def published(*steps: tuple[str, str]) -> list[Published]:
    """Events of orders, each (order, site), in log order."""
    numbers: dict[str, int] = {}
    log = []
    for position, (order, site) in enumerate(steps, 1):
        numbers[order] = numbers.get(order, 0) + 1
        content = f"{order} {numbers[order]}"
        log.append(Published(f"WorkOrder|{order}", numbers[order], content, frozenset({topic_of(site)}), position))
    return log


def row(order: str, seq_nr: int, *, leaving: bool = False, replaces: bool = False) -> Delivered:
    return Delivered(f"WorkOrder|{order}", seq_nr, f"{order} {seq_nr}", leaving, replaces)


# Order a moves from north to south, with its past; order b is done at south.
LOG = published(("a", "north"), ("b", "south"), ("a", "south"), ("a", "south"))
NORTH = SiteAccount("edge", ("north",), (), (row("a", 1), row("a", 2, leaving=True)))
SOUTH = SiteAccount("edge", ("south",), (), (row("b", 1), row("a", 1), row("a", 2), row("a", 3)))


def test_a_site_has_its_orders_and_the_event_by_which_one_leaves() -> None:
    assert examine_site(NORTH, LOG).problems == ()
    assert examine_site(SOUTH, LOG).problems == ()
    assert examine_site(NORTH, LOG).leaving == 1


def test_what_was_acknowledged_counts_before_what_the_inbox_holds() -> None:
    first, last = NORTH.in_inbox
    assert examine_site(replace(NORTH, acked=(first,), in_inbox=(last,)), LOG).problems == ()


def test_each_fault_is_counted_and_named() -> None:
    finding = examine_site(
        replace(SOUTH, in_inbox=(row("a", 3), row("a", 2), row("a", 3), row("a", 1), row("c", 1))), LOG
    )
    assert (finding.missing, finding.duplicates, finding.out_of_order, finding.foreign) == (1, 1, 2, 1)
    assert "WorkOrder|b:1" in finding.problems[0]


def test_an_order_that_enters_brings_its_past_or_a_snapshot_of_it() -> None:
    without = replace(SOUTH, in_inbox=(row("b", 1), row("a", 2), row("a", 3)))
    assert (examine_site(without, LOG).missing, examine_site(SOUTH, LOG).expected) == (1, 4)
    snapshot = replace(SOUTH, in_inbox=(row("b", 1), row("a", 1, replaces=True), row("a", 2), row("a", 3)))
    assert examine_site(snapshot, LOG).problems == ()
    later = replace(SOUTH, in_inbox=(row("b", 1), row("a", 2, replaces=True), row("a", 3)))
    finding = examine_site(later, LOG)
    assert (finding.problems, finding.expected, finding.replaced) == ((), 3, 1)
    # What follows the last event that belongs to the site does not come.
    assert examine_site(replace(NORTH, in_inbox=(*NORTH.in_inbox, row("a", 3))), LOG).foreign == 1


def test_content_and_the_mark_of_leaving_must_be_right() -> None:
    other = row("a", 1)._replace(content="another")
    assert examine_site(replace(NORTH, in_inbox=(other, row("a", 2))), LOG).foreign == 2


def test_from_snapshots_an_order_begins_with_its_snapshot() -> None:
    late = replace(SOUTH, snapshot_every=2, snapshots_through=3)
    with_snapshot = (row("a", 2, replaces=True), row("b", 1), row("a", 3))
    assert examine_site(replace(late, in_inbox=with_snapshot), LOG).problems == ()
    plain = replace(late, in_inbox=(row("b", 1), row("a", 2), row("a", 3)))
    assert examine_site(plain, LOG).foreign == 1, "a snapshot was to come in the event's place"
    # North's order had left before its snapshot: what it had may come, and need not.
    north = replace(NORTH, snapshot_every=2, snapshots_through=3)
    assert examine_site(north, LOG).problems == ()
    assert examine_site(replace(north, in_inbox=()), LOG).problems == ()
