"""From the stores to the outcome: every journal is read when everything is stopped, and compared with what was done.

A fault that did not happen as the script wants it is a problem too: a demo that shows nothing proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.runtime.environment import real_environment
from examples.demo.orders.findings import Down, compare_orders
from examples.demo.outcome import NodeMoves, Outcome, StoryLine, TallyLine
from examples.demo.proof import EdgeAccount, examine, tally_problems
from examples.demo.script import Acts, Edge
from examples.demo.series import ENTITY_TYPE, entity_of
from examples.demo.stores import CloudStore, EdgeStore, read_cloud, read_edge
from examples.demo.timing import lag_through, latency, waits
from examples.demo.wall import examine_wall


async def read_and_compare(
    cloud_journal: str,
    edges: Sequence[Edge],
    acts: Acts,
    down: Down,
    nodes: NodeMoves | None,
    *,
    story: Sequence[StoryLine],
    seconds: float,
    problems: Sequence[str],
) -> Outcome:
    """``problems`` are those found so far; the three ``edges`` are in the order of the acts."""
    async with real_environment() as environment:
        cloud = await read_cloud(environment, cloud_journal)
        files = {edge.id: await read_edge(environment, edge.journal) for edge in edges}
        files[down.late_program.edge_id] = await read_edge(environment, down.late_journal)
    a, b, c = edges
    accounts = [_account(edge, acts if edge is c else Acts(), files, cloud) for edge in edges]
    findings = [examine(account) for account in accounts]
    entities = {entity for account in accounts for entity in account.given.values()}
    of_tally = tally_problems(cloud.folded, cloud.tally, entities | {order.entity for order in cloud.orders})
    orders, of_orders = compare_orders(down, edges, cloud.orders, {name: store.inbox for name, store in files.items()})
    wall = examine_wall(a.id, files[a.id].walled, cloud.walled)
    of_edges = [problem for finding in findings for problem in finding.problems]
    found = [*problems, *of_edges, *of_tally, *of_orders, *wall.problems]
    strangers = len(cloud.events) - sum(finding.in_cloud for finding in findings)
    if strangers:
        found.append(f"the cloud holds {strangers} events of no edge")
    if cloud.parked:
        found.append(f"the cloud parked {cloud.parked} events")
    for act, is_done in (("unacked", acts.killed_unacked), ("in flight", acts.killed_in_flight)):
        if not is_done:
            found.append(f"{b.id} was killed with nothing {act}: the demo showed less than it should")
    if not acts.unacked_at_loss:
        found.append(f"{c.id} lost its disk with nothing un-acked on it: the demo showed less than it should")
    pairs = {account.edge_id: waits(account.in_file, account.in_cloud) for account in accounts}
    cut = lag_through(pairs[a.id], acts.cut_began_us, acts.cut_ended_us)
    if cut is None:
        found.append(f"{a.id} stored nothing while its line was dark: the demo showed less than it should")
    return Outcome(
        edges=tuple(findings),
        latencies={edge_id: latency(stored) for edge_id, stored in pairs.items()},
        latency_of_all=latency([pair for stored in pairs.values() for pair in stored]),
        cut=cut,
        killed_unacked=acts.killed_unacked,
        killed_in_flight={key: b.feed.repeated.get(key) for key in sorted(acts.killed_in_flight)},
        acked_at_loss=acts.acked_at_loss,
        tally=tuple(
            TallyLine(entity, tally.events, tally.checksum, tally.out_of_order, cloud.tally.get(entity) == tally)
            for entity, tally in sorted(cloud.folded.items())
            if entity in entities
        ),
        cloud_events=len(cloud.events),
        orders=orders,
        wall=wall,
        nodes=nodes,
        seconds=round(seconds, 3),
        story=tuple(story),
        problems=tuple(found),
    )


def _account(edge: Edge, acts: Acts, files: Mapping[str, EdgeStore], cloud: CloudStore) -> EdgeAccount:
    prefix = f"{ENTITY_TYPE}|{edge.id}/"
    return EdgeAccount(
        edge_id=edge.id,
        given={reading: entity_of(edge.id, series) for series in edge.feed.series for reading in series.readings},
        answered=edge.feed.answered,
        in_file=files[edge.id].events,
        in_cloud=[event for event in cloud.events if event.entity.startswith(prefix)],
        on_lost_disk=acts.on_lost_disk,
        unacked_at_loss=acts.unacked_at_loss,
    )
