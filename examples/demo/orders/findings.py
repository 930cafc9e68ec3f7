"""From the stores to what is said of the way down. An act that did not show what it should is a problem, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.demo.orders.orders import (
    ARCHIVED_SITE,
    ORDER_TYPE,
    SNAPSHOT_EVERY,
    TRAVELLED_STEPS,
    TRAVELLER,
    Dispatcher,
    SiteProgram,
)
from examples.demo.orders.proof import Delivered, Published, SiteAccount, SiteFinding, examine_site
from examples.demo.orders.script import OrderActs
from examples.demo.outcome import Orders
from examples.demo.script import Edge
from examples.demo.timing import latency


@dataclass(frozen=True, slots=True)
class Down:
    """Who took part in the way down beside the three edges, and what was done. ``site_of`` maps edge to site."""

    dispatcher: Dispatcher
    acts: OrderActs
    site_of: Mapping[str, str]
    late_program: SiteProgram
    late_journal: str


def compare_orders(
    down: Down, edges: Sequence[Edge], published: Sequence[Published], inboxes: Mapping[str, Sequence[Delivered]]
) -> tuple[Orders, list[str]]:
    """The three ``edges`` are in the order of the acts: the first is left alone, the second widened, the third stopped."""
    acts, (a, b, c) = down.acts, edges
    accounts = [
        SiteAccount(a.id, (down.site_of[a.id],), a.program.acked, inboxes[a.id]),
        SiteAccount(b.id, (down.site_of[b.id], ARCHIVED_SITE), b.program.acked, inboxes[b.id]),
        SiteAccount(c.id, (down.site_of[c.id],), c.program.acked, inboxes[c.id]),
    ]
    late = down.late_program
    accounts.append(
        SiteAccount(
            late.edge_id,
            (down.site_of[late.edge_id],),
            late.acked,
            inboxes[late.edge_id],
            SNAPSHOT_EVERY,
            acts.late_from,
        )
    )
    findings = tuple(examine_site(account, published) for account in accounts)
    problems = [problem for finding in findings for problem in finding.problems]
    problems += _showed_too_little(down, findings, c)
    orders = Orders(
        sites=findings,
        published=len(published),
        moved=down.dispatcher.moved,
        backfilled_at_kill=acts.backfilled_at_kill,
        backfill_left_at_kill=acts.backfill_left_at_kill,
        stopped_s=(acts.resumed_us - acts.stopped_us) / 1e6,
        latency_calm=latency(list(a.program.waits_between(acts.calm_from_us, acts.stopped_us))),
        latency_stopped=latency(list(a.program.waits_between(acts.stopped_us, acts.resumed_us))),
        travelled=travelled([*b.program.acked, *inboxes[b.id]]),
    )
    problems += _travel_problems(orders.travelled, a, b)
    if orders.latency_stopped is None:
        problems.append(f"{a.id} got nothing while {c.id} was stopped")
    return orders, problems


def travelled(rows: Sequence[Delivered]) -> tuple[tuple[int, bool], ...]:
    """What a site got of the order that moved to it."""
    return tuple((row.seq_nr, row.replaces) for row in rows if row.entity == f"{ORDER_TYPE}|{TRAVELLER}")


def _travel_problems(rows: Sequence[tuple[int, bool]], origin: Edge, target: Edge) -> list[str]:
    """The order must have come whole, and have been seen to leave."""
    numbers = [number for number, _ in rows]
    begins_whole = bool(rows) and (rows[0][1] or numbers[0] == 1)
    problems = []
    if not begins_whole or numbers != list(range(numbers[0], TRAVELLED_STEPS + 1)):
        problems.append(f"the order {TRAVELLER} came to {target.id} without its history: {numbers}")
    left = [row for row in origin.program.acked if row.entity == f"{ORDER_TYPE}|{TRAVELLER}" and row.leaving]
    if [row.seq_nr for row in left] != [TRAVELLED_STEPS]:
        problems.append(f"{origin.id} did not see the order {TRAVELLER} leave")
    return problems


def _showed_too_little(down: Down, findings: Sequence[SiteFinding], stopped: Edge) -> list[str]:
    *_, late = findings
    shown = {
        "no order left a site": any(finding.leaving for finding in findings),
        "the widened edge was not killed in mid-backfill": down.acts.backfill_left_at_kill > 0,
        f"{late.edge_id} began from no snapshot": late.replaced > 0,
        f"{stopped.id} was not sent anything while it was stopped": stopped.program.read > down.acts.read_at_stop,
    }
    return [f"{problem}: the demo showed less than it should" for problem, is_shown in shown.items() if not is_shown]
