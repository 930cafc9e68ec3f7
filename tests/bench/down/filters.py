"""Filters: what finding the subscribers of an event costs, in this process alone and without any I/O.

A thousand subscribers ask for one topic each of a thousand. The index is compared, turn by turn, with one subscriber's
filter matched against the same batch, and with asking all thousand; then a thousand ask by one expression of their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median

from common.core.events.batch import EventBatch, new_events
from common.core.filters.index import FilterIndex
from common.core.filters.permission import match_batch
from common.core.filters.predicates import Filter, parse_filter
from tests.bench.place import Place
from tests.bench.table import Table

_SUBSCRIBERS = 1_000
_EVALUATIONS_TARGET = 3.0
_COST_TARGET = 3.0
_TURNS = 9
_SEED = 1


def _topic_of(number: int) -> Filter:
    return parse_filter(f'[{{"exclude_all":true}},{{"include_topics":["site/{number}/#"]}}]')


def _expression_of(number: int) -> Filter:
    return parse_filter(f'[{{"exclude_all":true}},{{"include_regex":["line-{number}-.*"]}}]')


def _events(count: int) -> EventBatch:
    """Each of a site; one in twenty moves its entity from another."""
    chance = random.Random(_SEED)
    sites = [chance.randrange(_SUBSCRIBERS) for _ in range(count)]
    batch = new_events(
        [f"Door|line-{site}-{index % 10}" for index, site in enumerate(sites)],
        ["opened"] * count,
        [b"{}"] * count,
        tags=[f"t:site/{site}/door" for site in sites],
    )
    if hasattr(batch, "prev_tags"):
        batch.prev_tags = [
            f"t:site/{chance.randrange(_SUBSCRIBERS)}/door" if chance.random() < 0.05 else "" for _ in range(count)
        ]
    return batch


def _us_an_event(work: Callable[[], object], events: int) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / events * 1e6


async def run(place: Place) -> list[Table]:
    """Topics, then expressions."""
    events = _events(place.sized(10_000, 1_000))
    return [_topics(events), _expressions(events)]


def _topics(events: EventBatch) -> Table:
    table = Table(f"filters: {_SUBSCRIBERS:,} subscribers, a topic each, {len(events):,} events")
    subscribers = [_topic_of(number) for number in range(_SUBSCRIBERS)]
    index: FilterIndex[int] = FilterIndex()
    for number, subscriber in enumerate(subscribers):
        index.add(number, subscriber)
    index.match(events)
    evaluations = index.evaluations / len(events)
    pairs = [
        (
            _us_an_event(lambda: index.match(events), len(events)),
            _us_an_event(lambda: match_batch(subscribers[0], events), len(events)),
        )
        for _ in range(_TURNS)
    ]
    few = events.slice(0, 100)
    everyone = _us_an_event(lambda: [match_batch(subscriber, few) for subscriber in subscribers], len(few))
    ratio = median(found / one for found, one in pairs)
    table.judge(
        "evaluations an event",
        f"{evaluations:.2f}",
        f"at most {_EVALUATIONS_TARGET:g}",
        evaluations <= _EVALUATIONS_TARGET,
    )
    table.add("one filter, an event", f"{median(one for _, one in pairs):.2f} us")
    table.judge(
        "the index, an event",
        f"{median(found for found, _ in pairs):.2f} us, {ratio:.1f} of one",
        f"at most {_COST_TARGET:g} of one",
        ratio <= _COST_TARGET,
    )
    table.add("asking everyone, an event", f"{everyone:,.0f} us")
    return table


def _expressions(events: EventBatch) -> Table:
    few = events.slice(0, 200)
    table = Table(f"filters: {_SUBSCRIBERS:,} subscribers, an expression each, {len(few):,} events")
    index: FilterIndex[int] = FilterIndex()
    for number in range(_SUBSCRIBERS):
        index.add(number, _expression_of(number))
    first = _us_an_event(lambda: index.match(few), len(few))
    again = median(_us_an_event(lambda: index.match(few), len(few)) for _ in range(_TURNS // 2))
    table.add("entities seen for the first time, an event and subscriber", f"{first / _SUBSCRIBERS:.2f} us")
    table.add("entities decided before, an event and subscriber", f"{again / _SUBSCRIBERS:.2f} us")
    return table
