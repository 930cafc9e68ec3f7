"""What a seed decides about the way down: who follows which stream from when, with which filters, and how tight it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, Final

from common.core.filters.past import Past
from tests.simulation.down.orders_folded import FoldPlan, draw_fold_plan
from tests.simulation.facts import CLOUD
from tests.support.builders import START_US

ORDERS: Final = "orders"
SENSORS: Final = "sensors"
ORDER_TYPE: Final = "Order"
STREAM_TYPES: Final = {ORDERS: frozenset({ORDER_TYPE}), SENSORS: frozenset({"Sensor", "Plain"})}
ENFORCED: Final = {ORDERS: '[{"exclude_all":true},{"include_topics":["for/{id}","for/all"]}]', SENSORS: "[]"}
"""What a consumer may see of the cloud's streams: of orders its own and everybody's."""
EDGE_STREAM: Final = "Sensor"
"""The stream by which edges follow each other: an entity type, of which an edge serves all."""
ORDERS_MAX: Final = 5
SITES: Final = 3


@cache
def policy_file() -> Path:
    """The cloud's policy: edges write below their own prefix, and read what ``ENFORCED`` lets them."""
    read = ", ".join(f"{{stream = '{stream}', filter = '{criteria}'}}" for stream, criteria in ENFORCED.items())
    path = Path(mkdtemp()) / "policy.toml"
    path.write_text(f"[[rule]]\nwho = '*'\nwrite = '*|{{id}}/*'\nread = [{read}]\n")
    return path


@dataclass(frozen=True, slots=True)
class FollowedStream:
    """A subscription of an edge; a late one begins with the first process that starts after ``from_s``."""

    edge: str
    name: str
    stream: str
    source: str
    """The cloud, or the edge whose stream it is."""
    from_s: float
    criteria: str
    is_changing: bool
    """Whether its filter is changed at random."""
    past: Past
    """What an entity that enters the filter brings."""


@dataclass(frozen=True, slots=True)
class DownPlan:
    """Bounds, times (seconds; means where something is random) and who follows what."""

    subscriptions: tuple[FollowedStream, ...]
    publishers: int
    publish_s: float
    move_chance: float
    """How often an order's next event has other tags than its last."""
    change_s: float
    snapshot_s: float
    """Between two snapshots that a program takes; 0 = none does."""
    snapshot_every: int
    """N of the built-in rule; 0 = it is off."""
    retention_age_s: float | None
    start_from: str
    """As the setting: log, snapshots, now, or an order time."""
    snapshots_if_behind: int
    ack_s: float
    inbox_max_bytes: int
    ring_max_events: int
    pending_max: int
    block_events: int
    deleted_max: int
    fold: FoldPlan | None
    """The cloud's projection that takes snapshots, if it has one."""


def draw_down_plan(seed: int, edges: tuple[str, ...], faults_s: float) -> DownPlan | None:
    """The way down's part of a seed's plan; half of the seeds have none."""
    chance, pasts = Random(f"down {seed}"), Random(f"pasts {seed}")
    if chance.random() < 0.5:
        return None
    subscriptions: list[FollowedStream] = []
    for edge in edges:
        others = [other for other in edges if other != edge]
        wanted = [("orders", ORDERS, CLOUD)]
        if chance.random() < 0.4:
            wanted.append(("late", ORDERS, CLOUD))
        if chance.random() < 0.4:
            wanted.append(("sensors", SENSORS, CLOUD))
        if others and chance.random() < 0.5:
            wanted.append(("neighbour", EDGE_STREAM, chance.choice(others)))
        for name, stream, source in wanted:
            is_late = name == "late" or chance.random() < 0.15
            from_s = round(chance.uniform(faults_s / 3, faults_s), 3) if is_late else 0.0
            criteria = draw_criteria(chance, edges) if chance.random() < 0.7 else "[]"
            is_changing = chance.random() < 0.7
            past = pasts.choice((Past.SNAPSHOT, Past.SNAPSHOT, Past.FULL, Past.NONE))
            subscriptions.append(FollowedStream(edge, name, stream, source, from_s, criteria, is_changing, past))
    return DownPlan(
        subscriptions=tuple(subscriptions),
        publishers=chance.randint(1, 2),
        publish_s=chance.choice((0.4, 0.8, 1.5)),
        move_chance=chance.choice((0.1, 0.4)),
        change_s=chance.choice((1.0, 4.0, 12.0)),
        snapshot_s=chance.choice((0.0, 1.0, 4.0)),
        snapshot_every=chance.choice((0, 0, 2, 5)),
        retention_age_s=chance.choice((None, None, 1.0, 5.0, 20.0)),
        start_from=_start_from(chance, seed, faults_s),
        snapshots_if_behind=chance.choice((0, 0, 0, 10)),
        ack_s=chance.choice((0.5, 2.0, 8.0)),
        inbox_max_bytes=chance.choice((4_096, 1_000_000, 1_000_000)),
        ring_max_events=chance.choice((3, 20, 100_000)),
        pending_max=chance.choice((2, 10, 8_192)),
        block_events=chance.choice((3, 20, 2_000)),
        deleted_max=chance.choice((1, 500)),
        fold=draw_fold_plan(seed, faults_s),
    )


def _start_from(chance: Random, seed: int, faults_s: float) -> str:
    start, beginning = "log" if chance.random() < 0.5 else "snapshots", Random(f"beginning {seed}")
    if beginning.random() >= 0.15:
        return start
    if beginning.random() < 0.6:
        return "now"
    at_us = START_US + round(beginning.uniform(0, faults_s) * 1e6)
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).isoformat()


def draw_criteria(chance: Random, edges: tuple[str, ...]) -> str:
    """A filter somebody may want."""
    none: dict[str, Any] = {"exclude_all": True}
    site, order = chance.randrange(SITES), chance.randrange(ORDERS_MAX)
    edge = chance.choice(edges)
    names = [f"o{order}", f"Sensor|{edge}/t{chance.randrange(4)}"]
    shapes: list[list[dict[str, Any]]] = [
        [],
        [none],
        [none, {"include_topics": [f"site/{site}/#"]}],
        [none, {"include_topics": [f"site/{site}/a", f"site/{(site + 1) % SITES}/b"]}],
        [none, {"include_topics": ["site/+/a"]}],
        [none, {"include_topics": [f"site/{site}/#", "for/all"]}],
        [none, {"include_tags": ["red"]}],
        [
            none,
            {
                "include_tags": ["red"],
            },
            {"include_ids": names},
        ],
        [none, {"include_ids": names}],
        [none, {"include_ids": [{"id": names[0], "from_seq_nr": chance.randint(2, 6)}]}],
        [none, {"include_regex": [f"o[{order}-9]", f"{edge}/.*"]}],
        [{"exclude_tags": ["red"]}],
        [{"exclude_ids": names}],
        [{"exclude_regex": [".*[02]"]}, {"include_topics": [f"site/{site}/+"]}],
    ]
    return json.dumps(chance.choice(shapes))
