"""Edges in the metrics: at most so many, those furthest behind, gone when they have caught up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cloud_service.report import CloudReport
from common.core.events.ids import ALL_SLICES
from common.core.flow.measures import CodeCounts
from common.core.flow.messages import EdgeHealth
from common.core.journal.range_failure import RangeFailure
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.runtime.metrics import MetricsRegistry
from common.transport.push.endpoint_stream import OriginStream
from tests.support.builders import ids


def stream(name: str, behind: int) -> OriginStream:
    return OriginStream(name, 1, "", 0, "resume", head_position=behind, stored_position=0)


def edges_of(streams: list[OriginStream], most: int) -> list[str]:
    return sorted(metrics_of(streams, most)["edge_lag_events"]())


def metrics_of(streams: list[OriginStream], most: int) -> dict[str, Any]:
    unused: Any = SimpleNamespace()
    endpoint: Any = SimpleNamespace(streams=streams, ends=CodeCounts(), parked=CodeCounts())
    report = CloudReport(
        unused,
        unused,
        endpoint,
        node="n",
        version="1",
        now_us=lambda: 0,
        metrics_edges=most,
        count_losses=unused,
    )
    families: Any = MetricsRegistry("b")
    added: dict[str, Any] = {}
    families.gauges = lambda name, text, label, read: added.__setitem__(name, read)
    report.register(families)
    return added


def test_edges_say_their_lag_and_when_their_certificates_run_out() -> None:
    day_us = 86_400 * 1_000_000
    streams = [stream(f"e{number}", number % 2) for number in range(10)]
    for number, one in enumerate(streams[:8]):
        one.health = EdgeHealth(lag_us=2_500_000, lag_bytes=70, certificate_expires_us=(10 - number) * day_us)
    found = metrics_of(streams, 3)
    assert found["edge_certificate_days"]() == {"e7": 3.0, "e6": 4.0, "e5": 5.0}
    assert (found["edge_lag_bytes"]()["e1"], found["edge_lag_seconds"]()["e1"]) == (70, 2.5)
    assert metrics_of([stream("e1", 1)], 3)["edge_lag_seconds"]() == {"e1": 0.0}
    assert metrics_of([stream("e1", 1)], 3)["edge_certificate_days"]() == {}


def test_the_edges_furthest_behind_have_series_and_no_others() -> None:
    streams = [stream(f"e{number}", number) for number in range(100)]
    assert edges_of(streams, 3) == ["e97", "e98", "e99"]
    assert edges_of(streams, 0) == []
    for one in streams[1:]:
        one.stored_position = one.head_position
    assert edges_of(streams, 3) == []


async def test_a_range_that_fails_on_another_node_is_in_the_status() -> None:
    endpoint: Any = SimpleNamespace(queued=0, streams=[])
    async with open_memory_journal(MemoryDatabase(), now_us=lambda: 0, new_id=ids("one").__next__) as journal:
        lease = await journal.projections.acquire("tally", ALL_SLICES, "n2/1", 60)
        assert lease is not None
        await journal.projections.set_failing(
            lease, RangeFailure("projection.handler_failed", "no number", 8, 4, 1_000)
        )
        report = CloudReport(
            journal,
            endpoint,
            endpoint,
            node="n1",
            version="1",
            now_us=lambda: 0,
            metrics_edges=0,
            count_losses=journal.projections.warm_up,
        )
        await report.refresh()
        [shown] = report.status()["projections"]
    assert (shown["node"], shown["error_code"], shown["error"]) == ("n2", "projection.handler_failed", "no number")
    assert (shown["error_position"], shown["attempts"], shown["failing_since_us"]) == (8, 4, 1_000)
