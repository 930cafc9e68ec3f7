"""Edges in the metrics: at most so many, those furthest behind, gone when they have caught up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cloud_service.report import CloudReport
from common.core.flow.measures import CodeCounts
from common.runtime.metrics import MetricsRegistry
from common.transport.push.endpoint_stream import OriginStream


def stream(name: str, behind: int) -> OriginStream:
    return OriginStream(name, 1, "", 0, "resume", head_position=behind, stored_position=0)


def edges_of(streams: list[OriginStream], most: int) -> list[str]:
    unused: Any = SimpleNamespace()
    endpoint: Any = SimpleNamespace(streams=streams, ends=CodeCounts(), parked=CodeCounts())
    report = CloudReport(unused, unused, endpoint, node="n", version="1", now_us=lambda: 0, metrics_edges=most)
    families: Any = MetricsRegistry("b")
    added: dict[str, Any] = {}
    families.gauges = lambda name, text, label, read: added.__setitem__(name, read)
    report.register(families)
    return sorted(added["edge_lag_events"]())


def test_the_edges_furthest_behind_have_series_and_no_others() -> None:
    streams = [stream(f"e{number}", number) for number in range(100)]
    assert edges_of(streams, 3) == ["e97", "e98", "e99"]
    assert edges_of(streams, 0) == []
    for one in streams[1:]:
        one.stored_position = one.head_position
    assert edges_of(streams, 3) == []
