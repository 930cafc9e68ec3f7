"""Pure: what the stores hold, compared with what must be there. No service has a word in it.

The overview must be what a fold of the edges' journals gives; a site's queue must hold the orders of the site's topic, each
as it was registered, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from examples.drones.drone import CellEntered, PositionReported
from examples.drones.queue import Delivery
from examples.drones.restaurant import DeliveryRegistered


@dataclass(frozen=True, slots=True)
class Stored:
    """An event of a journal, read."""

    entity_type: str
    entity_id: str
    value: object
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SiteStore:
    """What an edge's file holds."""

    events: Sequence[Stored]
    queue: Mapping[str, Delivery]


@dataclass(frozen=True, slots=True)
class CloudStore:
    """What the cloud's journal and its overview hold."""

    events: Sequence[Stored]
    overview: Mapping[str, tuple[str, int]]
    parked: int = 0


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """One line of the closing table."""

    site: str
    reports: int
    fine_events: int
    coarse_events: int
    in_overview: int
    drones: int
    ordered: int
    queued: int
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    different: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """The comparison, and what does not hold."""

    sites: tuple[SiteFacts, ...]
    problems: tuple[str, ...] = field(default=())


def fold(events: Iterable[Stored]) -> dict[str, tuple[str, int]]:
    """Drones by id, each with its cell and how often it entered one: what the overview must show."""
    found: dict[str, tuple[str, int]] = {}
    for event in events:
        if isinstance(event.value, CellEntered):
            found[event.entity_id] = (event.value.cell, found.get(event.entity_id, ("", 0))[1] + 1)
    return found


def of_topic(events: Iterable[Stored], site: str) -> dict[str, Delivery]:
    """The deliveries that were published for a site."""
    return {
        event.value.delivery_id: Delivery(event.entity_id, event.value.pick_up, event.value.to)
        for event in events
        if isinstance(event.value, DeliveryRegistered) and f"t:site/{site}" in event.tags
    }


def compare(
    cloud: CloudStore,
    sites: Mapping[str, SiteStore],
    reports: Mapping[str, int],
    ordered: Mapping[str, Mapping[str, str]],
) -> Facts:
    """``reports`` and ``ordered`` are what was answered for, by site."""
    lines, problems = [], []
    expected: dict[str, tuple[str, int]] = {}
    for site, store in sites.items():
        drones = fold(store.events)
        expected |= drones
        line = _line(site, store, cloud, drones, reports[site])
        lines.append(line)
        if line.fine_events != line.reports:
            problems.append(f"{site}: {line.reports} reports were answered for, {line.fine_events} are in the journal")
        if set(of_topic(cloud.events, site)) != set(ordered[site]):
            problems.append(f"{site}: the orders of its topic are not those that were answered for")
        if line.missing or line.foreign or line.different:
            problems.append(f"{site}: its queue is not the orders of its topic")
    if dict(cloud.overview) != expected:
        wrong = sorted(
            name for name in expected.keys() | cloud.overview if cloud.overview.get(name) != expected.get(name)
        )
        problems.append(f"the overview is not the fold of the edges' journals: {', '.join(wrong)}")
    stray = sorted(
        {type(event.value).__name__ for event in cloud.events if event.entity_type != "Restaurant"} - {"CellEntered"}
    )
    if stray:
        problems.append(f"the cloud has what no site may tell it: {', '.join(stray)}")
    if cloud.parked:
        problems.append(f"{cloud.parked} events are parked")
    return Facts(tuple(lines), tuple(problems))


def _line(
    site: str, store: SiteStore, cloud: CloudStore, drones: Mapping[str, tuple[str, int]], reports: int
) -> SiteFacts:
    topic = of_topic(cloud.events, site)
    return SiteFacts(
        site=site,
        reports=reports,
        fine_events=sum(isinstance(event.value, PositionReported) for event in store.events),
        coarse_events=sum(changes for _, changes in drones.values()),
        in_overview=sum(changes for name, (_, changes) in cloud.overview.items() if name.startswith(f"{site}/")),
        drones=len(drones),
        ordered=len(topic),
        queued=len(store.queue),
        missing=tuple(sorted(topic.keys() - store.queue)),
        foreign=tuple(sorted(store.queue.keys() - topic)),
        different=tuple(sorted(name for name in topic.keys() & store.queue if topic[name] != store.queue[name])),
    )
