"""The metrics' page: types, labels, histograms; what is no longer read is gone."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.core.flow.measures import CODES_MAX, LATENCY_BOUNDS_S, CodeCounts, LatencyHistogram
from common.runtime.metrics import MetricsRegistry


def page(registry: MetricsRegistry) -> dict[str, str]:
    """Our series with their values."""
    lines = (line for line in registry.exposition().splitlines() if line.startswith("b_"))
    return dict(line.rsplit(" ", 1) for line in lines)


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry("b")


def test_counters_are_counters_and_gauges_are_gauges(registry: MetricsRegistry) -> None:
    registry.counter("x_total", "X.", lambda: 3)
    registry.counters("y_total", "Y.", "code", lambda: {"a.b": 1, "c.d": 2})
    registry.gauge("z", "Z.", lambda: 1.5)
    registry.gauges("s", "S.", "state", lambda: {"up": 1.0})
    registry.build("1.2.3")
    families = {one.name: one.type for one in text_string_to_metric_families(registry.exposition())}
    assert families["b_x"] == families["b_y"] == "counter"
    assert families["b_z"] == families["b_s"] == "gauge"
    found = page(registry)
    assert found["b_x_total"] == "3.0"
    assert found['b_y_total{code="c.d"}'] == "2.0"
    assert found["b_z"] == "1.5"
    assert any(key.startswith("b_build_info{") and 'version="1.2.3"' in key for key in found)


def test_the_process_is_measured_too(registry: MetricsRegistry) -> None:
    text = registry.exposition()
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert f"\n{name} " in text


def test_a_histogram_is_cumulative_and_ends_with_all(registry: MetricsRegistry) -> None:
    latency = LatencyHistogram()
    for seconds in (0.0005, 0.001, 0.0011, 31.0):
        latency.add(seconds)
    registry.histogram("l_seconds", "L.", lambda: latency)
    registry.histograms("m_seconds", "M.", "projection", lambda: {"p": latency.plus(latency)})
    found = page(registry)
    assert found['b_l_seconds_bucket{le="0.001"}'] == "2.0"
    assert found['b_l_seconds_bucket{le="0.0025"}'] == found['b_l_seconds_bucket{le="30.0"}'] == "3.0"
    assert found['b_l_seconds_bucket{le="+Inf"}'] == found["b_l_seconds_count"] == "4.0"
    assert float(found["b_l_seconds_sum"]) == pytest.approx(31.0026)
    assert found['b_m_seconds_count{projection="p"}'] == "8.0"
    assert len([key for key in found if key.startswith("b_l_seconds_bucket")]) == len(LATENCY_BOUNDS_S) + 1


def test_a_series_that_is_no_longer_read_is_gone(registry: MetricsRegistry) -> None:
    edges = {"e1": 5, "e2": 3}
    registry.gauges("edge_lag_events", "Lag.", "edge", lambda: edges)
    assert len(page(registry)) == 2
    del edges["e1"]
    assert list(page(registry)) == ['b_edge_lag_events{edge="e2"}']


def test_a_gauge_without_a_value_has_no_series(registry: MetricsRegistry) -> None:
    registry.gauge("free_bytes", "Free.", lambda: None)
    assert page(registry) == {}


def test_label_values_are_escaped(registry: MetricsRegistry) -> None:
    registry.gauges("x", "A\nB\\", "l", lambda: {'q"\\\n': 0})
    assert 'b_x{l="q\\"\\\\\\n"} 0.0' in registry.exposition()


def test_a_name_is_taken_once(registry: MetricsRegistry) -> None:
    registry.gauge("x", "X.", lambda: 0)
    with pytest.raises(AssertionError):
        registry.gauge("x", "X.", lambda: 0)


def test_codes_are_bounded() -> None:
    counts = CodeCounts()
    for number in range(2 * CODES_MAX):
        counts.add(f"x.c{number}")
    counts.add("x.c0", 4)
    assert len(counts.read()) == CODES_MAX + 1
    assert counts.read()["x.c0"] == 5
    assert counts.read()["other"] == CODES_MAX
    assert counts.total == 2 * CODES_MAX + 4
