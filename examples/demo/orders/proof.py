"""Did every site get its orders? The cloud's journal, filtered by hand, against what each edge's inbox holds. Pure.

The rule is the product's promise in its simplest form: an event belongs to a site when it, or its entity's event before
it, has one of the site's topics; the second alone is how a site learns that an order has left it. And an order comes whole:
up to the last event that belongs to the site, each number has come, or a snapshot that stands for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

_NAMED_MAX: Final = 5


def topic_of(site: str) -> str:
    """The tag that puts an order under its site's topic."""
    return f"t:site/{site}"


def content_of(payload: bytes) -> str:
    """What an event says, short enough to be kept."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


class Published(NamedTuple):
    """An order's event in the cloud's journal."""

    entity: str
    seq_nr: int
    content: str
    tags: frozenset[str]
    position: int


class Delivered(NamedTuple):
    """An order's event at an edge."""

    entity: str
    seq_nr: int
    content: str
    leaving: bool
    replaces: bool


Wanted = Mapping[tuple[str, int], Delivered]


@dataclass(frozen=True, slots=True)
class SiteAccount:
    """What an edge asked for and what it got, in order.

    ``snapshot_every`` is 0 unless it began from snapshots: those of the log up to position ``snapshots_through``.
    """

    edge_id: str
    sites: tuple[str, ...]
    acked: Sequence[Delivered]
    in_inbox: Sequence[Delivered]
    snapshot_every: int = 0
    snapshots_through: int = 0


@dataclass(frozen=True, slots=True)
class SiteFinding:
    """What the comparison says of one edge. It holds when ``problems`` is empty."""

    edge_id: str
    sites: tuple[str, ...]
    expected: int
    acked: int
    in_inbox: int
    missing: int
    duplicates: int
    out_of_order: int
    foreign: int
    leaving: int
    replaced: int
    problems: tuple[str, ...]


def wanted_by(published: Sequence[Published], sites: Collection[str]) -> dict[tuple[str, int], Delivered]:
    """Every event that belongs to the sites, in log order; ``published`` is the whole history of the orders."""
    topics = frozenset(map(topic_of, sites))
    before: dict[str, frozenset[str]] = {}
    wanted = {}
    for event in published:
        is_here, was_here = bool(event.tags & topics), bool(before.get(event.entity, frozenset()) & topics)
        before[event.entity] = event.tags
        if is_here or was_here:
            row = Delivered(event.entity, event.seq_nr, event.content, leaving=not is_here, replaces=False)
            wanted[event.entity, event.seq_nr] = row
    return wanted


def with_pasts(published: Iterable[Published], wanted: Wanted) -> dict[tuple[str, int], Delivered]:
    """``wanted`` and what comes before it: an order that enters a site brings what it was elsewhere."""
    last: dict[str, int] = {}
    for entity, seq_nr in wanted:
        last[entity] = max(seq_nr, last.get(entity, 0))
    return {
        (event.entity, event.seq_nr): wanted.get((event.entity, event.seq_nr))
        or Delivered(event.entity, event.seq_nr, event.content, leaving=False, replaces=False)
        for event in published
        if event.seq_nr <= last.get(event.entity, 0)
    }


def from_snapshots(
    whole: Wanted, published: Iterable[Published], sites: Collection[str], every: int, through: int
) -> tuple[dict[tuple[str, int], Delivered], set[tuple[str, int]]]:
    """What must come to an edge that begins from snapshots, and what else may.

    An order's snapshot is its last event up to position ``through`` whose number ``every`` divides. It stands for all up
    to its number; where it is another site's and nothing of this one follows, what came before may come, and need not.
    """
    topics = frozenset(map(topic_of, sites))
    covered: dict[str, Published] = {
        event.entity: event for event in published if event.position <= through and event.seq_nr % every == 0
    }
    must: dict[tuple[str, int], Delivered] = {}
    may = set()
    for key, row in whole.items():
        snapshot = covered.get(row.entity)
        if snapshot is None or row.seq_nr > snapshot.seq_nr:
            must[key] = row
        elif row.seq_nr == snapshot.seq_nr and snapshot.tags & topics:
            must[key] = row._replace(leaving=False, replaces=True)
        else:
            may.add(key)
    return must, may


def _is_as_published(row: Delivered, expected: Delivered | None) -> bool:
    """A snapshot may stand for the numbers up to its own; it is then the event of that number in its content."""
    if expected is None or row == expected:
        return expected is not None
    return row.replaces and row == expected._replace(leaving=row.leaving, replaces=True)


def examine_site(account: SiteAccount, published: Sequence[Published]) -> SiteFinding:
    """Compare one edge's orders with the cloud's journal, by (entity, number, content)."""
    wanted: Wanted = with_pasts(published, wanted_by(published, account.sites))
    may: set[tuple[str, int]] = set()
    if account.snapshot_every:
        wanted, may = from_snapshots(
            wanted, published, account.sites, account.snapshot_every, account.snapshots_through
        )
    seen: set[tuple[str, int]] = set()
    last: dict[str, int] = {}
    replaced: dict[str, int] = {}
    duplicates, out_of_order, foreign = [], [], []
    delivered = [*account.acked, *account.in_inbox]
    for row in delivered:
        key = row.entity, row.seq_nr
        if key in seen:
            duplicates.append(row)
            continue
        seen.add(key)
        if row.seq_nr < last.get(row.entity, 0):
            out_of_order.append(row)
        last[row.entity] = max(row.seq_nr, last.get(row.entity, 0))
        if key not in may and not _is_as_published(row, wanted.get(key)):
            foreign.append(row)
        elif row.replaces:
            replaced[row.entity] = max(row.seq_nr, replaced.get(row.entity, 0))
    lacking = [row for key, row in wanted.items() if key not in seen]
    missing = [row for row in lacking if row.seq_nr > replaced.get(row.entity, 0)]
    problems = [
        f"{account.edge_id}: {len(rows)} orders' events are {what}: {_named(rows)}"
        for what, rows in (
            ("missing", missing),
            ("delivered twice", duplicates),
            ("out of order", out_of_order),
            ("of another site, or not what the cloud published", foreign),
        )
        if rows
    ]
    return SiteFinding(
        edge_id=account.edge_id,
        sites=account.sites,
        expected=len(wanted) - len(lacking) + len(missing) + len(may & seen),
        acked=len(account.acked),
        in_inbox=len(account.in_inbox),
        missing=len(missing),
        duplicates=len(duplicates),
        out_of_order=len(out_of_order),
        foreign=len(foreign),
        leaving=sum(row.leaving for row in delivered),
        replaced=sum(row.replaces for row in delivered),
        problems=tuple(problems),
    )


def _named(rows: Sequence[Delivered]) -> str:
    more = f" and {len(rows) - _NAMED_MAX} more" if len(rows) > _NAMED_MAX else ""
    return ", ".join(f"{row.entity}:{row.seq_nr}" for row in rows[:_NAMED_MAX]) + more
