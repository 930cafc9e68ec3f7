"""Each setting of links, waits and leases comes to the parts that obey it, at both services.

The services are started with one value that nothing else has, and what their parts are made with is looked at. A new
setting of this kind must be named here, or the last test fails.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from functools import partial, reduce
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock

import cloud_service.service
import edge_service.service
from cloud_service.settings import CloudSettings
from common.core.events.batch import new_events
from common.core.filters.past import Past
from common.core.journal.append import LocalAppend
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.members import MemoryMembers
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.runtime.environment import Environment
from common.runtime.settings.loading import load as load_settings
from common.transport.stream import PeerGone
from edge_service.settings import EdgeSettings
from tests.support.builders import START_US, ids

_STREAMS = "common.runtime.stream_serving.SourceSettings"
_FOLLOWED = "common.runtime.subscriptions.SubscriptionSettings"
_FOLLOWED_WAIT = "common.runtime.subscriptions.Backoff"
_PUSH = "edge_service.service.PushSettings"
_PUSH_WAIT = "edge_service.service.Backoff"
_EDGE_RANGES = "edge_service.service.ProjectionSettings"
_CLOUD_RANGES = "cloud_service.service.ProjectionSettings"
_ENDPOINT = "cloud_service.service.EndpointSettings"
_EDGE_FEED = "edge_service.service.open_firehose"
_CLOUD_FEED = "cloud_service.service.open_firehose"
_EDGE_COMMIT = "edge_service.service.open_group_commit"
_CLOUD_COMMIT = "cloud_service.service.open_group_commit"
_EDGE_INBOX = "edge_service.service.subscription_routes"
_CLOUD_INBOX = "cloud_service.service.subscription_routes"
_DIAL, _SERVE, _HTTP, _JOURNAL = "dial", "serve_grpc", "serve_http", "open_journal"

BOTH: dict[str, tuple[str, object, list[tuple[str, str]]]] = {
    "heartbeat_s": ("11", 11.0, [(_STREAMS, "heartbeat_s"), (_FOLLOWED, "heartbeat_s")]),
    "progress_timeout_s": ("12", 12.0, [(_STREAMS, "progress_timeout_s"), (_FOLLOWED, "progress_timeout_s")]),
    "window_max_bytes": ("5MiB", 5 << 20, [(_STREAMS, "limits.window_bytes"), (_FOLLOWED, "limits.window_bytes")]),
    "batch_max_bytes": ("3MiB", 3 << 20, [(_STREAMS, "limits.batch_bytes"), (_FOLLOWED, "limits.batch_bytes")]),
    "batch_max_events": ("777", 777, [(_STREAMS, "limits.batch_events"), (_FOLLOWED, "limits.batch_events")]),
    "backoff_min_s": ("0.25", 0.25, [(_FOLLOWED_WAIT, "min_s")]),
    "backoff_max_s": ("77", 77.0, [(_FOLLOWED_WAIT, "max_s")]),
    "connect_timeout_s": ("7", 7.0, [(_DIAL, "connect_timeout_s")]),
    "lease_s": ("16", 16.0, [(_FOLLOWED, "lease_s")]),
    "inbox_max_bytes": ("99KiB", 99 << 10, [(_FOLLOWED, "inbox_max_bytes")]),
    "snapshots_if_behind": ("555", 555, [(_FOLLOWED, "snapshots_if_behind")]),
    "connections_max": ("33", 33, [(_HTTP, "connections_max")]),
    "poll_only": ("true", False, [(_JOURNAL, "notified")]),
}
EDGE: dict[str, tuple[str, object, list[tuple[str, str]]]] = {
    "heartbeat_s": ("11", 11.0, [(_PUSH, "heartbeat_s"), (_EDGE_INBOX, "heartbeat_s")]),
    "progress_timeout_s": ("12", 12.0, [(_PUSH, "progress_timeout_s")]),
    "event_max_bytes": ("500KiB", 500 << 10, [(_PUSH, "limits.event_bytes")]),
    "batch_max_bytes": ("3MiB", 3 << 20, [(_PUSH, "limits.batch_bytes")]),
    "batch_max_events": ("777", 777, [(_PUSH, "batch_max_events")]),
    "window_max_bytes": ("5MiB", 5 << 20, [(_PUSH, "limits.window_bytes")]),
    "window_max_batches": ("5", 5, [(_PUSH, "window_max_batches")]),
    "poll_interval_s": ("0.75", 0.75, [(_PUSH, "poll_interval_s"), (_EDGE_RANGES, "poll_s"), (_EDGE_FEED, "poll_s")]),
    "push_filter": ('[{"exclude_all":true}]', '[{"exclude_all":true}]', [(_PUSH, "own_filter")]),
    "push_history": ("none", Past.NONE, [(_PUSH, "own_past")]),
    "push_snapshots_if_behind": ("666", 666, [(_PUSH, "snapshots_if_behind")]),
    "backoff_min_s": ("0.25", 0.25, [(_PUSH_WAIT, "min_s")]),
    "backoff_max_s": ("77", 77.0, [(_PUSH_WAIT, "max_s")]),
    "lease_s": ("16", 16.0, [(_EDGE_RANGES, "lease_s")]),
    "moderation_s": ("0.007", 0.007, [(_EDGE_COMMIT, "spacing_max_s")]),
    "journal_max_bytes": ("300MiB", 300 << 20, [(_JOURNAL, "max_bytes")]),
    "connections_max": ("33", 33, [(_SERVE, "connections_max")]),
}
CLOUD: dict[str, tuple[str, object, list[tuple[str, str]]]] = {
    "heartbeat_s": ("11", 11.0, [(_ENDPOINT, "heartbeat_s"), (_CLOUD_INBOX, "heartbeat_s")]),
    "progress_timeout_s": ("12", 12.0, [(_ENDPOINT, "progress_timeout_s")]),
    "hello_timeout_s": ("13", 13.0, [(_ENDPOINT, "hello_timeout_s"), (_STREAMS, "hello_timeout_s")]),
    "event_max_bytes": ("500KiB", 500 << 10, [(_ENDPOINT, "limits.event_bytes")]),
    "window_max_bytes": ("5MiB", 5 << 20, [(_ENDPOINT, "limits.window_bytes")]),
    "window_max_batches": ("5", 10_000, [(_ENDPOINT, "limits.window_events")]),
    "batch_max_bytes": ("3MiB", 3 << 20, [(_ENDPOINT, "limits.batch_bytes")]),
    "batch_max_events": ("777", 8 * 777, [(_ENDPOINT, "limits.window_events")]),
    "parked_max_events": ("444", 444, [(_ENDPOINT, "parked_max")]),
    "poll_interval_s": ("0.75", 0.75, [(_CLOUD_RANGES, "poll_s"), (_CLOUD_FEED, "poll_s")]),
    "moderation_s": ("0.007", 0.007, [(_CLOUD_COMMIT, "spacing_max_s")]),
    "projection_ranges": ("4", 4, [(_CLOUD_RANGES, "ranges")]),
    "lease_s": ("16", 16.0, [(_CLOUD_RANGES, "lease_s"), ("cloud_service.service.AssignmentSettings", "lease_s")]),
    "member_lease_s": ("4", 4.0, [("cloud_service.service.MembershipSettings", "lease_s")]),
    "link_age_max_s": ("99", 99.0, [("cloud_service.service.EdgeSpread", "age_max_s")]),
    "links_max": ("33", 33, [(_SERVE, "connections_max")]),
}
# The largest message, at the port of streams and where others are dialled: two windows.
MESSAGES: dict[str, tuple[str, object, list[tuple[str, str]]]] = {
    "window_max_bytes": ("5MiB", 10 << 20, [(_SERVE, "message_max_bytes"), (_DIAL, "message_max_bytes")]),
}
# Ten times, as a backstop.
BACKSTOP: dict[str, tuple[str, object, list[tuple[str, str]]]] = {
    "progress_timeout_s": ("12", 120.0, [(_SERVE, "user_timeout_s"), (_DIAL, "user_timeout_s")]),
}
# Of the fields of these names all must be above.
_KINDS = (
    "heartbeat",
    "timeout",
    "backoff",
    "lease",
    "window_max",
    "batch_max",
    "links",
    "link_age",
    "poll",
    "parked",
    "moderation",
)


def cases() -> list[Any]:
    """Service, setting, text, part, field of the part, value."""
    found = []
    tables = [("edge", EDGE), ("cloud", CLOUD)]
    tables += [(service, table) for service in ("edge", "cloud") for table in (BOTH, MESSAGES, BACKSTOP)]
    for service, table in tables:
        for setting, (text, value, places) in table.items():
            for part, name in places:
                case = f"{service}-{setting}-{part.rpartition('.')[2]}.{name}"
                found.append(pytest.param(service, setting, text, part, name, value, id=case))
    return found


class Parts:
    """What parts were made with, by the part's name: one dictionary of arguments a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
        self.made: dict[str, list[Mapping[str, object]]] = {}
        named = {*more} | {
            part for table in (BOTH, EDGE, CLOUD) for _, _, places in table.values() for part, _ in places
        }
        for part in sorted(one for one in named if "." in one):
            module, _, name = part.rpartition(".")
            original = getattr(importlib.import_module(module), name)
            monkeypatch.setattr(f"{module}.{name}", partial(self._make, part, original))

    def _make(self, part: str, original: Any, /, *args: Any, **named: Any) -> Any:  # noqa: ANN401
        self.note(part, **inspect.signature(original).bind(*args, **named).arguments)
        return original(*args, **named)

    def note(self, part: str, **arguments: object) -> None:
        """One call of ``part``."""
        self.made.setdefault(part, []).append(arguments)

    def environment(self) -> Environment:
        """In which nothing can be reached, and everything is noted."""
        new_id = ids("wired")

        def now_us() -> int:
            return START_US + round(trio.current_time() * 1e6)

        @asynccontextmanager
        async def open_journal(_: object, **named: object) -> AsyncIterator[Journal]:
            self.note(_JOURNAL, **named)
            async with open_memory_journal(MemoryDatabase(), now_us=now_us, new_id=lambda: next(new_id)) as journal:
                yield journal

        @asynccontextmanager
        async def serve(part: str, *_: object, **named: object) -> AsyncIterator[int]:
            self.note(part, **named)
            yield 1

        def dial(_: object, **named: object) -> NoReturn:
            self.note(_DIAL, **named)
            raise PeerGone("link.unreachable", "there is nobody")

        opening: Any = open_journal
        dialling: Any = dial
        serving: Any = serve
        return Environment(
            now_us=now_us,
            new_id=lambda: next(new_id),
            chance=random.Random(1),
            open_journal=opening,
            dial=dialling,
            serve_grpc=partial(serving, _SERVE),
            serve_http=partial(serving, _HTTP),
        )


