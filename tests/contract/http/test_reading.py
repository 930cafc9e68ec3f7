"""`GET /v1/events` with conditions gives, on every storage, what a look through the whole log would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from common.core.events.batch import Envelope
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.runtime.http.app import HttpApp
from common.runtime.http.events import reading
from common.runtime.http.journal import read_routes
from common.testing.http_in_memory import http_request
from tests.contract.journals import Storage
from tests.support.builders import appended, local, whole_log

NAMES = ("Sensor|a", "Alarm|a", "Sensor|b", "Sensors|a", "Alarm|b")
TAGS = ("", "t:site/7/a", "hot", "t:site/7\x1fhot", "t:site/70", "t:$SYS/x")


async def filled(storage: Storage, journal: Journal) -> list[Envelope]:
    """120 events of five entities in groups, a second of the clock apart; the oldest 7 were trimmed."""
    for number in range(40):
        names = [NAMES[(number * step) % len(NAMES)] for step in (1, 2, 3)]
        await appended(journal, local(*names, tags=[TAGS[(number + shift) % len(TAGS)] for shift in range(3)]))
        storage.clock.advance(1.0)
    await journal.log.trim(TrimLimit(through=7, max_events=100))
    return list((await whole_log(journal)).envelopes())


async def ask(journal: Journal, **query: str | int) -> tuple[int, dict[str, Any]]:
    app = HttpApp(read_routes(journal), body_max_bytes=10_000)
    answer = await http_request(app, "GET", f"/v1/events?{urlencode(query)}")
    return answer.status, answer.json()


async def positions(journal: Journal, **query: str | int) -> list[int]:
    """All pages of a query, as a reader goes through them."""
    found: list[int] = []
    status, page = await ask(journal, max=7, **query)
    while True:
        assert status == 200, page
        found += [event["position"] for event in page["events"]]
        if page["through"] >= page["end"]:
            return found
        query.pop("last", None)
        status, page = await ask(journal, max=7, **{**query, "after": page["through"]})


def expected(log: list[Envelope], query: Mapping[str, str | int]) -> Iterator[int]:
    for event in log:
        topics = [tag[2:] for tag in event.tags if tag.startswith("t:")]
        matching = {
            "site/7/#": lambda topic: topic == "site/7" or topic.startswith("site/7/"),
            "#": lambda topic: not topic.startswith("$"),
            "site/70": lambda topic: topic == "site/70",
        }
        if "topic" in query and not any(map(matching[str(query["topic"])], topics)):
            continue
        if "tag" in query and query["tag"] not in event.tags:
            continue
        if "type" in query and event.persistence_id.split("|")[0] != query["type"]:
            continue
        if "entity" in query and event.persistence_id != query["entity"]:
            continue
        if not int(query.get("since", 0)) <= event.timestamp_us < int(query.get("until", 2**62)):
            continue
        yield event.position


CONDITIONS: list[dict[str, str]] = [
    {"type": "Sensor"},
    {"type": "Nothing"},
    {"tag": "hot"},
    {"topic": "site/7/#"},
    {"topic": "#"},
    {"topic": "site/70"},
    {"tag": "hot", "topic": "site/7/#", "type": "Sensor"},
    {"entity": "Sensor|a", "tag": "hot"},
]


async def test_conditions_give_what_a_look_through_the_whole_log_would(storage: Storage, journal: Journal) -> None:
    log = await filled(storage, journal)
    since, until = log[30].timestamp_us, log[90].timestamp_us
    for times in ({}, {"since": since}, {"until": until}, {"since": since, "until": until}):
        for condition in CONDITIONS:
            query: dict[str, str | int] = {**condition, **times}
            wanted = list(expected(log, query))
            assert await positions(journal, **query) == wanted, query
            for last in (1, 5, 99):
                assert await positions(journal, last=last, **query) == wanted[-last:], (query, last)
    assert await positions(journal, since=since, until=until) == [event.position for event in log[30:90]]
    assert await positions(journal, since=since, until=until, last=3) == [event.position for event in log[87:90]]


async def test_a_time_is_rfc_3339_or_microseconds(storage: Storage, journal: Journal) -> None:
    log = await filled(storage, journal)
    begin = "1970-01-01T00:00:00Z"
    assert len(await positions(journal, since=begin)) == len(log)
    assert await positions(journal, until=begin) == []
    assert await positions(journal, since=log[-1].timestamp_us + 1) == []
    assert await positions(journal, since=log[-1].timestamp_us) == [log[-1].position]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-01-01T03:00:00"}, "until"),
        ({"since": "99999999999999999999"}, "since"),
        ({"topic": "a/#/b"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"tag": ""}, "tag"),
        ({"last": 3, "after": 1, "tag": "x"}, "last"),
        ({"after_seq_nr": 3, "tag": "x", "entity": "A|1"}, "after_seq_nr"),
        ({"typ": "Sensor"}, "typ"),
    ],
)
async def test_what_cannot_be_asked_is_named(query: dict[str, str | int], field: str, journal: Journal) -> None:
    status, answer = await ask(journal, **query)
    assert (status, answer["error"]["code"]) == (400, "http.invalid_request")
    assert answer["error"]["details"]["field"] == field


async def test_a_type_that_cannot_be_one_is_refused(journal: Journal) -> None:
    status, answer = await ask(journal, type="A|b")
    assert (status, answer["error"]["code"]) == (400, "entity.invalid_name")


async def test_the_search_for_the_last_events_is_bounded_and_says_how_far_it_went(
    storage: Storage, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(storage, journal)
    monkeypatch.setattr(reading, "_READS_MAX", 1)
    status, page = await ask(journal, tag="hot", last=50)
    assert (status, page["searched_after"]) == (200, 56)
    assert [event["position"] for event in page["events"]] == [
        event.position
        for event in (await whole_log(journal)).envelopes()
        if "hot" in event.tags and event.position > 56
    ]
    assert (await ask(journal, type="Nothing", last=1))[1]["searched_after"] == 56
