"""What the stores hold when every service has stopped, read with the product's own interface."""

from __future__ import annotations

from common.core.events.batch import split_tags
from common.core.events.types import EventTypes
from common.core.journal.url import parse_journal_url
from common.journal.stores.journal import Journal
from common.runtime.environment import Environment
from examples.drones import overview
from examples.drones.drone import Drones
from examples.drones.queue import Deliveries, Delivery
from examples.drones.restaurant import Restaurants
from examples.drones.simulation.proof import CloudStore, SiteStore, Stored

_TYPES = EventTypes([*Drones.event_types, *Restaurants.event_types, Deliveries.value_type])
_PAGE_EVENTS = 2_000
_PAGE_BYTES = 4 * 1024 * 1024


async def read_site(environment: Environment, path: str) -> SiteStore:
    """An edge's file."""
    async with environment.open_journal(parse_journal_url(path), max_bytes=None, notified=False) as journal:
        rows = await journal.projections.query(
            "SELECT persistence_id, value_type, codec, payload, metadata FROM state_delivery"
        )
        found = {name.rpartition("/")[2]: _TYPES.decode(*value) for name, *value in rows}
        queue = {name: value for name, value in found.items() if isinstance(value, Delivery)}
        return SiteStore(await _events(journal), queue)


async def read_cloud(environment: Environment, path: str) -> CloudStore:
    """The cloud's journal and its overview."""
    async with environment.open_journal(parse_journal_url(path), max_bytes=None, notified=False) as journal:
        rows = await journal.projections.query(overview.ROWS)
        shown = {drone: (cell, changes) for drone, cell, changes in rows}
        return CloudStore(await _events(journal), shown, (await journal.log.stats()).parked)


async def _events(journal: Journal) -> list[Stored]:
    found: list[Stored] = []
    after = 0
    while (page := await journal.log.read(after, max_events=_PAGE_EVENTS, max_bytes=_PAGE_BYTES)).through > after:
        events, after = page.events, page.through
        values = _TYPES.decode_all(events)
        for name, tags, value in zip(events.persistence_id, events.tags, values, strict=True):
            entity_type, _, entity_id = name.partition("|")
            found.append(Stored(entity_type, entity_id, value, split_tags(tags)))
    return found
