"""The fleet as it is shown: state over all nodes, filtered, sorted, paged; and an edge's timeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.core.fleet.facts import CONNECTED, EdgeFacts, full_in_s

NODE_SILENT_US: Final = 30 * 1_000_000
_DAY_US: Final = 86_400 * 1_000_000
NODE_LOST: Final = "node_lost"
SORTS: Final = ("id", "lag", "since", "progress", "full")


@dataclass(frozen=True, slots=True)
class SeenEdge:
    """A row: whose facts, which node has written them, and when."""

    origin_id: str
    node: str
    at_us: int
    facts: EdgeFacts


def state_of(edge: SeenEdge, nodes: Mapping[str, int], now_us: int) -> str:
    """``connected``, ``offline``, or ``node_lost``: it was connected to a node of which nothing came for 30 s."""
    if edge.facts.state == CONNECTED and now_us - nodes.get(edge.node, 0) > NODE_SILENT_US:
        return NODE_LOST
    return edge.facts.state


def shown(edge: SeenEdge, nodes: Mapping[str, int], now_us: int) -> dict[str, Any]:
    """An edge as JSON: times in ``…_us``, seconds in ``…_s``, sizes in ``…_bytes``."""
    facts = edge.facts
    full_s = full_in_s(facts, edge.at_us)
    return {
        "id": edge.origin_id,
        "state": state_of(edge, nodes, now_us),
        "node": edge.node,
        "since_us": facts.since_us,
        "last_progress_us": facts.progress_us,
        "head": facts.head,
        "received": facts.received,
        "stored": facts.stored,
        "lag_events": facts.lag,
        "lag_bytes": facts.lag_bytes,
        "lag_s": round(facts.lag_us / 1e6, 3),
        "last_end_code": facts.end_code,
        "last_end_reason": facts.end_reason,
        "connects": facts.connects,
        "version": facts.version,
        "clock_skew_s": facts.clock_skew_s,
        "used_bytes": facts.used_bytes,
        "cap_bytes": facts.cap_bytes,
        "free_bytes": facts.free_bytes,
        "certificate_days": round((facts.certificate_us - now_us) / _DAY_US, 1) if facts.certificate_us else None,
        "full_in_s": None if full_s is None else round(full_s),
        "as_of_us": edge.at_us,
    }


@dataclass(frozen=True, slots=True)
class FleetQuery:
    """What of the fleet is asked for. ``behind`` and ``offline`` narrow it, each by itself; ``after`` edges are left out."""

    behind: bool = False
    offline: bool = False
    sort: str = "id"
    after: int = 0
    most: int = 100


def page(
    edges: Sequence[SeenEdge], nodes: Mapping[str, int], query: FleetQuery, now_us: int
) -> tuple[list[dict[str, Any]], int]:
    """The rows of a page, and how many edges fit the query."""
    fitting = [
        edge
        for edge in edges
        if (not query.behind or edge.facts.lag > 0)
        and (not query.offline or state_of(edge, nodes, now_us) != CONNECTED)
    ]
    fitting.sort(key=_KEYS[query.sort])
    return [shown(edge, nodes, now_us) for edge in fitting[query.after : query.after + query.most]], len(fitting)


def totals(edges: Sequence[SeenEdge], nodes: Mapping[str, int], now_us: int) -> dict[str, int]:
    """The fleet in one line."""
    states = [state_of(edge, nodes, now_us) for edge in edges]
    return {
        "edges": len(edges),
        "connected": states.count(CONNECTED),
        "node_lost": states.count(NODE_LOST),
        "behind": sum(edge.facts.lag > 0 for edge in edges),
        "lag_events": sum(edge.facts.lag for edge in edges),
    }


def _full_key(edge: SeenEdge) -> tuple[float, str]:
    full_s = full_in_s(edge.facts, edge.at_us)
    return (float("inf") if full_s is None else full_s, edge.origin_id)


_KEYS: Final[Mapping[str, Callable[[SeenEdge], Any]]] = {
    "id": lambda edge: edge.origin_id,
    "lag": lambda edge: (-edge.facts.lag, edge.origin_id),
    "since": lambda edge: (-edge.facts.since_us, edge.origin_id),
    "progress": lambda edge: (edge.facts.progress_us, edge.origin_id),
    "full": _full_key,
}