@pytest.mark.parametrize(("load", "least_s"), [(0.0, 0.0), (1.0, 0.007)])
async def test_a_busy_edge_keeps_commits_apart_and_what_it_pushes_of_them(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, load: float, least_s: float
) -> None:
    parts = Parts(monkeypatch)
    environment = replace(parts.environment(), loop_load=lambda: load)
    given = {"EDGE_ID": "e1", "EDGE_CLOUD": "localhost", "EDGE_MODERATION_S": "0.007"}
    edge = load_settings(EdgeSettings, "EDGE", environ=given).settings
    async with trio.open_nursery() as nursery:
        ports = await nursery.start(edge_service.service.serve, edge, environment, trio.Event())
        await ports.intake.append(LocalAppend(new_events(["Sensor|1"], ["Read"], [b"7"])))
        [made] = parts.made[_PUSH]
        spacing_s: Any = made["spacing_s"]
        assert spacing_s() == least_s
        nursery.cancel_scope.cancel()


async def test_a_busy_cloud_keeps_commits_apart(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    environment = replace(parts.environment(), loop_load=lambda: 1.0)
    cloud = load_settings(CloudSettings, "CLOUD", environ={"CLOUD_INSECURE": "true"}).settings
    async with trio.open_nursery() as nursery:
        await nursery.start(cloud_service.service.serve, cloud, environment, trio.Event())
        [made] = parts.made[_CLOUD_COMMIT]
        load: Any = made["load"]
        assert load() == 1.0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("service", "setting", "text", "part", "name", "value"), cases())
async def test_a_setting_comes_to_where_it_is_obeyed(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    setting: str,
    text: str,
    part: str,
    name: str,
    value: object,
) -> None:
    parts = Parts(monkeypatch)
    given = {"SUBSCRIPTIONS": "orders@localhost:7443", setting.upper(): text}
    if setting == "window_max_bytes":
        given["REQUEST_MAX_BYTES"] = "16MiB"
    await start_and_stop(service, parts, given)
    calls = parts.made[part]
    assert calls
    found = [get(call, name) for call in calls]
    # An edge has two ports, one for programs with bounds of its own.
    assert value in found if part == _SERVE else set(found) == {value}, found


def get(call: Mapping[str, object], name: str) -> object:
    """A part's argument, or a field of one."""
    first, *rest = name.split(".")
    return reduce(getattr, rest, call[first])


async def start_and_stop(service: str, parts: Parts, given: Mapping[str, str]) -> None:
    """Run a service with these settings for a while."""
    prefix = service.upper()
    own = {"ID": "e1", "CLOUD": "localhost", "SERVE": "localhost:7544"} if service == "edge" else {"INSECURE": "true"}
    environ = {f"{prefix}_{key}": text for key, text in {**own, **given}.items()}
    async with trio.open_nursery() as nursery:
        if service == "edge":
            edge = load_settings(EdgeSettings, prefix, environ=environ).settings
            await nursery.start(edge_service.service.serve, edge, parts.environment(), trio.Event())
        else:
            cloud = load_settings(CloudSettings, prefix, environ=environ).settings
            await nursery.start(cloud_service.service.serve, cloud, parts.environment(), trio.Event())
        await trio.sleep(5)
        nursery.cancel_scope.cancel()


_FILE_LEASES: list[tuple[str, str, str, object]] = [
    ("edge", _FOLLOWED, "lease_s", 600.0),
    ("edge", _EDGE_RANGES, "lease_s", 600.0),
    ("cloud", _FOLLOWED, "lease_s", 600.0),
    ("cloud", _CLOUD_RANGES, "lease_s", 600.0),
    ("cloud", "cloud_service.service.AssignmentSettings", "lease_s", 600.0),
    ("cloud", "cloud_service.service.FleetView", "lease_s", 600.0),
    ("cloud", "cloud_service.service.FleetKeeper", "is_alone", True),
    ("cloud", "cloud_service.service.TaskRunner", "is_alone", True),
    ("cloud", "cloud_service.service.CloudRetention", "settings.lease_s", 600.0),
    ("cloud", "cloud_service.service.CloudRetention", "settings.keeps_lease", True),
]


@pytest.mark.parametrize(("service", "part", "name", "value"), _FILE_LEASES)
async def test_nothing_is_written_every_few_seconds_for_what_no_other_process_can_take(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, service: str, part: str, name: str, value: object
) -> None:
    """Where one process has the journal, as a file."""
    monkeypatch.setattr(MemoryMembers, "holds_leases", False)
    parts = Parts(monkeypatch, part)
    await start_and_stop(service, parts, {"SUBSCRIPTIONS": "orders@localhost:7443"})
    assert {get(call, name) for call in parts.made[part]} == {value}


@pytest.mark.parametrize(("settings", "table"), [(EdgeSettings, EDGE), (CloudSettings, CLOUD)])
def test_every_setting_of_the_kind_is_looked_at(settings: type, table: dict[str, object]) -> None:
    named = {field.name for field in fields(settings) if any(kind in field.name for kind in _KINDS)}
    assert named <= BOTH.keys() | table.keys()
